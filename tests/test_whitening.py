"""Laws of whitening, with and without null directions."""

import numpy as np
import pytest
from sklearn import decomposition

from susc_pipeline.representation import moments, whitening


@pytest.fixture
def scores() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3.0


def test_whitened_covariance_is_the_identity(scores):
    basis = whitening.fit(moments.of(scores), relative_floor=0.0)
    white = whitening.transform(scores, basis)
    np.testing.assert_allclose(np.cov(white.T), np.eye(6), atol=1e-10)
    np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=1e-10)
    assert basis.n_dropped == 0


def test_whitening_agrees_with_scikit_learn(scores):
    reference = decomposition.PCA(whiten=True).fit_transform(scores)
    white = whitening.transform(scores, whitening.fit(moments.of(scores), relative_floor=0.0))
    signs = np.sign(np.sum(reference * white, axis=0))
    np.testing.assert_allclose(white, reference * signs, atol=1e-9)


def test_basis_does_not_depend_on_how_tokens_are_sharded(scores):
    sharded = moments.merge_all(moments.of(part) for part in np.split(scores, [3, 50, 499]))
    one, other = (whitening.fit(m, relative_floor=1e-3) for m in (moments.of(scores), sharded))
    np.testing.assert_allclose(whitening.transform(scores, one), whitening.transform(scores, other), atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rank", [1, 3])
def test_null_directions_are_dropped_and_not_blown_up(rank, dtype):
    rng = np.random.default_rng(1)
    scores = (rng.standard_normal((500, rank)) @ rng.standard_normal((rank, 6))).astype(dtype)
    # In float32 the null directions hold its rounding, a relative variance of about 1e-15.
    basis = whitening.fit(moments.of(scores), relative_floor=0.0 if dtype == np.float64 else 1e-12)
    assert (len(basis.variance), basis.n_dropped) == (rank, 6 - rank)
    np.testing.assert_allclose(np.cov(whitening.transform(scores, basis).T), np.eye(rank).squeeze(), atol=1e-9)


def test_relative_floor_drops_directions_of_little_variance():
    rng = np.random.default_rng(2)
    axes = np.linalg.qr(rng.standard_normal((4, 4))).Q
    scores = (rng.standard_normal((2000, 4)) * np.sqrt([1.0, 0.1, 2e-3, 5e-4])) @ axes
    kept = [len(whitening.fit(moments.of(scores), relative_floor=floor).variance) for floor in (0.0, 1e-3, 1e-2, 0.5)]
    assert kept == [4, 3, 2, 1]


def test_whitened_distances_are_mahalanobis_distances(scores):
    white = whitening.transform(scores, whitening.fit(moments.of(scores), relative_floor=0.0))
    difference = scores[0] - scores[1]
    expected = difference @ np.linalg.solve(np.cov(scores.T), difference)
    assert np.sum((white[0] - white[1]) ** 2) == pytest.approx(expected, rel=1e-9)


def test_saved_basis_reads_back_to_the_last_bit(scores, tmp_path):
    basis = whitening.fit(moments.of(scores), relative_floor=0.1)
    whitening.save(basis, tmp_path / "basis")
    again = whitening.load(tmp_path / "basis")
    assert (again.floor, again.count) == (basis.floor, basis.count)
    for name in ("mean", "directions", "variance"):
        np.testing.assert_array_equal(getattr(again, name), getattr(basis, name))


def test_bad_input_is_refused(scores, tmp_path):
    with pytest.raises(ValueError, match=r"relative_floor must be in \[0, 1\), got 1"):
        whitening.fit(moments.of(scores), relative_floor=1.0)
    with pytest.raises(ValueError, match="only constant columns"):
        whitening.fit(moments.of(np.full((10, 3), 0.1)), relative_floor=0.0)
    (tmp_path / "config.json").write_text('{"kind": "pca_basis"}')
    with pytest.raises(ValueError, match="must hold a whitening_basis, got 'pca_basis'"):
        whitening.load(tmp_path)
