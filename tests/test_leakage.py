"""Laws of linear CKA and of shared neighbours; chance levels against simulation and closed forms."""

import numpy as np
import pytest
from sklearn import neighbors

from susc_pipeline.representation import leakage


@pytest.fixture
def spaces() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 8)) * np.arange(1, 9) + 4.0
    return x, x @ rng.standard_normal((8, 5)) + 3.0 * rng.standard_normal((200, 5))


def gram_matrices(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centring = np.eye(len(x)) - 1 / len(x)
    return centring @ x @ x.T @ centring, centring @ y @ y.T @ centring


def test_cka_equals_its_gram_form(spaces):
    k, l = gram_matrices(*spaces)  # noqa: E741 - the names of the paper
    slow = np.sum(k * l) / (np.linalg.norm(k) * np.linalg.norm(l))
    assert leakage.linear_cka(*spaces) == pytest.approx(slow, rel=1e-10)


def test_cka_does_not_change_under_rotation_scaling_and_translation(spaces):
    x, y = spaces
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8))).Q
    assert leakage.linear_cka(7.0 * x @ rotation + 2.0, y) == pytest.approx(leakage.linear_cka(x, y), rel=1e-10)
    assert leakage.linear_cka(x, y) == pytest.approx(leakage.linear_cka(y, x), rel=1e-12)


def test_cka_of_a_space_with_itself_is_one_and_changes_under_unequal_scaling(spaces):
    x, _ = spaces
    assert leakage.linear_cka(x, x) == pytest.approx(1.0, rel=1e-12)
    assert leakage.linear_cka(x, x / np.arange(1, 9) ** 2) < 0.9


def test_cka_chance_has_the_mean_of_the_closed_form(spaces):
    """Over all permutations the mean of tr(K P L P') is tr(K) tr(L) / (n - 1), for centred K and L."""
    k, l = gram_matrices(*spaces)  # noqa: E741 - the names of the paper
    exact = np.trace(k) * np.trace(l) / (len(k) - 1) / (np.linalg.norm(k) * np.linalg.norm(l))
    chance = leakage.cka_chance(*spaces, np.random.default_rng(2), n_permutations=1000)
    assert chance.mean == pytest.approx(exact, rel=0.05)
    assert chance.low < exact < chance.high < leakage.linear_cka(*spaces)


def test_unrelated_spaces_lie_within_the_chance_interval():
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(40):
        x, y = rng.standard_normal((60, 20)), rng.standard_normal((60, 20))
        chance = leakage.cka_chance(x, y, rng, n_permutations=100)
        inside += chance.low <= leakage.linear_cka(x, y) <= chance.high
    assert inside >= 34


def test_neighbour_sets_agree_with_scikit_learn(spaces, monkeypatch):
    monkeypatch.setattr(leakage, "BLOCK_SIZE", 64)
    x, _ = spaces
    expected = neighbors.NearestNeighbors(n_neighbors=10).fit(x).kneighbors(return_distance=False)
    np.testing.assert_array_equal(np.sort(leakage.neighbour_sets(x, n_neighbors=10)), np.sort(expected))


def test_a_token_is_not_its_own_neighbour_even_among_duplicates():
    points = np.repeat(np.eye(3), 4, axis=0)
    sets = leakage.neighbour_sets(points, n_neighbors=3)
    for token in range(12):
        assert sorted(sets[token]) == [i for i in range(token // 4 * 4, token // 4 * 4 + 4) if i != token]


def test_jaccard_of_identical_sets_is_one_and_of_disjoint_sets_zero():
    sets = np.array([[1, 2], [0, 2], [0, 1]])
    assert leakage.mean_jaccard(sets, sets[:, ::-1]) == 1.0
    assert leakage.mean_jaccard(sets, sets + 10) == 0.0
    assert leakage.mean_jaccard(np.array([[1, 2]]), np.array([[2, 3]])) == pytest.approx(1 / 3)


def test_jaccard_of_unrelated_spaces_is_at_the_chance_level():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((2, 1000, 6))
    found = leakage.mean_jaccard(
        leakage.neighbour_sets(x, n_neighbors=50), leakage.neighbour_sets(y * [9, 1, 1, 1, 1, 1], n_neighbors=50)
    )
    chance = leakage.jaccard_chance(1000, n_neighbors=50)
    assert found == pytest.approx(chance, rel=0.1)
    assert chance == pytest.approx(50 / (2 * 1000 - 50), rel=0.03)


def test_jaccard_chance_is_exact_where_it_can_be_counted():
    """Two of three other tokens: the sets are equal once in three (1), else share one of three (1/3)."""
    assert leakage.jaccard_chance(4, n_neighbors=2) == pytest.approx(1 / 3 + 2 / 3 * 1 / 3, rel=1e-12)
    assert leakage.jaccard_chance(4, n_neighbors=3) == pytest.approx(1.0, rel=1e-12)


def test_bad_input_is_refused(spaces):
    x, y = spaces
    with pytest.raises(ValueError, match=r"other tokens \(199\), got 200"):
        leakage.neighbour_sets(x, n_neighbors=200)
    with pytest.raises(ValueError, match="equal rows"):
        leakage.linear_cka(np.full((200, 3), 0.1), y)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite values, got 1"):
        leakage.linear_cka(x, y)
