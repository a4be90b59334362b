"""Language models: where they come from, what they read and how they write."""
