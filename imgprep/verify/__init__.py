"""Check a finished dataset against its index: a dataset in, a list of damage out.

``dataset`` checks the files beside the shards and runs ``shard`` on each of them. Start with
``dataset``.
"""
