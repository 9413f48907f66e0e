"""The paper's tables and figures from runs of this trainer.

Finished runs, datasets and plans of networks come in; numbers, charts and tables come out.
"""
