"""The job of ``imgprep build-shards``: a scanned source comes in, a finished dataset goes out.

Every shard is a pure function of source, spec and seed: any worker can build it, and an interrupted
build is resumed. Start with ``job``, which runs all stages; ``worker`` builds one shard, ``resume``
and ``state`` say what is done already, ``publish`` writes the statistics and, last, the index.
"""
