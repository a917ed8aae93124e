"""Measurements that a person runs; `docs/performance.md` says what they found."""
