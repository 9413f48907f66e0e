"""The input of the training: from shards to batches, by DALI."""
