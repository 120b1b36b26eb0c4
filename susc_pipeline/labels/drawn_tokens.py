"""The tokens of all shards as rows to learn from: counted in a first pass, drawn in a second. Rules are in rules.py.

Where there are more tokens than rows may be held, tokens are drawn: of each cluster, and of the unclustered tokens of each
token text, all up to a limit, and of more a random share, each of which stands for several (Horvitz and Thompson 1952).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int32

from susc_pipeline import schema, seeds
from susc_pipeline.labels import features as feature_module
from susc_pipeline.labels.features import MISSING, TokenFacts
from susc_pipeline.labels.rules import Rows

UNCLUSTERED = -1
MIN_DOCUMENTS_OF_KIND = 3


class LabelledTokens(NamedTuple):
    """The tokens of one shard: contexts, place of each in the documents, and cluster of each predicted token."""

    token_ids: Int[np.ndarray, "contexts positions"]
    starts: Int[np.ndarray, " contexts"]
    documents: Int[np.ndarray, " contexts"]
    kinds: Int[np.ndarray, " contexts"]
    clusters: Int32[np.ndarray, " tokens"]


class Source:
    """The shards, their documents and the members of the clusters; read a shard at a time.

    Held are the members' places, and two numbers for each document.
    """

    def __init__(
        self, shards: Mapping[str, pl.LazyFrame], members: pl.DataFrame, document_groups: pl.DataFrame
    ) -> None:
        """Take contexts by shard (schema.CONTEXTS), members (schema.MEMBERS) and groups (schema.DOCUMENT_GROUPS)."""
        self.shards = shards
        parts = members.select("shard", "context_id", "position", "cluster").partition_by("shard", as_dict=True)
        self._members = {str(shard): part for (shard,), part in parts.items()}
        self.n_clusters = int(members["cluster"].max() or 0) + 1 if members.height else 0
        self.group = dict(document_groups.iter_rows())
        read = pl.concat([frame.select("document_id") for frame in shards.values()]).unique().collect()
        folders = read.select(pl.col("document_id").str.extract("^([^/]*)/").alias("folder"))
        counted = folders.drop_nulls().group_by("folder").len().filter(pl.col("len") >= MIN_DOCUMENTS_OF_KIND)
        self.kinds = sorted(counted["folder"].to_list())

    def __iter__(self) -> Iterator[LabelledTokens]:
        """The tokens of each shard in turn.

        Raises:
            ValueError: a document is in no group.
        """
        numbers = {kind: number for number, kind in enumerate(self.kinds)}
        for shard in sorted(self.shards):
            contexts = self.shards[shard].collect()
            names = contexts["document_id"].to_list()
            if missing := next((name for name in names if name not in self.group), None):
                raise ValueError(f"document_groups has no group of {missing!r}; materialize it again")
            keys = schema.token_key_frame(contexts).select("context_id", "position")
            members = self._members.get(shard, pl.DataFrame(schema=schema.MEMBERS)).drop("shard")
            joined = keys.join(members, on=["context_id", "position"], how="left", maintain_order="left")
            yield LabelledTokens(
                schema.token_ids(contexts),
                contexts["start"].to_numpy(),
                np.array([self.group[name] for name in names]),
                np.array([numbers.get(name.partition("/")[0], MISSING) for name in names]),
                joined["cluster"].fill_null(UNCLUSTERED).to_numpy().astype(np.int32),
            )


class Counts(NamedTuple):
    """Occurrences of each token; members by cluster and token; clusters by document group."""

    occurrences: Int[np.ndarray, " vocabulary"]
    members: pl.DataFrame
    """Columns cluster, token_id and members, by falling number of members in each cluster."""
    documents: pl.DataFrame
    """Columns cluster and document: a row for each document group that a cluster has members in."""


def count(source: Source, vocabulary_size: int) -> Counts:
    """Pass over all shards and count."""
    occurrences, members, documents = np.zeros(vocabulary_size, np.int64), [], []
    for part in source:
        token = part.token_ids[:, 1:].ravel()
        occurrences += np.bincount(token, minlength=vocabulary_size)
        inside = part.clusters != UNCLUSTERED
        document = np.repeat(part.documents, part.token_ids.shape[1] - 1)
        frame = pl.DataFrame({"cluster": part.clusters, "token_id": token, "document": document}).filter(inside)
        members.append(frame.group_by("cluster", "token_id").len("members"))
        documents.append(frame.select("cluster", "document").unique())
    summed = pl.concat(members).group_by("cluster", "token_id").agg(pl.col("members").cast(pl.Int64).sum())
    ordered = summed.sort(["cluster", "members", "token_id"], descending=[False, True, False])
    return Counts(occurrences, ordered, pl.concat(documents).unique().sort("cluster", "document"))


def draw(source: Source, counts: Counts, facts: TokenFacts, *, max_rows: int, seed: int) -> Rows:
    """Pass over all shards and draw rows, about as many as allowed; all tokens where they are no more."""
    sizes = counts.members.group_by("cluster").agg(pl.col("members").sum()).sort("cluster")
    of_cluster = np.zeros(source.n_clusters, np.int64)
    of_cluster[sizes["cluster"].to_numpy()] = sizes["members"].to_numpy()
    of_token = counts.occurrences.copy()
    np.subtract.at(of_token, counts.members["token_id"].to_numpy(), counts.members["members"].to_numpy())
    limit = largest_limit(np.concatenate([of_cluster, of_token]), max_rows)
    parts = [
        _drawn(
            part, of_cluster, of_token, limit, facts, np.random.default_rng(seeds.sequence(seed, "labels", str(number)))
        )
        for number, part in enumerate(source)
    ]
    return Rows(*(np.concatenate(columns) for columns in zip(*parts)))


def largest_limit(sizes: Int[np.ndarray, " strata"], n_rows: int) -> float:
    """The limit such that strata cut to it hold `n_rows` together; infinite where they hold no more anyway."""
    ordered = np.sort(sizes)
    if ordered.sum() <= n_rows:
        return float("inf")
    below = np.concatenate([[0], np.cumsum(ordered)[:-1]])
    limits = (n_rows - below) / (len(ordered) - np.arange(len(ordered)))
    return float(limits[np.flatnonzero(limits <= ordered)[0]])


def _drawn(
    part: LabelledTokens,
    of_cluster: np.ndarray,
    of_token: np.ndarray,
    limit: float,
    facts: TokenFacts,
    rng: np.random.Generator,
) -> Rows:
    token = part.token_ids[:, 1:].ravel()
    inside = part.clusters != UNCLUSTERED
    size = np.where(inside, of_cluster[part.clusters] if len(of_cluster) else 0, of_token[token])
    share = np.minimum(1.0, limit / np.maximum(size, 1))
    chosen = np.flatnonzero(rng.random(len(share)) < share)
    found = feature_module.features(part.token_ids, part.starts, part.kinds, facts)
    document = np.repeat(part.documents, part.token_ids.shape[1] - 1)
    return Rows(found[chosen], part.clusters[chosen], 1 / share[chosen], document[chosen])


def halves(document: Int[np.ndarray, " rows"], rng: np.random.Generator) -> Bool[np.ndarray, " rows"]:
    """Which rows are of the half of the document groups to learn from: every second group in a random order."""
    groups, inverse = np.unique(document, return_inverse=True)
    return (rng.permutation(len(groups)) % 2 == 0)[inverse]
