"""Train AlexNet from the shards that imgprep wrote: by the paper, by its 2012 source, or faster."""
