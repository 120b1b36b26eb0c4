"""The list of documents: of each its contexts, how many of its tokens are in a cluster, and in which."""

from pathlib import Path

import numpy as np

from susc_pipeline.buckets import Buckets
from susc_pipeline.explorer import search_index
from susc_pipeline.explorer.numbering import Corpus
from susc_pipeline.explorer.search_index import Entry

PER_FILE = 400
MAX_CLUSTERS = 12
MEMBER = np.dtype([("document", "<i4"), ("cluster", "<i4")])


def entries(corpus: Corpus, members: Buckets, folder: Path) -> list[Entry]:
    """An entry for each document: its contexts in order, members, clusters, and the clusters with most of its tokens.

    Args:
        corpus: contexts and names of the documents.
        members: corpus.MEMBER rows by shard.
        folder: for temporary files: a document may lie in several shards.
    """
    document = corpus.contexts["document"].to_numpy()
    aside = Buckets(folder / "members-by-document", MEMBER)
    for number in range(corpus.contexts["shard"].n_unique()):
        rows = members.whole(number)
        values = np.zeros(len(rows), MEMBER)
        values["document"], values["cluster"] = document[rows["context"]], rows["cluster"]
        aside.add(values["document"].astype(np.int64) // PER_FILE, values)
    contexts = corpus.contexts.sort("document", "start").group_by("document", maintain_order=True).agg("context")
    found: dict[int, list[int]] = dict(contexts.iter_rows())
    entries = []
    for first in range(0, len(corpus.documents), PER_FILE):
        rows = aside.whole(first // PER_FILE)
        for number in range(first, min(first + PER_FILE, len(corpus.documents))):
            cluster, count = np.unique(rows["cluster"][rows["document"] == number], return_counts=True)
            most = np.argsort(-count, kind="stable")[:MAX_CLUSTERS]
            listed = [[int(cluster[row]), int(count[row])] for row in most]
            content = [found[number], int(count.sum()), len(cluster), listed]
            entries.append(Entry(corpus.documents[number], content))
    return entries


def write(data: Path, entries: list[Entry]) -> list[str]:
    """Write the entries by name; the first name of each file."""
    return search_index.write(data, "documents", entries, per_file=PER_FILE)
