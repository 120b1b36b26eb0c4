"""A finished run as a folder for others: Parquet tables, export.json and a card. `susc-pipeline export` writes it.

Store.open of susc_pipeline/store.py reads it as it reads the run itself. Neither the model nor a draw is in it. What the card
says is in bundle_card.py.
"""

import dataclasses
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from resources import bundle_card, files, language_model, storage, tables
from resources import experiment as experiments
from resources.files import StoreError
from resources.manifest import Manifest
from susc_pipeline import schema, store, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.messages import plain
from susc_pipeline.store import Store

COPIED = ("clusters", "cluster_labels", "component_table", "vocabulary")
BY_SHARD = ("token_shards", "linear_response", "whitened_susceptibilities")
MEASURED = "ground_truth_susceptibilities"
VECTORS = ("linear_response", "half_a", "half_b")
SOURCES = ("language_model", "corpus_documents")  # named by their digests, not exported
Recorded = dict[tuple[str, str | None], Manifest]


def export(name: str, folder: Path, *, half_precision: bool) -> int:
    """Write the bundle of an experiment into a new or empty folder, and say what it holds; 0.

    Args:
        name: of the experiment, or its TOML file.
        folder: that holds nothing.
        half_precision: whether linear responses are written as float16, not float32.

    Raises:
        ValueError: the folder holds something, an artifact is missing, damaged or of another run, or a value has no float16.
    """
    experiment, place = experiments.load(name), folder.expanduser().absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise StoreError(f"{place} is no empty folder; give a new one")
    source = experiments.store(experiment)
    source.refresh()
    recorded = checked(source, experiment)
    with files.replacing(place) as temporary:
        temporary.mkdir()
        rounding = _write_tables(Store.open(source.root), experiment, temporary, half_precision=half_precision)
        precision = {"precision": "float16" if half_precision else "float32", "largest_rounding_error": rounding}
        content = _content(experiment, recorded, temporary) | precision
        (temporary / "README.md").write_text(bundle_card.text(content, temporary), encoding="utf-8")
        if _manifests(source, experiment) != recorded:
            raise StoreError(f"{source.root} was changed meanwhile; export again")
        (temporary / store.EXPORT).write_text(files.json_text(content), encoding="utf-8")
    total = sum(path.stat().st_size for path in files.files_of(place))
    counts = f"{content['clusters']:,} clusters, {content['tokens']:,} tokens, {total:,} bytes"
    print(f"{plain(str(place))}: {counts}; README.md is its card")
    return 0


def checked(source: storage.Store, experiment: ExperimentConfig) -> Recorded:
    """The manifests of what is exported, whose files are as recorded and made from what the store holds.

    Raises:
        StoreError: one is missing, damaged, or made from what has changed since.
    """
    recorded = _manifests(source, experiment)
    for (asset, shard), found in recorded.items():
        if asset not in SOURCES:
            source.checked(asset, shard)
        for made_from, digest in found.inputs.items():
            if source.checksum(made_from) != digest:
                part = f"{asset} {shard or ''}".strip()
                raise StoreError(
                    f"{part} was made from another {made_from} than the store holds; `susc-pipeline run` makes it again"
                )
    return recorded


def _manifests(source: storage.Store, experiment: ExperimentConfig) -> Recorded:
    shards = tokens.shard_keys(experiment.tokens)
    wanted: list[tuple[str, str | None]] = [(asset, None) for asset in (*SOURCES, *COPIED[:-1], "cluster_members")]
    wanted += [("warehouse", None)]  # the vocabulary is written with it
    wanted += [(asset, shard) for asset in BY_SHARD for shard in shards]
    wanted += [(MEASURED, shard) for shard in tokens.ground_truth_keys(experiment.tokens)]
    found = {key: source.manifest(*key) for key in wanted}
    for (asset, shard), one in found.items():
        if one is None:
            raise StoreError(
                f"{asset} {shard or ''} has not been made; `susc-pipeline run` makes it".replace("  ", " ")
            )
    return {key: one for key, one in found.items() if one is not None}


def _write_tables(run: Store, experiment: ExperimentConfig, place: Path, *, half_precision: bool) -> float:
    """Write every table; the largest rounding error of a linear response, in standard deviations of its component."""
    for asset in COPIED:
        tables.write(pl.read_parquet(run.root / f"{asset}.parquet", glob=False), place / f"{asset}.parquet")
    tables.write(run.members(), place / "cluster_members.parquet")
    vocabulary = pl.read_parquet(run.root / "vocabulary.parquet", glob=False).rename({"text": "token"})
    deviation, worst = run.components()["standard_deviation"].to_numpy(), 0.0
    for asset, shard, frame in _shards(run, experiment):
        if "token_id" in frame.columns:
            frame = frame.join(vocabulary, on="token_id", how="left", maintain_order="left")
        if asset == "linear_response":
            frame, error = _rounded(frame, half_precision=half_precision)
            worst = max(worst, float((error / deviation).max()))
        (place / asset).mkdir(exist_ok=True)
        tables.write(frame, place / asset / f"{shard}.parquet")
    return worst


def _shards(run: Store, experiment: ExperimentConfig) -> Iterator[tuple[str, str, pl.DataFrame]]:
    keys = tokens.shard_keys(experiment.tokens), tokens.ground_truth_keys(experiment.tokens)
    for asset, shards in (*((asset, keys[0]) for asset in BY_SHARD), (MEASURED, keys[1])):
        for shard in shards:
            yield asset, shard, pl.read_parquet(run.root / asset / f"{shard}.parquet", glob=False)


def _rounded(frame: pl.DataFrame, *, half_precision: bool) -> tuple[pl.DataFrame, np.ndarray]:
    """Tokens with vectors of the wanted precision, and the largest change of a linear response of each component."""
    before = {name: schema.matrix(frame[name]) for name in VECTORS}
    made = schema.with_vectors(frame.drop(*VECTORS), half_precision=half_precision, **before)
    change = schema.matrix(made["linear_response"]) - before["linear_response"]
    return made, np.abs(change).max(axis=0, initial=0.0)


def _content(experiment: ExperimentConfig, recorded: Recorded, place: Path) -> dict[str, Any]:
    """What export.json says: counts, settings, the digests of the model and the corpus, and those of the files."""
    settings = dataclasses.asdict(experiment)
    del settings["execution"]
    # A place on this machine is nobody else's business: of a folder or file its name is said.
    if experiment.model.source != "embedded" and language_model.folder_of(experiment.model).is_dir():
        settings["model"]["source"] = Path(experiment.model.source).name
    if experiment.corpus.kind == "files":
        settings["corpus"]["path"] = Path(experiment.corpus.path).name
    model, corpus = (recorded[asset, None] for asset in SOURCES)
    paths = {path.relative_to(place).as_posix(): path for path in files.files_of(place)}
    return {
        "format": store.FORMAT,
        "version": importlib.metadata.version("susc-pipeline"),
        "settings": settings,
        "digest": experiment.digest(),
        "clusters": recorded["clusters", None].rows,
        "components": recorded["component_table", None].rows,
        "documents": corpus.rows,
        "tokens": sum(recorded["linear_response", shard].rows or 0 for shard in tokens.shard_keys(experiment.tokens)),
        "model_sha256": model.sha256,
        "model_files": {Path(name).name: entry.sha256 for name, entry in model.files.items()},
        "corpus_sha256": corpus.sha256,
        "files": {name: files.checksum(path) for name, path in paths.items()},
    }
