"""Made-up shards on disk: activations, linear responses and susceptibilities that are a map of them, of a few documents each."""

from typing import NamedTuple

import numpy as np
import polars as pl

from susc_pipeline import schema

N_PER_DOCUMENT = 50


class MadeUp(NamedTuple):
    """Stored shards by name, scanned, as the assets get them."""

    activations: dict[str, pl.LazyFrame]
    responses: dict[str, pl.LazyFrame]
    susceptibilities: dict[str, pl.LazyFrame]


def write(folder, n_shards, *, n_tokens=400, n_features=24, n_components=6, seed=0):
    """Every shard is drawn by its own generator, so that the first ones are the same however many there are."""
    weights = np.random.default_rng(seed).standard_normal((n_features, n_components))
    found = MadeUp({}, {}, {})
    for number in range(n_shards):
        rng = np.random.default_rng([seed, number])
        x = rng.standard_normal((n_tokens, n_features), dtype=np.float32)
        signal = x @ weights * np.arange(1, n_components + 1)
        halves = [signal + rng.standard_normal(signal.shape) for _ in range(2)]
        columns = {"half_a": halves[0], "half_b": halves[1], "susceptibility": sum(halves) / 2}
        others = [signal + 0.5 * rng.standard_normal(signal.shape) for _ in range(2)]
        responses = {"half_a": others[0], "half_b": others[1], "linear_response": sum(others) / 2}
        keys = pl.DataFrame(
            {
                "context_id": np.arange(n_tokens) // 10 + number * n_tokens,
                "position": np.arange(n_tokens, dtype=np.int32) % 10 + 1,
                "document_id": [f"{number}-{token // N_PER_DOCUMENT}" for token in range(n_tokens)],
                "token_id": np.zeros(n_tokens, np.int32),
            }
        )
        parts = {"activation": x[:, : n_features // 2], "loss_gradient": x[:, n_features // 2 :]}
        frames = {
            "activations": schema.with_vectors(keys, half_precision=True, **parts),
            "responses": schema.with_vectors(keys, **responses),
            "susceptibilities": schema.with_vectors(keys, **columns),
        }
        for kind, frame in frames.items():
            path = folder / f"{kind}-{number:05d}.parquet"
            frame.write_parquet(path)
            getattr(found, kind)[f"shard-{number:05d}"] = pl.scan_parquet(path)
    return found
