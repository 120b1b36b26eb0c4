"""Reads what was measured at each checkpoint, and writes the tables, the summary and the page of the development."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from resources import experiment_files, files, tables
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.development import development_page, joined, token_clusters
from susc_pipeline.development.joined import Tokens
from susc_pipeline.development.measured import Checkpoint, check_alike
from susc_pipeline.development.token_clusters import ClusterSettings, Found
from susc_pipeline.model import components, pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.susceptibility import direction_files, regime
from susc_pipeline.tokens import shard_keys

PAGE = "page"
CLUSTERINGS = ("labels", "half_a", "half_b")


def read(step: int, experiment: ExperimentConfig, store: Store, model: Decoder) -> tuple[Checkpoint, pl.DataFrame]:
    """What was measured at a checkpoint, and the keys of its tokens.

    Raises:
        ValueError: directions of another model, or damaged ones.
        StoreError: a table is missing.
    """
    chosen = components.chosen(model, experiment.model.components)
    frames = [tables.scan(store.table("linear_response", shard)).collect() for shard in shard_keys(experiment.tokens)]
    frame = pl.concat(frames)
    folder, digest = _directions(store), direction_files.model_digest(model)
    chains, probes, localizations = [], [], []
    for component in chosen:
        place = folder / f"{component.name}{direction_files.SUFFIX}"
        stored = direction_files.load(place, model, component, digest=digest)
        found = direction_files.diagnostics(place)
        settings = experiment.sampling.at(stored.localization)
        chains.append(settings.n_beta * regime.rises(found, settings).mean(axis=1))
        probes.append(found.rest_slopes + found.rise_slopes)
        localizations.append(stored.localization)
    halves = {name: schema.matrix(frame[name]) for name in ("half_a", "half_b")}
    one = Checkpoint(
        step,
        frame["loss"].to_numpy(),
        **halves,
        chain_llc=np.stack(chains, axis=1),
        probe=np.stack(probes),
        localization=np.array(localizations),
    )
    return one, frame.select("context_id", "position", "token_id")


def _directions(store: Store) -> Path:
    """The youngest of the folders of directions that settings name."""
    return max((one for one in store.path("response_directions").iterdir() if one.is_dir()), key=_changed)


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def write(experiments: Mapping[int, Path], folder: Path, *, sentences: Sequence[str] = ()) -> dict[str, Any]:
    """Write a table a name, `development.<name>.parquet`, and the page; the summary.

    Args:
        experiments: the TOML file of each checkpoint, by step.
        folder: of the stores of all checkpoints, where the tables go too.
        sentences: on checkpoints that were left out.

    Raises:
        ValueError: checkpoints that do not belong together, or at which a component's response does not vary.
    """
    measured, all_keys, model_of_last = [], [], None
    settings = None
    for step, path in sorted(experiments.items()):
        settings = ExperimentConfig.from_toml(experiment_files.path_of(str(path)))
        store = Store(folder / settings.name)
        model_of_last = pretrained.load(store.path("language_model"), device="cpu")
        one, keys = read(step, settings, store, model_of_last.model)
        measured.append(one)
        all_keys.append(keys)
    if settings is None or model_of_last is None or any(not keys.equals(all_keys[0]) for keys in all_keys):
        raise ValueError("the checkpoints have other tokens; measure them by experiments that only differ in the model")
    model, tokenizer = model_of_last
    tokens = Tokens(all_keys[0], pretrained.token_texts(tokenizer, model.vocabulary_size))
    chosen = components.chosen(model, settings.model.components)
    check_alike(measured, [component.name for component in chosen])
    found = [_found(one, _cluster_settings(settings), folder) for one in measured]
    rng = np.random.default_rng(seeds.sequence(settings.seed, "development"))
    made = joined.join(measured, chosen, found, tokens, rng)
    for name, table in made.items():
        tables.write(table, folder / f"development.{name}.parquet")
    summary = joined.summary(made, found, [float(one.losses.mean()) for one in measured])
    left_out = [*sentences, *_without_axes(measured, found, settings.representation.min_reliability)]
    summary = {"tokens": tokens.keys.height, "left_out": left_out, **summary}
    with files.replacing(folder / PAGE) as place:
        development_page.save(place, made, summary, _described(chosen), n_chains=settings.sampling.n_chains)
    return summary


def _found(one: Checkpoint, settings: ClusterSettings, folder: Path) -> Found | None:
    """Axes and clusters of a checkpoint; clusters that were found before, by the same values and settings, are read.

    None where no axis is reliable enough to look for clusters.
    """
    basis = token_clusters.reliable_basis(one, settings.representation)
    if basis is None:
        return None
    content = b"".join([one.half_a.tobytes(), one.half_b.tobytes(), repr(settings).encode()])
    place = folder / "clusters" / f"step-{one.step}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    if not place.is_file():
        found = token_clusters.find(one, basis, settings)
        place.parent.mkdir(exist_ok=True)
        tables.write(pl.DataFrame({name: getattr(found, name) for name in CLUSTERINGS}), place)
    stored = tables.scan(place).collect()
    return Found(basis, **{name: stored[name].to_numpy().astype(np.int64) for name in CLUSTERINGS})


def _without_axes(measured: Sequence[Checkpoint], found: Sequence[Found | None], least: float) -> list[str]:
    """A sentence on each checkpoint that has neither axes nor clusters."""
    return [
        f"At step {one.step} no principal axis reaches representation.min_reliability ({least:g}), so its axes and clusters are "
        f"left out; raise directions.max_contexts."
        for one, its in zip(measured, found, strict=True)
        if its is None
    ]


def _cluster_settings(settings: ExperimentConfig) -> ClusterSettings:
    return ClusterSettings(settings.representation, settings.knn, settings.clustering, settings.seed)


def _described(chosen: Sequence[Component]) -> list[dict[str, Any]]:
    """Each component as the explorer's pictures read it."""
    is_layered = {"head": (True, True), "key_value": (True, True), "mlp": (True, False)}
    rows = []
    for one in chosen:
        has_layer, has_head = is_layered.get(one.kind, (False, False))
        layer, head = one.layer if has_layer else None, one.head if has_head else None
        rows.append({"name": one.name, "kind": one.kind, "layer": layer, "head": head})
    return rows


def lines(summary: Mapping[str, Any]) -> list[str]:
    """The figures, a line each."""
    found = [
        f"step={row['step']} loss={row['mean_loss']:.3f} reliability={row['mean_reliability']:.2f} (least "
        f"{row['least_reliability']:.2f}) {_heads(row['heads'])}; {_clusters(row)}"
        for row in summary["checkpoints"]
    ]
    found += [
        f"{pair['step']}->{pair['next_step']}: {pair['matched']} clusters continue, by chance "
        f"{pair['matched_by_chance']:.1f}; axes: mean |cosine| {pair['mean_cosine']:.2f}, by chance "
        f"{pair['mean_cosine_by_chance']:.2f}"
        for pair in summary["pairs"]
    ]
    return found + [f"{part}_minutes={value / 60:.1f}" for part, value in summary.get("seconds", {}).items()]


def _clusters(row: Mapping[str, Any]) -> str:
    if not row["pcs"]:
        return "no reliable axis, so no clusters"
    return f"pcs {row['pcs']}; clusters {row['clusters']} (both halves {row['clusters_both_halves_find']})"


def _heads(scopes: Mapping[str, Mapping[str, float]]) -> str:
    if not scopes:
        return "heads: fewer than two, so none is compared"
    parts = [
        f"{scope}: spread {row['spread']:.2f}, noise {row['noise']:.2f}, p {row['p_adjusted']:.2g}"
        for scope, row in scopes.items()
    ]
    return f"heads: mean LLC {next(iter(scopes.values()))['mean_llc']:.2f}, " + ", ".join(parts)
