"""Object storage behind one small protocol, and what every process in a pod keeps there.

`stores.open_store` gives a store for a URI; `blobs` holds content-addressed files and manifests; `target` knows the
model that is served; `job` is the shell around every Job's process. Nothing here knows Kubernetes.
"""
