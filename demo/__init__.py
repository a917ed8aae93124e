"""The demo: the whole loop on this machine, with a real small model and real users' questions. `python -m demo`.

It is: a driver that does what a person would do, through the public objects, the charts, kubectl and `specop`.
It is not: a second way to run anything; no part of specop imports it.
"""
