"""Pages that stand alone: one file, no network, light and dark."""
