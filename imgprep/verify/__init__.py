"""Check a finished dataset against its index: a dataset comes in, a list of damage goes out.

Start with ``dataset``: it checks the files beside the shards, and runs ``shard`` on every shard.
"""
