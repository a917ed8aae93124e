"""What the server of worker processes imports before it forks them: in memory once, however many there are."""

import specop.data.work  # noqa: F401 - what a worker runs
from specop.data.recognise import load

load()
