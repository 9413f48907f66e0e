"""The dataset on disk: the names of its files, their content, and how they are written and read.

Records come in and become shards with a DALI index; readers get the index, labels and records.
Start reading at ``format``, which declares every name, and at the README beside it; ``encodings``
is where a record encoding is added.
"""
