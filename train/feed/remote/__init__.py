"""Shards of a dataset in an object store, through a size-limited cache on the local disk.

``shards`` decides what is downloaded ahead, ``cache`` keeps it within its limit, and ``download``
gets one shard. Start with ``shards``.
"""
