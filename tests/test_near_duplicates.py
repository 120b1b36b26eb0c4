"""Near duplicates by MinHash: the exact Jaccard index is the oracle, planted copies the truth."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from susc_pipeline import near_duplicates
from susc_pipeline.tokens import TokenizedDocument

RNG = np.random.default_rng(0)


def words(n):
    return RNG.integers(0, 5000, n).astype(np.int32)


def edited(ids, share):
    """The document with a stretch of that share of its tokens replaced."""
    n_new = round(share * len(ids))
    return np.concatenate([words(n_new), ids[n_new:]])


def planted(n_families=12, n_copies=4):
    """Families of a document and copies of which a fifth is new, and documents of their own."""
    found, truth = [], []
    for family in range(n_families):
        first = words(RNG.integers(200, 2000))
        for ids in [first, first, *(edited(first, 0.2) for _ in range(n_copies - 2))]:
            found.append(ids)
            truth.append(family)
    for own in range(20):
        found.append(words(RNG.integers(5, 2000)))
        truth.append(n_families + own)
    order = RNG.permutation(len(found))
    documents = [TokenizedDocument(f"{place:03d}", found[number]) for place, number in enumerate(order)]
    return documents, np.array(truth)[order]


def exact(a, b):
    first, second = (set(zip(*(ids[k : len(ids) - 7 + k].tolist() for k in range(8)))) for ids in (a, b))
    return len(first & second) / len(first | second)


def test_the_estimate_is_the_jaccard_index_of_runs_of_eight_tokens():
    first = words(3000)
    for share in (0.1, 0.3, 0.6):
        second = edited(first, share)
        estimate = near_duplicates.signature(first).jaccard(near_duplicates.signature(second))
        assert abs(estimate - exact(first, second)) < 4 * 0.045  # four standard errors of 128 permutations


def test_planted_families_are_found_and_nothing_else_is_joined():
    documents, truth = planted()
    found = near_duplicates.document_groups(documents)["document_group"].to_numpy()
    assert adjusted_rand_score(truth, found) == 1


def test_groups_are_numbered_by_first_document_and_do_not_depend_on_the_order():
    documents, _ = planted()
    found = near_duplicates.document_groups(documents)["document_group"].to_numpy()
    assert [int(number) for number, _ in itertools.groupby(np.maximum.accumulate(found))] == list(
        range(found.max() + 1)
    )
    turned = near_duplicates.document_groups(documents[::-1])["document_group"].to_numpy()[::-1]
    assert adjusted_rand_score(found, turned) == 1


def test_what_is_shared_by_a_small_part_of_two_documents_does_not_join_them():
    licence = words(300)
    both = [TokenizedDocument(name, np.concatenate([licence, words(2000)])) for name in "ab"]
    assert near_duplicates.document_groups(both)["document_group"].n_unique() == 2


def test_short_and_empty_documents_are_documents_too():
    texts = [[], [], [1], [1], [2], [3, 4, 5]]
    documents = [TokenizedDocument(str(n), np.array(ids, np.int32)) for n, ids in enumerate(texts)]
    assert near_duplicates.document_groups(documents)["document_group"].to_list() == [0, 0, 1, 1, 2, 3]
    assert near_duplicates.document_groups([]).height == 0


def test_a_threshold_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        near_duplicates.document_groups([], threshold=1.5)
