"""Assets computed on made-up shards in a process of their own, and the memory that they add to it at its peak."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import psutil

import shards
import toys
from assets import basis, prediction
from assets.partitions import EXPERIMENT
from susc_pipeline import schema
from susc_pipeline.clustering import knn
from susc_pipeline.clustering.knn import KNNSettings
from susc_pipeline.model import families, token_activations
from susc_pipeline.representation import auxiliary, auxiliary_training, moments, whitening

N_TOKENS, N_COLUMNS = 50_000, 64


def predicted(folder: Path, n_shards: int, n_tokens: int = N_TOKENS) -> dict[str, pl.LazyFrame]:
    """Predicted scores of so many shards, on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number in range(n_shards):
        rng = np.random.default_rng(number)
        keys = {
            "context_id": np.arange(n_tokens) // 100 + number * n_tokens,
            "position": np.arange(n_tokens, dtype=np.int32) % 100 + 1,
            "document_id": [f"{number}-{token // 1000}" for token in range(n_tokens)],
            "token_id": np.zeros(n_tokens, np.int32),
            "loss": np.zeros(n_tokens, np.float32),
        }
        values = rng.standard_normal((n_tokens, N_COLUMNS), dtype=np.float32)
        path = folder / f"shard-{number:05d}.parquet"
        schema.with_vectors(pl.DataFrame(keys), prediction=values).write_parquet(path)
        found[path.stem] = pl.scan_parquet(path)
    return found


def pca_basis(folder: Path, n_shards: int) -> Callable[[], object]:
    folder.mkdir(parents=True, exist_ok=True)
    made = shards.write(folder, n_shards, n_tokens=N_TOKENS, n_features=2, n_components=N_COLUMNS)
    return lambda: basis.pca_basis(made.susceptibilities, EXPERIMENT)


def whitening_basis(folder: Path, n_shards: int) -> Callable[[], object]:
    frames = predicted(folder, n_shards)
    return lambda: prediction.whitening_basis(frames, EXPERIMENT)


def whitened_susceptibilities(folder: Path, n_shards: int) -> Callable[[], object]:
    frames = predicted(folder, n_shards)
    first = schema.stack(dict([min(frames.items())]), "prediction")  # all at once would be held before, not at the peak
    fitted = whitening.fit(moments.of(first.values), relative_floor=0.0)

    def run() -> None:
        for name, frame in frames.items():  # a shard is a run of its own; here all are in one process
            made = prediction.whitened_susceptibilities(frame, fitted)
            made.value.write_parquet(folder / f"whitened-{name}.parquet")

    return run


def predicted_susceptibilities(folder: Path, n_shards: int) -> Callable[[], object]:
    """The body of the asset for one shard after another, on a toy model: its own loads the model of the store."""
    folder.mkdir(parents=True, exist_ok=True)
    model = families.from_module(toys.toy_module(vocabulary=2000, positions=128, width=64).requires_grad_(False))
    scorer = auxiliary_training.initialized(
        np.random.default_rng(0).standard_normal((100, 4 * 64), dtype=np.float32),
        np.eye(100, 32),
        256,
        np.random.default_rng(0),
    ).eval()

    def run() -> None:
        for number in range(n_shards):
            ids = toys.toy_tokens(N_TOKENS // 128, 128, 2000, seed=number)
            found = token_activations.activations(model, ids, layers=(1, 2, 3))
            inputs = np.concatenate([found.features, found.loss_gradients], axis=1)
            np.save(folder / f"{number}.npy", auxiliary.predict(scorer, inputs))

    return run


def knn_graph(folder: Path, n_shards: int) -> Callable[[], object]:
    frames = predicted(folder, n_shards, n_tokens=2000)
    settings, rng = KNNSettings(backend="exact"), np.random.default_rng(0)
    return lambda: knn.knn_graph(schema.stack(frames, "prediction").values, settings, rng)


def added_mebibytes(asset: str, n_shards: int, folder: Path) -> float:
    """Peak above what the process had once everything was loaded and one shard had been computed to warm up."""
    make = globals()[asset]
    make(folder / "warm", 1)()
    run = make(folder / "shards", n_shards)
    before, seen, done = psutil.Process().memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return round((max(seen) - before) / 2**20, 1)
