"""One training run: settings and a dataset come in, a trained network in a folder goes out.

``job`` prepares a run, ``fit`` starts it, ``loop`` runs its epochs, ``step`` makes one update,
``evaluate`` counts errors, ``budget`` computes the size of a run. Start reading with ``fit``.
"""
