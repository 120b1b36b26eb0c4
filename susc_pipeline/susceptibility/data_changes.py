"""Data changes: another distribution q' of tokens beside the corpus's q, and the response of components to it.

    chi(q') = sum over its tokens of q'(xy) chi_xy = d<phi>/d(eps) / n_beta   where the loss is L + eps (L_q' - L)

(Baker et al. 2025). q' gives each of its tokens the same weight, so chi(q') is a mean of linear responses: nothing is sampled
anew. Its error has two parts. That of the chains comes from half the difference of two halves that share nothing, pooled over
data changes and components. That of the documents counts those of q' as a sample of all such documents; tokens of one document
are not independent (profiles.py).
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float, Float64, Int

from susc_pipeline import schema
from susc_pipeline.clustering import profiles
from susc_pipeline.clustering.profiles import Sums
from susc_pipeline.messages import require

KEYS = ["context_id", "position"]
CLUSTER_NAME = re.compile(r"cluster-\d+")  # what tables call a cluster that no data change names
N_ROUNDS = 20  # of pooling: each settles the factors further


@dataclass(frozen=True)
class DataChange:
    """A distribution of tokens whose susceptibility is asked for: `documents`, `cluster` or `file` says which tokens it has."""

    name: str
    """By which tables and pages show it; `cluster-N` stands for cluster N and is refused."""
    documents: str = ""
    """Tokens in the shards of the documents whose names match, such as `asyncio/*` or `*.md`."""
    cluster: int | None = None
    """Tokens of the cluster of this number, as the explorer numbers them."""
    file: str = ""
    """Texts outside the corpus: a file that `corpus.path` could name, or a folder of such, relative to the experiment's file."""

    def __post_init__(self) -> None:
        """Check the values."""
        given = [bool(self.documents), self.cluster is not None, bool(self.file)]
        rule = "given exactly one of documents, cluster and file"
        require(sum(given) == 1, f"data_changes {self.name!r}", self.source, rule)
        require(self.cluster is None or self.cluster >= 0, "data_changes.cluster", self.cluster, "zero or more")

    @property
    def source(self) -> str:
        """Where its tokens are, in words."""
        parts = {"documents": self.documents, "cluster": self.cluster, "file": self.file}
        return ", ".join(f"{key} {value}" for key, value in parts.items() if value not in ("", None))


def of_clusters(members: pl.DataFrame) -> tuple[DataChange, ...]:
    """Every cluster as a data change named `cluster-N`; `members` are as schema.MEMBERS."""
    return tuple(DataChange(f"cluster-{number}", cluster=number) for number in sorted(members["cluster"].unique()))


def empty(n_changes: int, n_components: int) -> Sums:
    """Sums over no token; columns are the values of all components, then half their differences by the halves."""
    return profiles.empty(n_changes, 2 * n_components)


def chosen_tokens(
    changes: Sequence[DataChange], keys: pl.DataFrame, members: pl.DataFrame
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " chosen"]]:
    """The tokens of a shard that data changes have: number of the change, and row of the token. Files have none here.

    Args:
        changes: in order of number.
        keys: context_id, position and document_id of the shard's tokens.
        members: of the clusters, as schema.MEMBERS.
    """
    numbered = keys.select(*KEYS, "document_id").with_row_index("row")
    of_cluster = numbered.join(members.select(*KEYS, "cluster"), on=KEYS, how="inner", maintain_order="left")
    names = keys["document_id"].unique().to_list()
    rows = []
    for change in changes:
        matching = [name for name in names if change.documents and fnmatch.fnmatchcase(name, change.documents)]
        of_change = numbered.filter(pl.col("document_id").is_in(matching))
        if change.cluster is not None:
            of_change = of_cluster.filter(cluster=change.cluster)
        rows.append(of_change["row"].to_numpy().astype(np.int64))
    numbers = np.repeat(np.arange(len(changes)), np.array([len(found) for found in rows], np.int64))
    return numbers, np.concatenate([np.zeros(0, np.int64), *rows])


def add(
    sums: Sums,
    change: Int[np.ndarray, " tokens"],
    document: Int[np.ndarray, " tokens"],
    half_a: Float[np.ndarray, "tokens components"],
    half_b: Float[np.ndarray, "tokens components"],
) -> None:
    """Add tokens to the sums, in place; all tokens that a data change has of a document must come in one call.

    Args:
        sums: as of `empty`.
        change: number of the data change that has the token.
        document: number of the token's document, of any numbering.
        half_a: response of the token by even chains, nats squared.
        half_b: the same by odd chains.
    """
    value, difference = (half_a + half_b) / 2, (half_a - half_b) / 2
    rows = profiles.grouped(change.astype(np.int32), document.astype(np.int32), value, difference)
    profiles.add(sums, rows["cluster"], rows["count"], rows["total"].astype(np.float64))


class ChainErrors(NamedTuple):
    """Errors of the chains: standard errors, and half of the 95 % interval by Student's t."""

    standard_error: Float64[np.ndarray, "changes components"]
    half_width: Float64[np.ndarray, "changes components"]


def chain_errors(differences: Float64[np.ndarray, "changes components"]) -> ChainErrors:
    """Errors of the chains, from half the differences of the values by two halves that share nothing.

    One half difference has one degree of freedom, so all are pooled. The variance is a factor of the component times a factor
    of the change: tokens that respond more, such as those of a cluster, have more noise. Of all such factors these are the
    likeliest for normal errors: in units of its variance, the squares of each row and of each column have the mean one.

    Half differences are not independent: components share documents, and data changes respond alike. The degrees of freedom
    are (sum s^2)^2 / sum s^4 (Satterthwaite 1946), with s the singular values of the half differences in these units. That is 1
    where one number decides all, and about n m / (n + m) where n changes and m components have errors of their own.
    """
    squares, least = differences**2, np.finfo(np.float64).tiny
    of_component = of_change = np.ones((1, 1))
    for _ in range(N_ROUNDS):
        of_component = (squares / np.maximum(of_change, least)).mean(axis=0, keepdims=True)
        of_change = (squares / np.maximum(of_component, least)).mean(axis=1, keepdims=True)
    error = np.sqrt(of_change * of_component)
    power = np.linalg.svd(differences / np.maximum(error, least), compute_uv=False) ** 2
    freedom = max(1.0, power.sum() ** 2 / max((power**2).sum(), least))
    return ChainErrors(error, scipy.stats.t.ppf(0.975, freedom) * error)


def table(changes: Sequence[DataChange], names: Sequence[str], sums: Sums, *, n_observables: int = 1) -> pl.DataFrame:
    """Susceptibility of each data change to each component with its errors, as schema.DATA_CHANGES.

    The standard error holds both parts. Where a change has one document, q' is that document: document_error is missing, and
    the standard error is that of the chains. The 95 % interval has Student's t for either part.

    Args:
        changes: in order of number.
        names: of the components, in order; of several observables one after another.
        sums: over all their tokens.
        n_observables: whose errors are pooled apart.

    Raises:
        ValueError: a data change has no token.
    """
    for change, count in zip(changes, sums.count, strict=True):
        if not count:
            raise ValueError(no_token(change))
    if not changes:
        return pl.DataFrame(schema=schema.DATA_CHANGES)
    n_changes, n_components = len(changes), len(names)
    found = profiles.profile(sums)
    differences = np.split(found.mean[:, n_components:], n_observables, axis=1)
    own = zip(*map(chain_errors, differences), strict=True)
    chain_error, over_chains = (np.concatenate(parts, axis=1) for parts in own)
    document_error, over_documents = (part[:, :n_components] for part in (found.standard_error, found.half_width))
    columns = {
        "data_change": np.repeat([change.name for change in changes], n_components),
        "source": np.repeat([change.source for change in changes], n_components),
        "component": np.tile(np.arange(n_components), n_changes),
        "name": list(names) * n_changes,
        "n_tokens": np.repeat(sums.count, n_components),
        "n_documents": np.repeat(sums.n_documents, n_components),
        "susceptibility": found.mean[:, :n_components].ravel(),
        "standard_error": np.hypot(chain_error, np.nan_to_num(document_error)).ravel(),
        "half_width": np.hypot(over_chains, np.nan_to_num(over_documents)).ravel(),
        "chain_error": chain_error.ravel(),
        "document_error": document_error.ravel(),
    }
    frame = pl.DataFrame(columns).select(pl.col(name).cast(kind) for name, kind in schema.DATA_CHANGES.items())
    return frame.with_columns(pl.col("document_error").fill_nan(None))


def no_token(change: DataChange) -> str:
    """The refusal of a data change without tokens, with its remedy."""
    remedies = {
        "documents": "give a pattern that documents of the shards match (Store.documents() lists them), or name texts by file",
        "cluster": "give the number of a cluster that the explorer lists",
        "file": "give a file with a text of two tokens or more",
    }
    return f"data change {change.name!r} ({change.source}) has no token; {remedies[change.source.split()[0]]}"
