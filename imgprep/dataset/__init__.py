"""The dataset on disk: what its files are called, what is in them, how they are written and read.

Records come in and become shards with a DALI index; readers get the index, labels and records back.
Start with ``format``, which declares every name, and the README beside it.
"""
