"""Laws of intervals over groups of documents: coverage on worlds with a known truth, and why they are no bootstrap."""

import numpy as np
import pytest

from susc_pipeline.representation import jackknife, leakage

DOCUMENTS = np.repeat(np.arange(40), 8)
K = 10
EVERYTHING = np.ones(len(DOCUMENTS), dtype=bool)


def spaces(rng):
    """Two spaces that share a part; tokens of a document are alike in both."""
    shared, a, b = (rng.standard_normal((40, 4))[DOCUMENTS] + rng.standard_normal((320, 4)) for _ in range(3))
    return shared + a, shared + b


def near(points):
    return leakage.neighbour_sets(points, n_neighbors=K + 30)


def mean_jaccard(x, y, kept=EVERYTHING):
    return leakage.mean_jaccard(*(leakage.neighbours_among(near(each), kept, n_neighbors=K) for each in (x, y)))


def jaccard_interval(x, y, groups):
    return leakage.jaccard_interval(near(x), near(y), groups, n_neighbors=K)


@pytest.mark.parametrize(
    "estimate, interval", [(leakage.linear_cka, leakage.cka_interval), (mean_jaccard, jaccard_interval)]
)
def test_intervals_cover_the_mean_over_samples_about_as_often_as_they_say(estimate, interval):
    rng = np.random.default_rng(0)
    truth = np.mean([estimate(*spaces(rng)) for _ in range(300)])
    inside = []
    for _ in range(100):
        found = interval(*spaces(rng), jackknife.document_groups(DOCUMENTS, rng))
        inside.append(found.low < truth < found.high)
    assert 0.9 <= np.mean(inside) < 1


def test_a_bootstrap_would_lie_beside_the_estimate_for_copies_are_neighbours_in_both_spaces():
    rng = np.random.default_rng(1)
    x, y = spaces(rng)
    interval = jaccard_interval(x, y, jackknife.document_groups(DOCUMENTS, rng))
    resampled = []
    for _ in range(20):
        rows = (rng.integers(40, size=40)[:, None] * 8 + np.arange(8)).ravel()
        resampled.append(leakage.mean_jaccard(*(leakage.neighbour_sets(s[rows], n_neighbors=K) for s in (x, y))))
    assert min(resampled) > interval.high
    assert interval.estimate == pytest.approx(mean_jaccard(x, y))


def test_neighbours_among_those_kept_are_those_of_a_search_among_them():
    rng = np.random.default_rng(2)
    x, _ = spaces(rng)
    kept = jackknife.document_groups(DOCUMENTS, rng) != 3
    expected = np.flatnonzero(kept)[leakage.neighbour_sets(x[kept], n_neighbors=K)]
    found = leakage.neighbours_among(near(x), kept, n_neighbors=K)
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))


def test_the_error_of_a_mean_is_that_of_its_closed_form():
    """Left out one by one, the jackknife of a mean is exact: the standard error over documents."""
    values = np.random.default_rng(3).standard_normal(30)
    found = jackknife.interval(lambda kept: values[kept].mean(), np.arange(30))
    half = 2.0452 * values.std(ddof=1) / np.sqrt(30)  # Student's t, 29 degrees of freedom
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-4)


def test_tokens_of_one_document_are_left_out_together_and_groups_have_equally_many_documents():
    groups = jackknife.document_groups(DOCUMENTS, np.random.default_rng(4))
    assert all(len(np.unique(groups[document == DOCUMENTS])) == 1 for document in range(40))
    assert np.bincount(groups).tolist() == [16] * 20
    assert jackknife.document_groups(np.array([7, 7, 9]), np.random.default_rng(0)).max() == 1
    with pytest.raises(ValueError, match="at least 2 documents, got 1"):
        jackknife.document_groups(np.zeros(5, dtype=int), np.random.default_rng(0))
