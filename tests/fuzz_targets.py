"""Every reader of outside data with a whole file for it to start from: what tests/fuzz/fuzz.py fuzzes."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import zstandard
from scipy import sparse

import toys
from hostile import obeys
from resources import experiment_files, tables
from resources.manifest import FileRecord, Manifest
from resources.storage import Store
from susc_pipeline import arrays, corpus
from susc_pipeline.clustering import knn
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import pretrained, tiny
from susc_pipeline.representation import auxiliary, auxiliary_training, moments, pca, whitening

RECORDS = b'{"text": "plain"}\n{"text": "\xc2\xab\xc3\xa9\xc2\xbb"}\n'
MANIFEST = Manifest(
    "pca_basis", None, "1-ab", "ab", {"aux_model": "ab"}, {"pca_basis/config.json": FileRecord(9, "ab")}, None
)


class Target(NamedTuple):
    """The file that is fuzzed, what makes the folder in which it lies, and what reads it there."""

    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def make_model(folder: Path) -> None:
    toys.toy_module(vocabulary=300, positions=16).save_pretrained(folder)
    tiny.train_tokenizer(["if x: return value"], vocabulary_size=300).save_pretrained(folder)


def make_basis(folder: Path) -> None:
    pca.save(pca.fit(moments.of(np.random.default_rng(0).standard_normal((20, 3)))), folder)


def make_whitening(folder: Path) -> None:
    found = moments.of(np.random.default_rng(0).standard_normal((20, 3)))
    whitening.save(whitening.fit(found, relative_floor=0.0), folder)


def make_graph(folder: Path) -> None:
    graph = sparse.random_array((9, 9), density=0.3, rng=np.random.default_rng(0), dtype=np.float32).tocsr()
    knn.save(graph, folder)


def make_auxiliary(folder: Path) -> None:
    auxiliary.save(auxiliary_training.initialized(np.ones((4, 3)), np.eye(4, 2), 2, np.random.default_rng(0)), folder)


def parquet(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


def read_corpus(name: str) -> Callable[[Path], object]:
    return lambda folder: corpus.table(corpus.local_files(folder / name))


def read_model(folder: Path) -> object:
    return pretrained.load(folder, device="cpu")


TABLE = parquet(pl.DataFrame({"text": ["plain", "«é»"]}))
TARGETS = {
    "experiment": Target(
        "tiny.toml",
        write("tiny.toml", (experiment_files.EXPERIMENTS / "tiny.toml").read_bytes()),
        lambda folder: ExperimentConfig.from_toml(folder / "tiny.toml").digest(),
    ),
    "text": Target("a.txt", write("a.txt", b"plain \xc2\xab"), read_corpus("a.txt")),
    "records": Target("a.jsonl", write("a.jsonl", RECORDS), read_corpus("a.jsonl")),
    "gzip": Target("a.jsonl.gz", write("a.jsonl.gz", gzip.compress(RECORDS)), read_corpus("a.jsonl.gz")),
    "zstd": Target("a.jsonl.zst", write("a.jsonl.zst", zstandard.compress(RECORDS)), read_corpus("a.jsonl.zst")),
    "corpus_parquet": Target("a.parquet", write("a.parquet", TABLE), read_corpus("a.parquet")),
    "table": Target("a.parquet", write("a.parquet", TABLE), lambda folder: tables.scan(folder / "a.parquet")),
    "config": Target("config.json", make_model, read_model),
    "weights": Target("model.safetensors", make_model, read_model),
    "tokenizer": Target("tokenizer.json", make_model, read_model),
    "manifest": Target(
        "pca_basis.manifest.json",
        lambda folder: MANIFEST.write(folder / "pca_basis.manifest.json"),
        lambda folder: Store(folder).manifest("pca_basis"),
    ),
    "basis": Target("basis.safetensors", make_basis, pca.load),
    "basis_config": Target("config.json", make_basis, pca.load),
    "whitening": Target("config.json", make_whitening, whitening.load),
    "auxiliary": Target("model.safetensors", make_auxiliary, auxiliary.load),
    "graph": Target("graph.safetensors", make_graph, knn.load),
    "arrays": Target("graph.safetensors", make_graph, lambda folder: arrays.read(folder / "graph.safetensors")),
}


def holds(target: Target, folder: Path, content: bytes) -> object:
    """What is read where the target's file has this content; nothing where it is refused as it should be."""
    (folder / target.file).write_bytes(content)
    return obeys(lambda: target.read(folder), str(folder))
