"""What GPUs can do, from their vendors' data sheets: dense bfloat16 matrix products, without sparsity."""

DENSE_BFLOAT16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
    "MI355X": 2516e12,
    "MI325X": 1307e12,
    "MI300X": 1307e12,
}
"""FLOP/s by what a device's name contains; the first that fits."""


def known_gpu(name: str) -> str | None:
    """Find a GPU by the name that its driver, or a node's label, gives it."""
    plain = name.replace("-", " ").lower()
    return next((known for known in DENSE_BFLOAT16 if known.lower() in plain), None)
