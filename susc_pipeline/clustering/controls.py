"""What a run's clusters are not: how many of them other clusterings of the same tokens find too. How these are made is elsewhere.

A control finds a cluster where it has one with a Jaccard index of one half or more (agreement.MATCH). Chance is what the control
finds after its labels are permuted among the occurrences of each token (reproducibility.within_tokens): of clusters that are
token strings chance finds as many. Intervals are over documents, by leaving out groups of them: copies of a document, which a
bootstrap makes, would add information to partitions as fine as the texts themselves.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from susc_pipeline import schema
from susc_pipeline.clustering import agreement, reproducibility
from susc_pipeline.representation import jackknife
from susc_pipeline.schema import StackedTokens

SUSCEPTIBILITIES = "susceptibilities"
OF_SAMPLED_TOKENS = "susceptibilities, sampled tokens"
WITHOUT_LOSS = "chains without the loss (n_beta = 0)"
TOKEN = "the token"
MEASURES = ("matched", "information")


class Control(NamedTuple):
    """A clustering of the run's tokens by something else."""

    name: str
    knows: str
    """What its vectors are made of; SUSCEPTIBILITIES where it is the same measurement by another way."""
    labels: Int[np.ndarray, " tokens"]
    """Cluster of each token of the run, in their order; -1 where it is in none."""
    has_seen: Bool[np.ndarray, " tokens"] | None = None
    """The tokens that were clustered, where these are not all."""


def partition_members(codes: Int[np.ndarray, " tokens"], tokens: StackedTokens) -> pl.DataFrame:
    """One cluster for each code, as schema.MEMBERS: largest first, members in order of the tokens."""
    columns = {"code": codes, "shard": tokens.shard, **{name: tokens.keys[name] for name in ("context_id", "position")}}
    sized = pl.DataFrame(columns).with_columns(size=pl.len().over("code"))
    ordered = sized.sort(["size", "code"], descending=[True, False], maintain_order=True)
    numbered = ordered.with_columns(cluster=pl.col("code").rle_id(), rank=pl.int_range(pl.len()).over("code"))
    return numbered.select(pl.col(name).cast(kind) for name, kind in schema.MEMBERS.items())


def codes_of(*columns: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """A number for each combination of values that occurs."""
    return np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1)


def table(
    labels: Int[np.ndarray, " tokens"],
    controls: Sequence[Control],
    token_ids: Int[np.ndarray, " tokens"],
    documents: Int[np.ndarray, " tokens"],
    rng: np.random.Generator,
    *,
    smallest: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pl.DataFrame:
    """One row a control, as schema.CLUSTER_CONTROLS.

    A control of some tokens is held against what the run's clusters have of these tokens, each of them that has enough.

    Args:
        labels: cluster of each token by the run, -1 where it is in none.
        controls: of the same tokens.
        token_ids: the token strings, by number.
        documents: the document of each token, by number.
        rng: of the permutations and of the groups of documents.
        smallest: tokens that a cluster of the run must have among those of the control.
        progress: told the controls done and their total.
    """
    everywhere = np.ones(len(labels), bool)
    groups = _groups(documents, rng)
    rows = []
    for number, control in enumerate(controls):
        seen = everywhere if control.has_seen is None else control.has_seen
        own, others = _with_enough(labels[seen], smallest), control.labels[seen]
        permuted = reproducibility.within_tokens(others, token_ids[seen], rng)
        some = groups if control.has_seen is None else _groups(documents[seen], rng)
        members = others[others != agreement.UNCLUSTERED]
        counts = {"clusters": len(np.unique(members)), "clustered_tokens": len(members), "tokens": len(own)}
        counts |= {"run_clusters": len(np.unique(own[own != agreement.UNCLUSTERED]))}
        rows.append({"control": control.name, "knows": control.knows} | counts | _values(own, others, permuted, some))
        progress(number + 1, len(controls))
    return pl.DataFrame(rows, schema=schema.CLUSTER_CONTROLS)


def _groups(documents: Int[np.ndarray, " tokens"], rng: np.random.Generator) -> Int[np.ndarray, " tokens"] | None:
    """Groups of documents to leave out; nothing where there is but one document."""
    return jackknife.document_groups(documents, rng) if len(np.unique(documents)) > 1 else None


def _with_enough(labels: Int[np.ndarray, " tokens"], smallest: int) -> Int[np.ndarray, " tokens"]:
    """The same labels, without the clusters that have fewer of these tokens."""
    sizes = np.bincount(labels + 1)  # unclustered tokens come first
    return np.where(sizes[labels + 1] >= smallest, labels, agreement.UNCLUSTERED)


def _values(
    labels: Int[np.ndarray, " tokens"],
    others: Int[np.ndarray, " tokens"],
    permuted: Int[np.ndarray, " tokens"],
    groups: Int[np.ndarray, " tokens"] | None,
) -> dict[str, float | None]:
    """The numbers of one control by column; what is not defined, and ends of intervals without documents, are missing."""

    def measure(kept: Bool[np.ndarray, " tokens"]) -> Float[np.ndarray, " statistics"]:
        found = _agreements(labels[kept], others[kept])
        chance = found if np.array_equal(others, permuted) else _agreements(labels[kept], permuted[kept])
        with np.errstate(invalid="ignore", divide="ignore"):
            beyond = np.where(chance < 1, (found - chance) / (1 - chance), np.nan)
        return np.concatenate([found, beyond, chance])

    found = None if groups is None else jackknife.intervals(measure, groups)
    plain = measure(np.ones(len(labels), bool))
    values: dict[str, float | None] = {}
    for number, name in enumerate(MEASURES):
        for column, place in ((name, number), (f"{name}_beyond", number + 2)):
            low, high = found[place][1:] if found else (np.nan, np.nan)
            values |= {column: _known(plain[place]), f"{column}_low": _known(low), f"{column}_high": _known(high)}
        values[f"{name}_by_chance"] = _known(plain[number + 4])
    return values


def _agreements(
    labels: Int[np.ndarray, " tokens"], others: Int[np.ndarray, " tokens"]
) -> Float[np.ndarray, " measures"]:
    """Share of the clusters present that have a match, and adjusted mutual information."""
    sizes = np.bincount(labels[labels != agreement.UNCLUSTERED])
    jaccard = agreement.best_match(labels, others, n_clusters=len(sizes)).jaccard[sizes > 0]
    share = float(np.mean(jaccard >= agreement.MATCH)) if len(jaccard) else np.nan
    return np.array([share, agreement.adjusted_mutual_information(labels, others)])


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def matches(labels: Int[np.ndarray, " tokens"], controls: Sequence[Control], *, n_clusters: int) -> pl.DataFrame:
    """One row for each cluster and control of all tokens, as schema.CLUSTER_CONTROL_MATCHES."""
    frames = [pl.DataFrame(schema=schema.CLUSTER_CONTROL_MATCHES)]
    for control in controls:
        if control.has_seen is not None:
            continue
        found = agreement.best_match(labels, control.labels, n_clusters=n_clusters)
        columns = {"cluster": range(n_clusters), "control": [control.name] * n_clusters, **found._asdict()}
        frames.append(pl.DataFrame(columns, schema=schema.CLUSTER_CONTROL_MATCHES))
    return pl.concat(frames).sort("cluster", maintain_order=True)


def conclusion(table: pl.DataFrame, matches: pl.DataFrame) -> str:
    """What the controls say of the clusters, in plain words: how many are found without susceptibilities, and by what.

    Args:
        table: as schema.CLUSTER_CONTROLS.
        matches: as schema.CLUSTER_CONTROL_MATCHES.
    """
    n_clusters, ignorant = matches["cluster"].n_unique(), _ignorant(table)
    if not n_clusters or not ignorant.height:
        return "There is nothing to compare: the run has no clusters, or no control could be made."
    found = matches.filter(pl.col("jaccard") >= agreement.MATCH, pl.col("control").is_in(ignorant["control"].to_list()))
    n_found = found["cluster"].n_unique()
    best = ignorant.sort("matched", descending=True, maintain_order=True).row(0, named=True)
    text = (
        f"Of {n_clusters} clusters {n_found} are also found without any susceptibility, by at least one of "
        f"{ignorant.height} controls, and {n_clusters - n_found} by none. "
        f"“{best['control']}” finds the most: {_percent(best['matched'])} of them, by chance "
        f"{_percent(best['matched_by_chance'])}."
    )
    text += _of_others(table, matches, found, n_clusters - n_found)
    return text + _of_chains_without_loss(table) + _of_sampled_tokens(table)


def _ignorant(table: pl.DataFrame) -> pl.DataFrame:
    """The controls that know no susceptibility."""
    return table.filter(~pl.col("knows").is_in([SUSCEPTIBILITIES, OF_SAMPLED_TOKENS]))


def _of_chains_without_loss(table: pl.DataFrame) -> str:
    """What chains that never see the loss find; nothing where there were none."""
    rows = table.filter(control=WITHOUT_LOSS)
    if not rows.height:
        return ""
    return f" Chains that never see the loss find {_percent(rows['matched'][0])} of the clusters, with the same noise."


def _of_sampled_tokens(table: pl.DataFrame) -> str:
    """What each measurement finds on the sampled tokens; nothing where these have no cluster of the run."""
    rows = table.filter(knows=OF_SAMPLED_TOKENS).filter(pl.col("run_clusters") > 0)
    if not rows.height:
        return ""
    parts = [f"“{row['control']}” {_percent(row['matched'])}" for row in rows.iter_rows(named=True)]
    return (
        f" Of the {rows['run_clusters'][0]} clusters that have enough sampled tokens, found are by {', '.join(parts)}."
    )


def _of_others(table: pl.DataFrame, matches: pl.DataFrame, found: pl.DataFrame, n_left: int) -> str:
    """Whether what no control finds comes again from other measurements of susceptibilities; nothing where there is none."""
    again = table.filter(knows=SUSCEPTIBILITIES)
    if not again.height or not n_left:
        return ""
    left = matches.join(found.select("cluster").unique(), on="cluster", how="anti")
    left = left.filter(pl.col("jaccard") >= agreement.MATCH)
    parts = [f"“{name}” {left.filter(control=name)['cluster'].n_unique()}" for name in again["control"].to_list()]
    return f" Of the {n_left} that no control finds, other measurements of susceptibilities find: {', '.join(parts)}."


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
