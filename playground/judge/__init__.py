"""How good an output is, and how sure one can be of that."""
