"""The join of all checkpoints: every table of the development, and the counts that its summary states."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int

from susc_pipeline.clustering import reproducibility
from susc_pipeline.development import axes, changed_tokens, lineages, measured, trajectories
from susc_pipeline.development.measured import Checkpoint
from susc_pipeline.development.token_clusters import Found
from susc_pipeline.model.components import Component
from susc_pipeline.schema import development_tables

LEVEL = 0.05
N_TOKENS_SHOWN = 5  # of a cluster: its commonest
N_CHANGED = 20  # tokens of each pair of checkpoints
N_BEFORE = 12  # tokens of text before one that is shown


class Tokens(NamedTuple):
    """The measured tokens, in the order of every checkpoint's rows."""

    keys: pl.DataFrame
    """`context_id`, `position` and `token_id`."""
    texts: list[str]
    """Readable text of each token id."""

    @property
    def ids(self) -> Int[np.ndarray, " tokens"]:
        """Token id of each."""
        return self.keys["token_id"].to_numpy().astype(np.int64)


def join(
    checkpoints: Sequence[Checkpoint],
    components: Sequence[Component],
    found: Sequence[Found | None],
    tokens: Tokens,
    rng: np.random.Generator,
) -> dict[str, pl.DataFrame]:
    """Every table of the development by name; columns are in schema/development_tables.py.

    Args:
        checkpoints: as `measured.check_alike` passes them.
        components: in the order of every vector over components.
        found: axes and clusters of each checkpoint; None where no axis is reliable: its neighbours are then joined to each other.
        tokens: that were measured.
        rng: of the permutations that give chance levels.
    """
    names = [component.name for component in components]
    heads = [number for number, component in enumerate(components) if component.kind == "head"]
    layers = np.array([components[head].layer for head in heads], np.int64)
    with_axes = [(one.step, its) for one, its in zip(checkpoints, found, strict=True) if its is not None]
    steps, kept = [step for step, _ in with_axes], [its for _, its in with_axes]
    return {
        "components": measured.component_table(checkpoints, components),
        "changes": trajectories.change_table(checkpoints, names),
        "heads": trajectories.head_table(checkpoints, heads, layers),
        "separations": trajectories.separation_table(checkpoints, heads, names),
        "axes": _axes(steps, kept, rng),
        "clusters": _clusters(steps, kept, tokens),
        "matches": _matches(steps, kept, tokens, rng),
        "tokens": _tokens(checkpoints, tokens),
    }


def _axes(steps: Sequence[int], found: Sequence[Found], rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for place in range(len(found) - 1):
        first, second = (one.basis.components for one in found[place : place + 2])
        pairs, by_chance = axes.matched(first, second), axes.chance(first, second, rng)
        for rank, (own, other, cosine) in enumerate(zip(*pairs, strict=True)):
            level = by_chance[:, rank]
            high = float(np.quantile(level, 1 - LEVEL))
            rows.append((steps[place], steps[place + 1], own + 1, other + 1, float(cosine), float(level.mean()), high))
    return pl.DataFrame(rows, schema=development_tables.DEVELOPMENT_AXES, orient="row")


def _clusters(steps: Sequence[int], found: Sequence[Found], tokens: Tokens) -> pl.DataFrame:
    table = lineages.table([one.labels for one in found])
    again = [
        reproducibility.reproducibility(
            one.labels, one.half_a, one.half_b, n_clusters=lineages.n_clusters(one.labels)
        ).tolist()
        for one in found
    ]
    ids = tokens.ids
    commonest = [
        _commonest(ids[found[place].labels == cluster], tokens.texts)
        for place, cluster in table.select("place", "cluster").iter_rows()
    ]
    columns = {
        "step": [steps[place] for place in table["place"]],
        "half_jaccard": [value for values in again for value in values],
        "tokens": commonest,
    }
    series = [pl.Series(name, values) for name, values in columns.items()]
    chosen = table.with_columns(series).select(*development_tables.DEVELOPMENT_CLUSTERS)
    return chosen.cast(development_tables.DEVELOPMENT_CLUSTERS)


def _commonest(ids: Int[np.ndarray, " members"], texts: list[str]) -> str:
    counts = Counter(ids.tolist()).most_common(N_TOKENS_SHOWN)
    return "  ".join(f"{texts[token]}×{count}" for token, count in counts)


def _matches(steps: Sequence[int], found: Sequence[Found], tokens: Tokens, rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for place in range(len(found) - 1):
        first, second = (one.labels for one in found[place : place + 2])
        n_matched = int((lineages.continued(first, second).partner >= 0).sum())
        by_chance = lineages.by_chance(first, second, tokens.ids, rng)
        counts = lineages.n_clusters(first), lineages.n_clusters(second), n_matched
        high = float(np.quantile(by_chance, 1 - LEVEL))
        rows.append((steps[place], steps[place + 1], *counts, float(by_chance.mean()), high))
    return pl.DataFrame(rows, schema=development_tables.DEVELOPMENT_MATCHES, orient="row")


def _tokens(checkpoints: Sequence[Checkpoint], tokens: Tokens) -> pl.DataFrame:
    rows = []
    keys, ids = tokens.keys.select("context_id", "position").rows(), tokens.ids.tolist()
    for first, second in itertools.pairwise(checkpoints):
        changed = changed_tokens.change(first, second)
        largest = np.argsort(-changed, kind="stable")[:N_CHANGED]
        for row in largest[changed[largest] > 0].tolist():
            text = (tokens.texts[ids[row]], _before(row, tokens))
            losses = float(first.losses[row]), float(second.losses[row])
            rows.append((first.step, second.step, *keys[row], *text, float(changed[row]), *losses))
    return pl.DataFrame(rows, schema=development_tables.DEVELOPMENT_TOKENS, orient="row")


def _before(row: int, tokens: Tokens) -> str:
    """Text of the measured tokens before one, in its context."""
    n_before = min(N_BEFORE, int(tokens.keys["position"][row]) - 1)
    return "".join(tokens.texts[token] for token in tokens.ids[row - n_before : row].tolist())


def summary(
    tables: dict[str, pl.DataFrame], found: Sequence[Found | None], mean_losses: Sequence[float]
) -> dict[str, Any]:
    """The counts of the development, as JSON holds them: for each checkpoint, for each pair of neighbours, and overall.

    A checkpoint without a reliable axis has 0 `pcs`, no count of clusters and no pair.
    """
    by_step = tables["components"].partition_by("step", maintain_order=True)
    heads, clusters = tables["heads"], tables["clusters"]
    rows = []
    for number, part in enumerate(by_step):
        step = part["step"][0]
        own, its = clusters.filter(step=step), found[number]
        n_found_again = int((own["half_jaccard"] >= 0.5).sum())
        rows.append(
            {
                "step": step,
                "mean_loss": float(mean_losses[number]),
                "mean_reliability": part["reliability"].mean(),
                "least_reliability": part["reliability"].min(),
                "pcs": 0 if its is None else len(its.basis.components),
                "clusters": None if its is None else own.height,
                "clusters_both_halves_find": None if its is None else n_found_again,
                "born": _count(own["is_born"]),
                "dead": _count(own["is_dead"]),
                "heads": {row.pop("scope"): row for row in heads.filter(step=step).drop("step").to_dicts()},
            }
        )
    separated = tables["separations"].filter(pl.col("p_adjusted") < LEVEL)
    changed = tables["changes"].filter(pl.col("p_adjusted") < LEVEL)
    return {
        "checkpoints": rows,
        "pairs": _pairs(tables, [its for its in found if its is not None]),
        "level": LEVEL,
        "separated": {str(step): names for step, names in _by_step(separated)},
        "changed": {str(step): names for step, names in _by_step(changed)},
    }


def _pairs(tables: dict[str, pl.DataFrame], found: Sequence[Found]) -> list[dict[str, Any]]:
    """Of neighbouring checkpoints: clusters that continue, axes closer than 95 % of chance, and the shared subspace."""
    rows = []
    for pair, (first, second) in zip(tables["matches"].to_dicts(), itertools.pairwise(found), strict=True):
        own = tables["axes"].filter(step=pair["step"])
        shared, by_chance = axes.shared_subspace(first.basis.components, second.basis.components)
        n_close = int((own["cosine"] > own["chance_high"]).sum())
        rows.append({**pair, "axes": own.height, "axes_above_chance": n_close, "mean_cosine": own["cosine"].mean()})
        rows[-1] |= {
            "mean_cosine_by_chance": own["chance"].mean(),
            "subspace_shared": shared,
            "subspace_by_chance": by_chance,
        }
    return rows


def _count(values: pl.Series) -> int | None:
    """How many are true; none where nobody could know, at the first or last checkpoint."""
    return None if values.null_count() == len(values) else int(values.sum())


def _by_step(table: pl.DataFrame) -> list[tuple[int, list[str]]]:
    grouped = table.group_by("step", maintain_order=True).agg("component").sort("step")
    return [(step, names) for step, names in grouped.iter_rows()]
