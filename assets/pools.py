"""Concurrency pools: what an asset takes so much of that few may run at once. How many is the instance's affair (dagster.yaml).

Assets in neither stream, or take a shard at a time; only the number of concurrent runs bounds them.
"""

GPU = "gpu"
"""Runs the language model or trains on its device: a machine with a GPU has room for one of these a GPU."""
MEMORY = "memory"
"""Holds the vectors of all tokens, or their graph."""
