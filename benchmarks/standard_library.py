"""Contexts of the standard library, cut and parted as the pipeline does it: what several benchmarks sample on."""

import sysconfig
from pathlib import Path

import numpy as np
import polars as pl

from susc_pipeline import corpus, schema, tokens
from susc_pipeline.sampling.observables import Population
from susc_pipeline.tokens import TokenSettings


def contexts(
    tokenizer, settings: TokenSettings, *, n_chains: int, role: str = "directions"
) -> tuple[np.ndarray, Population]:
    """The first shard, and a part of the population for each chain."""
    documents = tokens.tokenize(corpus.python_standard_library(Path(sysconfig.get_path("stdlib"))), tokenizer)
    reserved = tokens.population_contexts(documents, settings, 1, n_chains=n_chains).filter(pl.col("role") == role)
    parts = (reserved.filter(pl.col("chain") == chain) for chain in range(n_chains))
    shard = tokens.contexts_of_shard(documents, settings, 1, "shard-00000", n_chains=n_chains)
    return schema.token_ids(shard), Population(tuple(schema.token_ids(part).astype(np.int32) for part in parts))
