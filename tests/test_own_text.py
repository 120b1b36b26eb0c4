"""The laws of a measured text: its windows, the tokens and clusters it is near, and what two texts have in common."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from susc_pipeline.model import pretrained
from susc_pipeline.own_text import measurement, neighborhood, pairs

SHORT = st.lists(st.integers(0, 3), min_size=1, max_size=9).map(np.array)


@given(st.integers(2, 1024), st.integers(2, 128))
def test_windows_hold_every_token_and_give_it_half_a_window_before_it(n_tokens, length):
    length = min(length, n_tokens)
    starts = measurement.windows(n_tokens, length)
    assert starts[0] == 0 and starts[-1] + length == n_tokens and np.all(np.diff(starts) > 0)
    first_window = np.array([starts[(starts <= t) & (t < starts + length)][0] for t in range(n_tokens)])
    before = np.arange(n_tokens) - first_window
    assert np.all(before[length:] >= length - length // 2) and np.all(before[1:] >= 1)


def brute_force_common(first, second):
    for size in range(min(len(first), len(second)), -1, -1):
        chosen = {tuple(c) for c in itertools.combinations(first.tolist(), size)}
        if chosen & set(itertools.combinations(second.tolist(), size)):
            return size


@settings(deadline=None)
@given(SHORT, SHORT)
def test_what_two_texts_have_in_common_is_as_long_as_any_subsequence_can_be(first, second):
    a, b = pairs.common(first, second)
    assert len(a) == brute_force_common(first, second)
    assert np.array_equal(first[a], second[b]) and np.all(np.diff(a) > 0) and np.all(np.diff(b) > 0)


def test_texts_of_one_length_are_compared_token_by_token_and_others_by_equal_tokens():
    same = pairs.pairs(np.array([1, 2, 3]), np.array([1, 9, 3]))
    assert same.by_position and same.first.tolist() == same.second.tolist() == [0, 1, 2]
    other = pairs.pairs(np.array([1, 2, 3]), np.array([1, 9, 9, 3]))
    assert not other.by_position and (other.first.tolist(), other.second.tolist()) == ([0, 2], [0, 3])


@given(
    st.integers(1, 7).flatmap(
        lambda width: st.lists(st.lists(st.integers(-1, 3), min_size=width, max_size=width), min_size=1)
    )
)
def test_a_majority_is_the_label_that_half_of_a_row_has(rows):
    labels = np.array(rows)
    for row, found in zip(labels, neighborhood.majority(labels)):
        most = [label for label in range(4) if 2 * np.sum(row == label) >= len(row)]
        assert found == min(most, default=-1)


def planted(n_each=40, n_loose=60, seed=0):
    """Three tight clusters far apart and points in none, scattered wide."""
    rng = np.random.default_rng(seed)
    centres = 20 * np.eye(3, 5)
    tight = np.concatenate([centre + 0.1 * rng.normal(size=(n_each, 5)) for centre in centres])
    points = np.concatenate([tight, 8 * rng.normal(size=(n_loose, 5)) - 20]).astype(np.float32)
    labels = np.concatenate([np.repeat([4, 7, 9], n_each), np.full(n_loose, -1)])
    return points, labels


def test_nearest_tokens_and_clusters_are_those_of_all_pairs_whatever_the_numbers():
    points, labels = planted()
    numbers = np.arange(len(points)) * 3 + 5
    found = neighborhood.neighborhood(points, numbers, labels)
    queries = points[::7] + 0.01
    near = found.nearest(queries)
    distances = np.linalg.norm(queries[:, None].astype(np.float64) - points, axis=2)
    np.testing.assert_allclose(near.token_distances, np.sort(distances, axis=1)[:, :10], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        near.token_distances, np.take_along_axis(distances, (near.tokens - 5) // 3, axis=1), rtol=1e-3, atol=1e-3
    )
    centres = np.stack([points[labels == c].mean(axis=0) for c in (4, 7, 9)])
    to_centres = np.linalg.norm(queries[:, None] - centres, axis=2)
    assert np.array_equal(near.clusters[:, 0], np.array([4, 7, 9])[to_centres.argmin(axis=1)])
    np.testing.assert_allclose(near.cluster_distances, np.sort(to_centres, axis=1), rtol=1e-3, atol=1e-3)
    assert np.array_equal(near.cluster, labels[::7])


def test_the_trial_finds_planted_clusters_and_not_shuffled_ones():
    points, labels = planted()
    rng = np.random.default_rng(0)
    told = neighborhood.neighborhood(points, np.arange(len(points)), labels).trial(100, rng)
    assert told == (100, 100, 60, 0)
    shuffled = neighborhood.neighborhood(points, np.arange(len(points)), rng.permutation(labels)).trial(100, rng)
    assert shuffled.n_right < 30


def test_a_corpus_without_a_cluster_has_near_tokens_and_no_near_cluster():
    points, _ = planted()
    found = neighborhood.neighborhood(points, np.arange(len(points)), np.full(len(points), -1))
    near = found.nearest(points[:3])
    assert near.clusters.shape == (3, 0) and near.tokens.shape == (3, 10) and near.cluster.tolist() == [-1] * 3
    assert found.trial(5, np.random.default_rng(0)) == (0, 0, 5, 0)


@pytest.fixture(scope="module")
def tokenizer():
    return pretrained.load(pretrained.EMBEDDED).tokenizer


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "must have 2 to 1,024 tokens.*has 0"),
        ("x", "this one has 1.$"),
        ("a\n" * 1024, "this one has [12],..."),
        ("x" * 1_000_000, "20,000 characters; this one has 1,000,000"),
        ("half a \ud83d", "half of a surrogate pair"),
    ],
)
def test_a_text_that_cannot_be_measured_is_refused_with_a_sentence_that_does_not_hold_it(tokenizer, text, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        measurement.token_ids(tokenizer, text)
    assert len(str(error.value)) < 140
