"""PURE builders of child objects: models in, dicts out."""
