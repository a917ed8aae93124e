"""The dataset engine: traffic in, shards of supervised tokens out."""
