"""The static site on which clusters are read."""
