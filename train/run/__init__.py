"""A training run: settings in, a trained network in a folder out.

``fit`` prepares a run and ``loop`` runs its epochs; ``step`` is one update; ``evaluate`` counts
errors. ``budget`` works out a run's size before it begins. Start with ``fit``.
"""
