"""What benchmarks read of the store that a run left: its population, shards, directions and traces. Nothing is written."""

from pathlib import Path

import numpy as np
import polars as pl

from resources import tables
from resources.storage import Store
from susc_pipeline import schema
from susc_pipeline.sampling.observables import Population


def population(store: Store, role: str, n_chains: int, *, limit: int | None = None) -> Population:
    """Contexts of the draws or of the directions, a part for each chain; of each part the first ones."""
    rows = tables.scan(store.table("population_contexts")).filter(pl.col("role") == role).collect()
    parts = (rows.filter(pl.col("chain") == chain).head(limit or rows.height) for chain in range(n_chains))
    return Population(tuple(schema.token_ids(part).astype(np.int32) for part in parts))


def contexts(store: Store, shard: str) -> np.ndarray:
    """Token ids of a shard."""
    return schema.token_ids(tables.scan(store.table("token_shards", shard)).collect())


def truth(store: Store, shard: str) -> pl.DataFrame:
    """Sampled susceptibilities of a shard."""
    return tables.scan(store.table("ground_truth_susceptibilities", shard)).collect()


def folder(store: Store, asset: str, shard: str | None = None) -> Path:
    """Where the files of the components are: in the youngest of the folders that the settings name."""
    found = [path for path in store.path(asset, shard).iterdir() if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime)


def traces(path: Path) -> pl.DataFrame:
    """The table of one component's traces."""
    return tables.scan(path).collect()
