"""How a script runs, whatever it does: its recipe, its artifacts, its words, its processes."""
