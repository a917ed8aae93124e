"""PURE: observed state in, plan out. No I/O, no clock; the same input gives the same plan."""
