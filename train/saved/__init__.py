"""What a run keeps on disk to resume from: its folder and its checkpoints.

``checkpoint`` turns the state of a training into files and back, ``checkpoint_file`` reads
untrusted ones, and ``compatible`` decides whether a run may resume. Start with ``checkpoint``.
"""
