"""The only importer of the Kubernetes client: apply, create, delete, list; the cache."""
