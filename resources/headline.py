"""Headline figures of a finished run, each from a stored table or a benchmark's result; how they are written is in report.py."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from resources import tables
from resources.storage import Store
from susc_pipeline import schema, tokens
from susc_pipeline.clustering import controls
from susc_pipeline.config import ExperimentConfig

REPRODUCIBLE = 0.5  # reproducibility from which on both halves find a cluster again: a Jaccard index of one half
ONE_TOKEN = 0.95  # share of a cluster's members of one token from which on the token says it


class Figure(NamedTuple):
    """One line of the report."""

    name: str
    """What is measured, the parts of the value divided by semicolons."""
    value: str
    """As it is printed, rounded, intervals in brackets."""
    varies: bool = False
    """Whether a second run of the same settings gives another value."""


def figures(store: Store, experiment: ExperimentConfig, results: Path) -> list[Figure]:
    """All figures that the store and the folder of benchmark results hold; those of optional tables where they were made.

    Raises:
        StoreError: a table of the run is missing or damaged.
    """
    found = [
        *_sizes(store, experiment),
        *_reliability(store, experiment),
        *_predictions(store),
        *_negative_control(store),
    ]
    return [*found, *_clusters(store), *_controls(store), *_seconds(store), *_speed(results)]


def table(store: Store, asset: str) -> pl.DataFrame:
    """A stored table, its files as the manifest records them.

    Raises:
        StoreError: it is missing or damaged.
    """
    store.checked(asset)
    return tables.scan(store.table(asset)).collect()


def shards(store: Store, asset: str, names: list[str], columns: list[str]) -> pl.DataFrame:
    """Columns of some shards of an asset, their files as the manifests record them.

    Raises:
        StoreError: a shard is missing or damaged.
    """
    for shard in names:
        store.checked(asset, shard)
    return pl.concat([tables.scan(store.table(asset, shard)).select(columns) for shard in names]).collect()


def decimal(value: float, digits: int = 2) -> str:
    """A number with so many digits behind the point, and no zero before it: .92, −.03, 1.00."""
    shown = f"{value:.{digits}f}".replace("-", "−")
    return shown.replace("0.", ".", 1) if shown.lstrip("−").startswith("0.") else shown


def interval(low: float, high: float) -> str:
    """Both ends in brackets."""
    return f"({decimal(low)}–{decimal(high)})"


def _sizes(store: Store, experiment: ExperimentConfig) -> Iterator[Figure]:
    names, settings = tokens.shard_keys(experiment.tokens), experiment.tokens
    sampled = names[: settings.n_ground_truth_shards]
    withheld = sampled[len(sampled) - settings.n_validation_shards :]
    n_all, n_sampled, n_withheld = (
        sum(store.checked(asset, shard, thorough=False).rows or 0 for shard in some)
        for asset, some in (
            ("linear_response", names),
            ("ground_truth_susceptibilities", sampled),
            ("ground_truth_susceptibilities", withheld),
        )
    )
    components = table(store, "component_table").height
    value = f"{components}; {n_sampled:,} ({n_withheld:,}); {n_all:,}"
    yield Figure("components; tokens sampled (of them withheld); tokens measured and clustered", value)


def _reliability(store: Store, experiment: ExperimentConfig) -> Iterator[Figure]:
    halves = shards(store, "linear_response", tokens.shard_keys(experiment.tokens), ["half_a", "half_b"])
    a, b = (schema.matrix(halves[name]).astype(np.float64) for name in ("half_a", "half_b"))
    linear = np.array([np.corrcoef(a[:, number], b[:, number])[0, 1] for number in range(a.shape[1])])
    whole = 2 * linear / (1 + linear)  # Spearman and Brown, as susceptibility/reliability.py
    yield Figure(
        "reliability of linear responses, by component: mean; least", f"{decimal(whole.mean())}; {decimal(whole.min())}"
    )
    sampled = table(store, "reliability").filter(pl.col("kind") == "component")
    least = sampled.sort("reliability").row(0, named=True)
    value = f"{decimal(least['reliability'])} {interval(least['low'], least['high'])}, {least['name']}"
    yield Figure(
        "reliability of sampled susceptibilities, by component: mean; least",
        f"{decimal(_mean(sampled, 'reliability'))}; {value}",
    )
    value = f"{decimal(linear.mean())}; {decimal(_mean(sampled, 'half_correlation'))}"
    yield Figure("mean r of two halves that share nothing: linear responses; sampled", value)


def _predictions(store: Store) -> Iterator[Figure]:
    found = table(store, "aux_correlation")

    def shown(r: str, low: str, high: str) -> str:
        return f"{decimal(_mean(found, r))} {interval(_mean(found, low), _mean(found, high))}"

    linear = shown("linear_response_r", "linear_response_low", "linear_response_high")
    yield Figure(
        "mean r per PC with withheld susceptibilities: linear response; its ceiling",
        f"{linear}; {decimal(_mean(found, 'ceiling'))}",
    )
    yield Figure("the same: auxiliary model, which predicts from activations", shown("r", "low", "high"))


def _negative_control(store: Store) -> Iterator[Figure]:
    if not store.table("negative_control").is_file() or not (found := table(store, "negative_control")).height:
        return
    ranges = [
        f"{decimal(found[name].min())}–{decimal(found[name].max())}"  # pyright: ignore[reportArgumentType]
        for name in ("disattenuated", "slope")
    ]
    yield Figure(
        "change of the excess loss over n_beta × susceptibility: r without noise; slope",
        f"{'; '.join(ranges)} ({found.height} components)",
    )


def _clusters(store: Store) -> Iterator[Figure]:
    found = table(store, "clusters").join(table(store, "cluster_labels"), on="cluster", validate="1:1")
    of_one = found.select((pl.col("token_members").list.max() / pl.col("size") >= ONE_TOKEN).mean()).item()
    yield Figure(
        f"clusters; tokens in them; clusters of at least {ONE_TOKEN:.0%} one token".replace("%", " %"),
        f"{found.height}; {found['size'].sum():,}; {of_one:.0%}".replace("%", " %"),
    )
    compared = table(store, "cluster_reproducibility").filter(first="half a", second="half b")
    real, chance = (compared.filter(is_chance=flag)["first_matched"].item() for flag in (False, True))
    again = found.filter(pl.col("reproducibility") >= REPRODUCIBLE)
    yield Figure(
        "clusters of half a found by half b; by chance; clusters of all chains that both halves find",
        f"{decimal(real)}; {decimal(chance)}; {again.height} of {found.height}",
    )
    yield Figure(
        "of those that both halves find: scored on other documents; said better by a rule than by the token",
        f"{again['gain'].count()}; {(again['gain_low'] > 0).sum()}",
    )


def _controls(store: Store) -> Iterator[Figure]:
    if not store.table("cluster_controls").is_file():
        return
    made, found = table(store, "cluster_controls"), table(store, "cluster_control_matches")
    others = made.filter(pl.col("knows") != controls.SUSCEPTIBILITIES)["control"]
    again = table(store, "clusters").filter(pl.col("reproducibility") >= REPRODUCIBLE)["cluster"]
    matched = found.filter(pl.col("control").is_in(others.to_list()) & (pl.col("jaccard") >= REPRODUCIBLE))
    by_any = matched.filter(pl.col("cluster").is_in(again.to_list()))["cluster"].n_unique()
    yield Figure(
        "of those that both halves find: found without susceptibilities, by any control; controls",
        f"{by_any}; {len(others)}",
    )


def _seconds(store: Store) -> Iterator[Figure]:
    largest = sorted(store.seconds().items(), key=lambda item: -item[1])[:4]
    if largest:
        value = ", ".join(f"{name} {seconds:.0f}" for name, seconds in largest)
        yield Figure("seconds of the largest assets, beside other work", value, varies=True)


def _speed(results: Path) -> Iterator[Figure]:
    path = results / "bergson.json"
    if path.is_file():
        said = json.loads(path.read_bytes())
        low, high = said["speedup_range"]
        yield Figure(
            "token scores a second beside bergson, same values (`make bench-bergson`)",
            f"{said['speedup']:.1f} times ({low:.1f}–{high:.1f}), {said['threads']} thread",
        )


def _mean(frame: pl.DataFrame, name: str) -> float:
    return float(frame[name].to_numpy().mean())
