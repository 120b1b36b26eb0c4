"""Documents that are nearly the same: licence texts, generated tables, versions of a file. By MinHash (Broder 1997).

Two documents are near duplicates where at least half of their shingles, runs of eight tokens, are the same: Jaccard index
|A and B| / |A or B|, as 128 permutations estimate it (error at most .045). A group is all that a chain of near duplicates
joins. Candidates come from locality-sensitive hashing, so that not every pair is compared. What is shared by a small part of
two long documents, such as a licence at their heads, does not join them.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
import polars as pl
from datasketch import MinHash, MinHashLSH
from jaxtyping import Int, UInt32
from scipy import sparse

from susc_pipeline import schema
from susc_pipeline.tokens import TokenizedDocument

SHINGLE = 8
N_PERMUTATIONS = 128
SHINGLES_AT_ONCE = 8192
NEAR = 0.5


def document_groups(documents: list[TokenizedDocument], *, threshold: float = NEAR) -> pl.DataFrame:
    """The group of near duplicates that each document is in, as schema.DOCUMENT_GROUPS; numbered by their first document.

    Time and memory grow with the tokens and with 128 numbers a document. Only equal signatures are compared by their hash,
    so a thousand copies cost no more than a thousand documents.

    Raises:
        ValueError: the threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    signatures = [signature(document.token_ids) for document in documents]
    first: dict[bytes, int] = {}
    copies = [first.setdefault(one.hashvalues.tobytes(), number) for number, one in enumerate(signatures)]
    pairs = [*enumerate(copies), *_near_pairs({number: signatures[number] for number in first.values()}, threshold)]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    joined = sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(documents),) * 2)
    group = sparse.csgraph.connected_components(joined, directed=False)[1] if documents else np.zeros(0)
    columns = {"document_id": [document.document_id for document in documents], "document_group": _by_first(group)}
    return pl.DataFrame(columns, schema=schema.DOCUMENT_GROUPS)


def signature(token_ids: Int[np.ndarray, " tokens"]) -> MinHash:
    """The MinHash of a document's shingles; a document shorter than one is a shingle itself."""
    found = MinHash(N_PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
    hashes = shingles(token_ids)
    for start in range(0, len(hashes), SHINGLES_AT_ONCE):
        found.update_batch(hashes[start : start + SHINGLES_AT_ONCE])
    return found


def shingles(token_ids: Int[np.ndarray, " tokens"]) -> UInt32[np.ndarray, " shingles"]:
    """Hashes of the different runs of eight tokens, by a polynomial modulo 2^64 whose upper half is kept."""
    width = max(1, min(SHINGLE, len(token_ids)))
    powers = np.cumprod(np.full(width, 0x9E3779B97F4A7C15, np.uint64))
    windows = np.lib.stride_tricks.sliding_window_view(np.append(token_ids, [-1] * (not len(token_ids))), width)
    mixed = (windows.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    total = (mixed * powers).sum(axis=1, dtype=np.uint64)
    return np.unique((total >> np.uint64(32)).astype(np.uint32))


def _near_pairs(signatures: dict[int, MinHash], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of documents whose estimated Jaccard index reaches the threshold, among the candidates of the hashing."""
    # More weight on what is missed than on what is compared in vain: a candidate costs one comparison.
    index = MinHashLSH(threshold, N_PERMUTATIONS, weights=(0.1, 0.9))
    for number, one in signatures.items():
        near = cast(list[int], index.query(one))  # the keys that were inserted
        yield from ((number, other) for other in near if one.jaccard(signatures[other]) >= threshold)
        index.insert(number, one)


def _by_first(group: np.ndarray) -> np.ndarray:
    """The groups numbered in the order in which they first come."""
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
