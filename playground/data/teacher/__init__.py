"""A model that writes training data."""
