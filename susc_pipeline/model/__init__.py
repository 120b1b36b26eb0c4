"""The language model seen from outside: its components, its residual stream, and the embedded default."""
