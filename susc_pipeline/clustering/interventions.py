"""Does a cluster's profile say what happens to its tokens when a component is changed? Pairs of tokens, and correlations.

A cluster is held against its component: that to which its mean response is strongest. Each member is paired with a token
outside the cluster of the same string and the nearest loss, so that neither the string nor an already high loss can make the
difference. Whether the difference of the responses predicts that of the loss changes is a correlation over clusters; its
null permutes the clusters. The losses are measured in model/intervention.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float, Int

from susc_pipeline.clustering.search import UNCLUSTERED

N_CLUSTERS = 50
N_PAIRS = 200  # of a cluster, at most
N_LEAST = 10  # pairs, from which on a cluster counts
N_PERMUTATIONS = 10_000


class Matched(NamedTuple):
    """A cluster, its component, and members paired with tokens outside."""

    cluster: int
    component: int
    members: Int[np.ndarray, " pairs"]
    outside: Int[np.ndarray, " pairs"]


class Correlation(NamedTuple):
    """Over clusters: predicted against measured differences of one intervention."""

    intervention: str
    clusters: int
    correlation: float
    low: float
    high: float
    """Ends of its 95 % interval, by Fisher's transformation."""
    null_95: float
    """Size below which 95 % of correlations with permuted clusters lie."""
    p: float
    """Share of the permutations with a correlation at least as large in size."""


def strongest(
    standardized: Float[np.ndarray, "tokens components"], labels: Int[np.ndarray, " tokens"], *, n_clusters: int
) -> list[tuple[int, int]]:
    """Clusters with the strongest mean response to a component, each with that component; strongest first.

    Args:
        standardized: responses over their standard deviation, mean zero for each component.
        labels: cluster of each token, -1 where it is in none.
        n_clusters: so many at most.
    """
    clustered = labels != UNCLUSTERED
    if not clustered.any():
        return []
    sums = np.zeros((labels.max() + 1, standardized.shape[1]))
    np.add.at(sums, labels[clustered], standardized[clustered])
    means = np.abs(sums / np.maximum(np.bincount(labels[clustered]), 1)[:, None])
    order = np.argsort(-means.max(axis=1), kind="stable")[:n_clusters]
    return [(int(cluster), int(means[cluster].argmax())) for cluster in order]


def matched(
    cluster: int,
    component: int,
    labels: Int[np.ndarray, " tokens"],
    token_ids: Int[np.ndarray, " tokens"],
    losses: Float[np.ndarray, " tokens"],
    order: Int[np.ndarray, " tokens"],
    rng: np.random.Generator,
) -> Matched:
    """Members of a cluster, each with the token outside it that has the same string and the nearest loss.

    A member whose string occurs only inside is left out; of more than N_PAIRS, so many are drawn.

    Args:
        cluster: its number.
        component: against which it is held.
        labels: cluster of each token, -1 where it is in none.
        token_ids: the strings, by number.
        losses: at w*, in nats.
        order: the tokens by string, then by loss: np.lexsort((losses, token_ids)), the same for all clusters.
        rng: of the draw.
    """
    members, outside = [], []
    inside = np.flatnonzero(labels == cluster)
    others_in_order = order[labels[order] != cluster]
    tokens = np.unique(token_ids[inside])
    ends = (np.searchsorted(token_ids[others_in_order], tokens, side=side) for side in ("left", "right"))
    for token, begin, end in zip(tokens, *ends, strict=True):
        own, others = inside[token_ids[inside] == token], others_in_order[begin:end]
        if len(others):
            after = np.searchsorted(losses[others], losses[own]).clip(0, len(others) - 1)
            before = np.maximum(after - 1, 0)
            nearer = np.abs(losses[others[before]] - losses[own]) <= np.abs(losses[others[after]] - losses[own])
            members.append(own)
            outside.append(others[np.where(nearer, before, after)])
    pairs = np.stack([np.concatenate([np.empty(0, np.int64), *side]) for side in (members, outside)])
    kept = np.sort(rng.permutation(pairs.shape[1])[:N_PAIRS])
    return Matched(cluster, component, *pairs[:, kept])


def rows(
    pairs: Sequence[Matched],
    name: str,
    intervention: str,
    standardized: Float[np.ndarray, " tokens"],
    changes: Float[np.ndarray, " tokens"],
    documents: Int[np.ndarray, " tokens"],
    *,
    weight_cosine: float,
) -> list[dict[str, object]]:
    """Rows of schema.CLUSTER_INTERVENTIONS, of the clusters that are held against one component under one intervention.

    Args:
        pairs: the clusters and their pairs.
        name: of the component.
        intervention: what was done to it.
        standardized: each token's response to the component, in standard deviations.
        changes: of each token's loss, in nats; nan where it was not measured.
        documents: the document of each token, by number.
        weight_cosine: of the component's response direction with its weights.
    """
    spread, known = float(np.nanstd(changes)), ~np.isnan(changes)
    correlation = float(np.corrcoef(standardized[known], changes[known])[0, 1]) if spread > 0 else None
    of_component = {"token_correlation": correlation, "weight_cosine": weight_cosine}
    described = {"component": name, "intervention": intervention, **of_component}
    return [described | _differences(pair, standardized, changes, documents, spread) for pair in pairs]


def _differences(
    pair: Matched,
    standardized: Float[np.ndarray, " tokens"],
    changes: Float[np.ndarray, " tokens"],
    documents: Int[np.ndarray, " tokens"],
    spread: float,
) -> dict[str, object]:
    members, outside = pair.members, pair.outside
    difference = changes[members] - changes[outside]
    return {
        "cluster": pair.cluster,
        "pairs": len(members),
        "response_difference": float(np.mean(standardized[members] - standardized[outside])),
        "loss_change_members": float(changes[members].mean()),
        "loss_change_outside": float(changes[outside].mean()),
        "loss_change_difference_z": float(difference.mean() / spread) if spread > 0 else None,
        "loss_change_error_z": float(_error(difference, documents[members]) / spread) if spread > 0 else None,
    }


def _error(values: Float[np.ndarray, " pairs"], documents: Int[np.ndarray, " pairs"]) -> float:
    """Standard error of a mean over pairs, where pairs of one document are not independent (Liang and Zeger 1986)."""
    _, document = np.unique(documents, return_inverse=True)
    return float(np.sqrt(np.square(np.bincount(document, values - values.mean())).sum()) / len(values))


def correlations(table: pl.DataFrame, rng: np.random.Generator) -> list[Correlation]:
    """For each intervention the correlation over clusters of response with loss change, both as differences within pairs.

    Clusters with fewer than N_LEAST pairs do not count; an intervention with fewer than four that count has no entry.
    """
    counted = table.filter(pl.col("pairs") >= N_LEAST).drop_nulls("loss_change_difference_z")
    found = []
    for (intervention,), rows in counted.group_by("intervention", maintain_order=True):
        x, y = (rows[name].to_numpy() for name in ("response_difference", "loss_change_difference_z"))
        if rows.height < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
            continue
        measured: Any = scipy.stats.pearsonr(x, y)
        low, high = measured.confidence_interval()
        null = _null(x, y, rng)
        p = (1 + int((null >= abs(measured.statistic)).sum())) / (1 + N_PERMUTATIONS)
        numbers = map(float, (measured.statistic, low, high, np.quantile(null, 0.95), p))
        found.append(Correlation(str(intervention), rows.height, *numbers))
    return found


def _null(
    x: Float[np.ndarray, " clusters"], y: Float[np.ndarray, " clusters"], rng: np.random.Generator
) -> Float[np.ndarray, " permutations"]:
    """Size of the correlation after the clusters are permuted."""
    x, y = ((values - values.mean()) / values.std() for values in (x, y))
    return np.abs(rng.permuted(np.tile(x, (N_PERMUTATIONS, 1)), axis=1) @ y) / len(x)


def conclusion(found: list[Correlation]) -> str:
    """What the correlations say, in plain words."""
    if not found:
        return "Too few clusters have tokens of the same string outside: nothing can be said."
    parts = []
    for each in found:
        said = "more than chance" if each.p < 0.05 else "no more than chance"
        parts.append(
            f"{each.intervention}: r {each.correlation:.2f} ({each.low:.2f} to {each.high:.2f}) over {each.clusters} "
            f"clusters, {said} (95 % of permutations within {each.null_95:.2f})"
        )
    return (
        "A cluster's response to a component and the change of its tokens' loss, beside tokens of the same string: "
        + ("; ".join(parts) + ".")
    )
