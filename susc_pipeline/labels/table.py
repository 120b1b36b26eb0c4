"""A row for each cluster: its tokens, its label in words, and the label's score on documents that it was not learned on.

The heading names the tokens, and the rest of the rule only where the rule beats the token's text: where the 95 % interval of
the gain lies above zero.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from susc_pipeline import schema, seeds
from susc_pipeline.labels import drawn_tokens, features, rules, scores
from susc_pipeline.labels.drawn_tokens import Counts, Source
from susc_pipeline.labels.rules import Learner, Rows
from susc_pipeline.labels.words import Words

MAX_ROWS = 1_000_000
MIN_DOCUMENTS = 3
"""Document groups with members that each half must have, or a label is neither learned nor scored."""
N_TOKENS_LISTED = 20
N_TOKENS_IN_HEADING = 3
MOST = 0.9
TOO_FEW = (
    "no label: documents with members, near duplicates as one: {}; too few to learn on one half and score on the other"
)


def label_clusters(
    shards: Mapping[str, pl.LazyFrame],
    members: pl.DataFrame,
    document_groups: pl.DataFrame,
    texts: list[str],
    *,
    seed: int,
    max_rows: int = MAX_ROWS,
) -> pl.DataFrame:
    """The labels of all clusters, as schema.LABELS.

    Time grows with the tokens (two passes, some microseconds each) and with clusters times rows; memory with the rows.

    Args:
        shards: contexts of each shard, as schema.CONTEXTS.
        members: as schema.MEMBERS.
        document_groups: as schema.DOCUMENT_GROUPS; near duplicates stay on one side of the split.
        texts: of each token id.
        seed: of the experiment; it decides the halves.
        max_rows: how many tokens to learn from and score on; of more tokens some are drawn.

    Raises:
        ValueError: a document is in no group.
    """
    source = Source(shards, members, document_groups)
    if not source.n_clusters:
        return pl.DataFrame(schema=schema.LABELS)
    counts = drawn_tokens.count(source, len(texts))
    rows = drawn_tokens.draw(source, counts, features.token_facts(texts), max_rows=max_rows, seed=seed)
    words = Words(texts, source.kinds, counts.occurrences)
    rng = np.random.default_rng(seeds.sequence(seed, "cluster_labels"))
    found = list(_rows(rows, drawn_tokens.halves(rows.document, rng), counts, words, source.n_clusters, seed))
    return pl.DataFrame(found, schema=schema.LABELS)


def _rows(
    rows: Rows, to_learn: np.ndarray, counts: Counts, words: Words, n_clusters: int, seed: int
) -> Iterator[dict[str, Any]]:
    learner, held_out = Learner(rows.of(to_learn)), rows.of(~to_learn)
    by_cluster = counts.members.partition_by("cluster", as_dict=True)
    n_documents = dict(counts.documents.group_by("cluster").len().iter_rows())
    for cluster in range(n_clusters):
        of_tokens = by_cluster[(cluster,)]
        known = {"cluster": cluster, "n_documents": n_documents[cluster], **_tokens(of_tokens, counts)}
        lead = _lead(known, int(of_tokens["members"].sum()), words)
        of_halves = (part.document[part.cluster == cluster] for part in (learner.rows, held_out))
        if min(len(np.unique(documents)) for documents in of_halves) < MIN_DOCUMENTS:
            yield known | {"heading": lead, "label": TOO_FEW.format(n_documents[cluster])}
            continue
        rng = np.random.default_rng(seeds.sequence(seed, "cluster_labels", str(cluster)))
        learned = learner.learn(cluster, rng)
        by_rule, *by_tokens = (
            rules.fulfilled(rule, held_out.features) for rule in (learned.rule, *learned.token_rules)
        )
        score, number = scores.best_score(held_out, cluster, by_rule, by_tokens)
        rest = words.rule(learned.rule, without_token=True) if score.gain_low > 0 else ""
        labels = {"label": words.rule(learned.rule), "token_label": words.rule(learned.token_rules[number])}
        yield known | score._asdict() | labels | {"heading": f"{lead}, {rest}" if rest else lead}


def _tokens(of_cluster: pl.DataFrame, counts: Counts) -> dict[str, Any]:
    """How many different tokens a cluster holds; of the most frequent ones their members and occurrences."""
    top = of_cluster.head(N_TOKENS_LISTED)
    return {
        "n_tokens": of_cluster.height,
        "token_ids": top["token_id"].to_list(),
        "token_members": top["members"].to_list(),
        "token_occurrences": counts.occurrences[top["token_id"].to_numpy()].tolist(),
    }


def _lead(known: dict, size: int, words: Words) -> str:
    """The tokens that are most of a cluster, each with how many of its occurrences are in it; or how many different ones."""
    named, n_held = [], 0
    for token, members, occurrences in zip(known["token_ids"], known["token_members"], known["token_occurrences"]):
        if len(named) == N_TOKENS_IN_HEADING or n_held >= MOST * size:
            break
        named.append(f"{words.token(token)} {members:,} of {occurrences:,}")
        n_held += members
    return ", ".join(named) if n_held >= MOST * size else f"{known['n_tokens']:,} different tokens ({named[0]}, …)"
