# ruff: noqa: INP001 - a file for kopf to load, not a package: it must never shadow the standard library
"""For `kopf run operator/main.py --all-namespaces`: the operator in kopf's own registry."""

import kopf

from specop.operator.main import attach
from specop.operator.settings import load

attach(kopf.get_default_registry(), load())
