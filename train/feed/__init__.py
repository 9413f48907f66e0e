"""From shards to batches of pixels: order, random draws, records, the DALI graph, the loaders."""
