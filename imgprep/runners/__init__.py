"""What runs independent tasks: worker processes here, this process itself, or a Ray cluster.

Tasks and a function that does one of them come in; their results, their progress and their errors
go out, and no task keeps running when the block of a runner is left. Which runner does the work
decides no byte and is not part of a build's identity: another runner may resume the build.
Start with ``runner``, the interface; ``choose`` opens one by its name, ``worker`` runs in a worker.
"""
