"""Laws of per-column correlations, their bootstrap interval and their null."""

import numpy as np
import pytest

from susc_pipeline.representation import metrics

DOCUMENTS = np.repeat(np.arange(40), 10)


def correlated(rng: np.random.Generator, rho: float) -> tuple[np.ndarray, np.ndarray]:
    shared, a, b = rng.standard_normal((3, 400, 3))
    return np.sqrt(rho) * shared + np.sqrt(1 - rho) * a, np.sqrt(rho) * shared + np.sqrt(1 - rho) * b


def document_effects(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((40, 3))[DOCUMENTS] + 0.1 * rng.standard_normal((400, 3))


def test_correlations_agree_with_numpy():
    a, b = correlated(np.random.default_rng(0), 0.5)
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(metrics.correlation_per_column(a, b), expected, rtol=1e-12)


def test_scale_and_offset_do_not_matter():
    a, b = correlated(np.random.default_rng(0), 0.5)
    moved = metrics.correlation_per_column(a * [1e-6, 3.0, 1e6] + 5.0, -b)
    np.testing.assert_allclose(moved, -metrics.correlation_per_column(a, b), rtol=1e-8)


def test_bootstrap_equals_the_slow_resampling_of_documents():
    a, b = correlated(np.random.default_rng(1), 0.4)
    rng = np.random.default_rng(2)
    slow = []
    for _ in range(2000):
        rows = (rng.integers(40, size=40)[:, None] * 10 + np.arange(10)).ravel()
        slow.append(metrics.correlation_per_column(a[rows], b[rows]))
    fast = metrics.document_bootstrap(a, b, DOCUMENTS, np.random.default_rng(3), n_resamples=2000)
    np.testing.assert_allclose([fast.low, fast.high], np.quantile(slow, [0.025, 0.975], axis=0), atol=0.015)
    np.testing.assert_allclose(fast.estimate, metrics.correlation_per_column(a, b))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    inside = []
    for _ in range(60):
        interval = metrics.document_bootstrap(*correlated(rng, 0.5), DOCUMENTS, rng, n_resamples=200)
        inside.append((interval.low < 0.5) & (interval.high > 0.5))
    assert 0.88 < np.mean(inside) <= 1.0


def test_interval_is_wider_where_tokens_of_a_document_are_alike():
    """Resampling tokens instead of documents would not see it."""
    rng = np.random.default_rng(5)
    a, b = document_effects(rng), document_effects(rng)
    by_document = metrics.document_bootstrap(a, b, DOCUMENTS, rng)
    by_token = metrics.document_bootstrap(a, b, np.arange(400), rng)
    assert ((by_document.high - by_document.low) > 2 * (by_token.high - by_token.low)).all()


def test_null_is_centred_and_as_wide_as_that_of_independent_tokens():
    a, b = correlated(np.random.default_rng(6), 0.9)
    null = metrics.permutation_null(a, b, DOCUMENTS, np.random.default_rng(7), n_permutations=400)
    assert np.abs(null.mean()) < 0.01
    assert null.std() == pytest.approx(1 / np.sqrt(399), rel=0.1)
    assert (metrics.correlation_per_column(a, b) > null.max(axis=0)).all()


def test_null_is_wide_where_tokens_of_a_document_are_alike():
    rng = np.random.default_rng(8)
    a, b = document_effects(rng), document_effects(rng)
    null = metrics.permutation_null(a, b, DOCUMENTS, rng, n_permutations=300)
    assert null.std() > 2 / np.sqrt(399)


def test_unexplained_share_does_not_depend_on_scale_and_offset_and_is_one_minus_r_squared():
    rng = np.random.default_rng(0)
    target = rng.standard_normal((200, 1))
    predicted = 0.5 * target + rng.standard_normal((200, 1))
    r = np.corrcoef(predicted[:, 0], target[:, 0])[0, 1]
    assert metrics.unexplained_share(7.0 * predicted - 3.0, target) == pytest.approx(1 - r**2, rel=1e-12)
    assert metrics.unexplained_share(-predicted, target) == 1.0
    assert metrics.unexplained_share(np.zeros((200, 1)), target) == 1.0
    assert np.isnan(metrics.unexplained_share(np.full((200, 1), np.inf), target))


def test_same_seed_same_numbers():
    a, b = correlated(np.random.default_rng(9), 0.5)
    first, again = (metrics.permutation_null(a, b, DOCUMENTS, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_bad_input_is_refused():
    a, b = correlated(np.random.default_rng(0), 0.5)
    with pytest.raises(ValueError, match="at least 2 documents, got 1"):
        metrics.document_bootstrap(a, b, np.zeros(400, dtype=int), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"constant columns \[1\]"):
        metrics.correlation_per_column(a, np.where(np.arange(3) == 1, 0.1, b))
    with pytest.raises(ValueError, match="finite values, got 400"):
        metrics.correlation_per_column(a, np.where(np.arange(3) == 1, np.nan, b))
