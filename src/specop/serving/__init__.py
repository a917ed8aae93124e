"""What lives in or beside vLLM: fetch, capture, readiness, and the inspect Job."""
