"""The only importer of kopf: wiring, settings, metrics, probes."""
