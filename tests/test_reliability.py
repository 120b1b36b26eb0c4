"""Split-half reliability recovers planted reliabilities, and would not without its correction."""

import numpy as np
import polars as pl
import pytest

from susc_pipeline import schema
from susc_pipeline.representation import metrics, moments, pca
from susc_pipeline.susceptibility import reliability

PLANTED = np.array([0.1, 0.3, 0.5, 0.8, 0.95])
N_TOKENS = 20_000


def halves(rng: np.random.Generator, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two measurements of the truth (unit variance) whose mean has the planted reliabilities."""
    noise_variance = 2 * (1 / PLANTED - 1)
    a, b = rng.standard_normal((2, *truth.shape)) * np.sqrt(noise_variance)
    return truth + a, truth + b


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N_TOKENS, len(PLANTED)))


def test_planted_reliability_is_recovered(truth):
    result = reliability.split_half([halves(np.random.default_rng(1), truth)])
    np.testing.assert_allclose(result.reliability, PLANTED, atol=0.025)


def test_without_the_correction_the_halves_underestimate_the_whole(truth):
    """The power of the test above: what it checks differs from the bare correlation by far more than its tolerance."""
    result = reliability.split_half([halves(np.random.default_rng(1), truth)])
    assert (PLANTED - result.half_correlation > 0.04).all()
    assert PLANTED[2] - result.half_correlation[2] > 0.14


def test_ceiling_is_the_correlation_of_the_truth_with_the_whole(truth):
    a, b = halves(np.random.default_rng(1), truth)
    reached = metrics.correlation_per_column(truth, (a + b) / 2)
    np.testing.assert_allclose(reliability.split_half([(a, b)]).ceiling, reached, atol=0.03)


def test_several_splits_average_the_correlations_before_the_correction(truth):
    rng = np.random.default_rng(2)
    splits = [halves(rng, truth) for _ in range(3)]
    pooled = reliability.split_half(splits)
    each = np.mean([reliability.split_half([split]).half_correlation for split in splits], axis=0)
    np.testing.assert_allclose(pooled.half_correlation, each, rtol=1e-12)
    np.testing.assert_allclose(pooled.reliability, reliability.spearman_brown(each, factor=2.0), rtol=1e-12)


def test_scale_and_order_of_the_halves_do_not_matter(truth):
    a, b = halves(np.random.default_rng(3), truth)
    one, other = reliability.split_half([(a, b)]), reliability.split_half([(1e-6 * b, a + 3.0)])
    np.testing.assert_allclose(one.reliability, other.reliability, rtol=1e-7)


def test_scores_in_a_basis_are_the_halves_transformed(truth):
    rng = np.random.default_rng(4)
    truth = truth @ rng.standard_normal((5, 5))
    a, b = halves(rng, truth)
    basis = pca.fit(moments.of((a + b) / 2), n_components=3)
    result = reliability.split_half_scores(moments.of(np.concatenate([a, b], axis=1)), basis)
    assert result.reliability.shape == (3,)
    expected = metrics.correlation_per_column(pca.transform(a, basis), pca.transform(b, basis))
    np.testing.assert_allclose(result.half_correlation, expected, rtol=1e-10)


def test_halves_read_shard_by_shard_give_what_all_tokens_stacked_give(truth):
    """Nearly constant halves far from zero among them, whose variance a sum of squares would lose."""
    a, b = (each + np.array([0, 0, 0, 1e4, -1e4]) for each in halves(np.random.default_rng(6), truth))
    shards = [
        schema.with_vectors(pl.DataFrame({"row": range(len(rows))}), half_a=a[rows], half_b=b[rows]).lazy()
        for rows in np.split(np.arange(N_TOKENS), [10, 10, 3000])
    ]
    merged = reliability.split_half_along(reliability.moments_of_halves(shards), np.eye(5))
    stacked = reliability.split_half([(a.astype(np.float32), b.astype(np.float32))])
    for streamed, whole in zip(merged, stacked, strict=True):
        np.testing.assert_allclose(streamed, whole, rtol=1e-9)


def test_signal_shared_by_components_is_more_reliable_in_its_principal_component():
    """What averages noise over components: 5 columns of one signal, each with reliability 0.3, give a PC of 0.68."""
    rng = np.random.default_rng(5)
    signal = rng.standard_normal((N_TOKENS, 1))
    noise = rng.standard_normal((2, N_TOKENS, 5)) * np.sqrt(2 * (1 / 0.3 - 1))
    a, b = signal + noise
    basis = pca.fit(moments.of((a + b) / 2))
    result = reliability.split_half_scores(moments.of(np.concatenate([a, b], axis=1)), basis)
    assert result.reliability[0] == pytest.approx(5 * 0.3 / (1 + 4 * 0.3), abs=0.02)
    assert np.abs(result.reliability[1:]).max() < 0.05


@pytest.mark.parametrize("n_replicates", [2, 4, 8])
def test_replicates_have_the_reliability_of_their_mean(n_replicates):
    """Signal of variance 1 and noise of variance v in each of n: the mean's reliability is 1 / (1 + v / n)."""
    rng = np.random.default_rng(7)
    signal = rng.standard_normal(N_TOKENS)
    for noise_variance in (0.1, 1.0, 10.0):
        noise = np.sqrt(noise_variance) * rng.standard_normal((n_replicates, N_TOKENS))
        exact = 1 / (1 + noise_variance / n_replicates)
        assert reliability.of_replicates(signal + noise) == pytest.approx(exact, abs=0.03)
        one = 1 / (1 + noise_variance)
        by_halves = reliability.spearman_brown(np.array([one]), factor=float(n_replicates))[0]
        assert exact == pytest.approx(by_halves)  # the same notion as that of split halves


def test_replicates_without_a_signal_have_a_reliability_about_zero_and_not_above():
    rng = np.random.default_rng(8)
    found = [reliability.of_replicates(rng.standard_normal((4, 400))) for _ in range(400)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error + 2 / 400  # 1 - 1/F is low by 2 / degrees of freedom
    assert 0.02 < np.std(found) < 0.1 and min(found) < 0 < max(found)
    assert reliability.of_replicates(np.ones((3, 10))) == 0.0


def test_two_replicates_are_reliable_by_their_covariance(truth):
    a, b = (half[:, 2] for half in halves(np.random.default_rng(9), truth))
    exact = np.cov(a, b, ddof=0)[0, 1] / np.var((a + b) / 2)
    assert reliability.of_replicates(np.stack([a, b])) == pytest.approx(exact, rel=1e-9)


def test_a_shift_of_a_replicates_tokens_and_a_common_scale_change_no_reliability():
    rng = np.random.default_rng(10)
    measured = rng.standard_normal(200) + rng.standard_normal((5, 200))
    shifted = 1e-6 * (measured + 100 * np.arange(5)[:, None])
    assert reliability.of_replicates(shifted) == pytest.approx(reliability.of_replicates(measured), rel=1e-6)


def test_spearman_brown_composes_and_inverts():
    r = np.array([0.05, 0.4, 0.9])
    twice = reliability.spearman_brown(reliability.spearman_brown(r, factor=2.0), factor=3.0)
    np.testing.assert_allclose(twice, reliability.spearman_brown(r, factor=6.0), rtol=1e-12)
    np.testing.assert_allclose(
        reliability.spearman_brown(reliability.spearman_brown(r, factor=4.0), factor=0.25), r, rtol=1e-12
    )
    np.testing.assert_allclose(reliability.spearman_brown(r, factor=2.0), 2 * r / (1 + r), rtol=1e-12)


def test_negative_correlations_stay_as_they_are_and_have_no_ceiling():
    r = np.array([-1.0, -0.9, 0.0, 1.0])
    corrected = reliability.spearman_brown(r, factor=2.0)
    np.testing.assert_array_equal(corrected, r)
    np.testing.assert_array_equal(reliability.noise_ceiling(corrected), [0.0, 0.0, 0.0, 1.0])


def test_bad_input_is_refused(truth):
    with pytest.raises(ValueError, match="at least 1 split"):
        reliability.split_half([])
    with pytest.raises(ValueError, match="factor must be positive, got 0"):
        reliability.spearman_brown(np.ones(2), factor=0.0)
    with pytest.raises(ValueError, match=r"constant columns \[0, 1, 2, 3, 4\]"):
        reliability.split_half([(truth, np.zeros_like(truth))])
    with pytest.raises(ValueError, match=r"constant ones \[0, 1, 2, 3, 4\]"):
        reliability.split_half_along(moments.of(np.hstack([truth, np.zeros_like(truth)])), np.eye(5))


def test_a_components_reliability_is_that_of_its_chains_whatever_the_shards_and_lies_in_its_interval():
    rng = np.random.default_rng(4)
    measured = rng.normal(size=1200) + 0.8 * rng.normal(size=(8, 1200))
    tables = []
    for part in np.split(measured, [500], axis=1):
        tables.append(reliability.product_table({"L0H0": part @ part.T}))
    found = reliability.of_products(pl.concat(tables), ["L0H0"])
    centred = measured - 0.0
    noise = centred.var(axis=0, ddof=1).mean() / 8
    expected = 1 - noise / np.square(centred.mean(axis=0)).mean()
    assert found["reliability"][0] == pytest.approx(expected, rel=1e-9)
    assert found["low"][0] < found["reliability"][0] < found["high"][0]
    assert found["ceiling"][0] == pytest.approx(expected**0.5)
