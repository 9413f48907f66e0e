"""What a run leaves on disk to resume from: checkpoints and the run's folder.

``checkpoint`` turns the state of a training into files and back, ``checkpoint_file`` reads
untrusted ones, and ``compatible`` decides whether a run may resume. Start with ``checkpoint``.
"""
