"""The objects of specop as pydantic models, and what is generated from them. No clock; only `crdgen` touches files."""
