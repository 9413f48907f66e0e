"""Shards of a dataset in an object store, through a size-limited cache on the local disk.

In: the shards in the order in which they will be read. Out: descriptors of local files with the
same bytes. Start with ``shards`` (what is downloaded ahead), then ``cache`` (which shards are kept)
and ``download`` (one shard, checked by its hash).
"""
