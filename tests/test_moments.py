"""Laws of merged moments. Bases fitted to them are in test_pca.py and test_whitening.py."""

import numpy as np
import pytest

from susc_pipeline.representation import moments


@pytest.fixture
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((300, 5)) @ rng.standard_normal((5, 5)) + 100.0 * np.arange(5)


def test_moments_agree_with_numpy(x):
    m = moments.of(x)
    np.testing.assert_allclose(m.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(m.covariance, np.cov(x.T), rtol=1e-11)
    np.testing.assert_allclose(m.standard_deviation, x.std(axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("cuts", [[1, 2], [100, 200], [7, 150, 299]])
def test_moments_do_not_depend_on_how_tokens_are_sharded(x, cuts):
    merged = moments.merge_all(moments.of(part) for part in np.split(x, cuts))
    whole = moments.of(x)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-11)


def test_order_of_merging_does_not_matter(x):
    parts = [moments.of(part) for part in np.split(x, [10, 200])]
    forwards, backwards = moments.merge_all(parts), moments.merge_all(parts[::-1])
    np.testing.assert_allclose(forwards.scatter, backwards.scatter, rtol=1e-11)


def test_a_large_mean_costs_no_digits(x):
    """The power of centring first: sums of squares lose every digit of the variance here."""
    far = x - x.mean(axis=0) + 1e8
    parts = np.split(far, [10, 200])
    merged = moments.merge_all(moments.of(part) for part in parts).covariance
    naive = (far.T @ far - len(far) * np.outer(far.mean(axis=0), far.mean(axis=0))) / (len(far) - 1)
    assert np.abs(merged - np.cov(x.T)).max() < 1e-6
    assert np.abs(naive - np.cov(x.T)).max() > 1e-2


def test_half_precision_is_accumulated_in_double():
    x = np.full((5000, 1), 0.1, dtype=np.float16)
    x[::2] = 0.2
    exact = np.array([np.float64(np.float16(0.1)), np.float64(np.float16(0.2))]).mean()
    assert moments.of(x).mean[0] == pytest.approx(exact, rel=1e-13)


def test_standardized_moments_are_those_of_z_scores(x):
    z = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    np.testing.assert_allclose(moments.standardized(moments.of(x)).scatter, moments.of(z).scatter, atol=1e-9)


def test_column_statistics_read_block_by_block_agree_with_numpy(x, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK_SIZE", 64)
    statistics = moments.column_statistics(x)
    np.testing.assert_allclose(statistics.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(statistics.standard_deviation, x.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(x, bad):
    x[3, 2] = bad
    with pytest.raises(ValueError, match="finite values, got 1"):
        moments.of(x)


def test_constant_columns_are_named(x):
    x[:, 3] = 0.1  # has no exact binary form, so that its computed spread is not quite zero
    merged = moments.merge_all(moments.of(part) for part in np.split(x, [10, 200]))
    with pytest.raises(ValueError, match=r"constant columns \[3\]"):
        moments.standardized(merged)


def test_too_few_tokens_are_refused(x):
    with pytest.raises(ValueError, match="at least 1 token"):
        moments.of(x[:0])
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        _ = moments.of(x[:1]).covariance
    with pytest.raises(ValueError, match="at least 1 part"):
        moments.merge_all([])
    with pytest.raises(ValueError, match="equally many features, got 5 and 4"):
        moments.merge(moments.of(x), moments.of(x[:, :4]))
