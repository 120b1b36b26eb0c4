"""Laws of the PCA basis of z-scored susceptibilities."""

import numpy as np
import pytest
from sklearn import decomposition, preprocessing

from susc_pipeline.representation import moments, pca


@pytest.fixture
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6))
    return mixed * 10.0 ** np.arange(-3, 3) + 5.0


def test_basis_agrees_with_scikit_learn(x):
    z = preprocessing.StandardScaler().fit_transform(x)
    reference = decomposition.PCA().fit(z)
    basis = pca.fit(moments.of(x))
    np.testing.assert_allclose(basis.explained_variance_ratio, reference.explained_variance_ratio_, rtol=1e-10)
    signs = np.sign(np.sum(reference.components_ * basis.components, axis=1, keepdims=True))
    np.testing.assert_allclose(basis.components, reference.components_ * signs, atol=1e-10)


def test_basis_does_not_depend_on_how_tokens_are_sharded(x):
    whole = pca.fit(moments.of(x))
    sharded = pca.fit(moments.merge_all(moments.of(part) for part in np.split(x, [3, 50, 399])))
    np.testing.assert_allclose(sharded.components, whole.components, atol=1e-10)
    np.testing.assert_allclose(sharded.explained_variance, whole.explained_variance, rtol=1e-10)
    assert sharded.count == whole.count == len(x)


def test_units_of_a_component_do_not_matter(x):
    rescaled = x * np.array([1.0, 1e3, 1e-3, 7.0, 2.0, 0.1])
    scores = pca.transform(x, pca.fit(moments.of(x)))
    np.testing.assert_allclose(pca.transform(rescaled, pca.fit(moments.of(rescaled))), scores, atol=1e-9)


def test_scores_are_uncorrelated_with_the_explained_variance(x):
    basis = pca.fit(moments.of(x))
    covariance = np.cov(pca.transform(x, basis).T)
    np.testing.assert_allclose(covariance, np.diag(basis.explained_variance), atol=1e-10)
    assert basis.explained_variance.sum() == pytest.approx(x.shape[1])


def test_all_components_restore_the_matrix(x):
    basis = pca.fit(moments.of(x))
    np.testing.assert_allclose(pca.inverse_transform(pca.transform(x, basis), basis), x, rtol=1e-10)


def test_fewer_components_are_the_leading_ones(x):
    whole, truncated = pca.fit(moments.of(x)), pca.fit(moments.of(x), n_components=2)
    np.testing.assert_array_equal(truncated.components, whole.components[:2])
    np.testing.assert_array_equal(truncated.explained_variance_ratio, whole.explained_variance_ratio[:2])
    assert pca.transform(x, truncated).shape == (400, 2)


def test_the_largest_loading_is_positive(x):
    components = pca.fit(moments.of(x)).components
    assert (components[np.arange(6), np.abs(components).argmax(axis=1)] > 0).all()


def test_rounding_does_not_choose_the_sign_among_equal_loadings():
    """Two z-scored columns have loadings 0.71 and -0.71: with the bare largest, reruns would flip by rounding."""
    nudge = 1e-12
    first = np.array([[1.0, -1.0 - nudge], [-1.0, 1.0]])
    second = np.array([[1.0 + nudge, -1.0], [1.0, -1.0]])
    for directions in (first, second):
        assert (pca.oriented(directions)[:, 0] > 0).all()


def test_saved_basis_reads_back_to_the_last_bit(x, tmp_path):
    basis = pca.fit(moments.of(x), n_components=4)
    pca.save(basis, tmp_path / "basis")
    again = pca.load(tmp_path / "basis")
    assert again.count == basis.count
    for name in ("mean", "scale", "components", "explained_variance"):
        np.testing.assert_array_equal(getattr(again, name), getattr(basis, name))


def test_bad_input_is_refused(x, tmp_path):
    with pytest.raises(ValueError, match=r"between 1 and the number of columns \(6\), got 7"):
        pca.fit(moments.of(x), n_components=7)
    x[:, 2] = 0.3
    with pytest.raises(ValueError, match=r"constant columns \[2\]"):
        pca.fit(moments.of(x))
    (tmp_path / "config.json").write_text('{"kind": "aux_model"}')
    with pytest.raises(ValueError, match="must hold a pca_basis, got 'aux_model'"):
        pca.load(tmp_path)


def test_axes_are_selected_by_a_mask_and_never_none(x):
    basis = pca.fit(moments.of(x))
    keep = np.array([True, False, True, True, False, True])
    np.testing.assert_array_equal(pca.transform(x, pca.select(basis, keep)), pca.transform(x, basis)[:, keep])
    with pytest.raises(ValueError, match="at least one of 6 principal axes must be kept, got none"):
        pca.select(basis, np.zeros(6, bool))
