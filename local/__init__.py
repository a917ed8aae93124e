"""A small, real Kubernetes on one machine, without Docker and without a registry.

It is: the tools behind `python -m local` (see README.md) and the Python API that the demo and the tests use.
It is not: part of the `specop` package, nor a way to run production. It uses the standard library alone, because it
has to run before any environment exists: it makes the environment.
"""
