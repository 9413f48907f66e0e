"""Train AlexNet on shards that imgprep built, as the 2012 paper or its source did, or faster.

A prepared dataset comes in; a folder with checkpoints, logs and charts goes out. ``feed`` reads
shards, ``net`` and ``optim`` are the network and its update rule, ``run`` trains, ``saved`` keeps
and resumes runs, and ``show`` draws and measures what was learned. Start reading with ``cli``.
"""
