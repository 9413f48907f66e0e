"""What runs the shards of a build: processes here, or a cluster."""
