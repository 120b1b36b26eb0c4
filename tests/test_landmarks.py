"""Landmarks of the map: every cluster on it has one, and neighbours have colours that can be told apart."""

import re
from pathlib import Path

import numpy as np
import pytest

from susc_pipeline.explorer import landmarks

COLORS = Path(landmarks.__file__).parent / "static" / "colors.js"
# Machado, Oliveira and Fernandes (2009), full severity, on linear sRGB.
BLIND = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


@pytest.mark.parametrize("n", [1, 5, 1500])
def test_two_clusters_share_a_colour_only_where_larger_ones_lie_between(n):
    places = np.random.default_rng(n).normal(size=(n, 2))
    found = landmarks.colors(places, 6)
    for smaller in range(n):
        distance = np.linalg.norm(places[:smaller] - places[smaller], axis=1)
        nearest = np.argsort(distance)[:5]
        assert found[smaller] not in found[nearest]


def test_all_colours_are_used_about_equally_often():
    found = landmarks.colors(np.random.default_rng(0).normal(size=(1200, 2)), 6)
    assert np.ptp(np.bincount(found, minlength=6)) < 0.05 * 1200


def test_a_landmark_lies_on_a_point_of_its_cluster_and_the_largest_comes_first():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 3, 7, 8], 500, p=[0.1, 0.2, 0.5, 0.2])
    places = rng.normal(size=(500, 2))
    places[(labels == 3) & (places[:, 0] > 0)] += 100  # two islands: their mean lies in neither
    found = landmarks.landmarks(places, labels)
    assert labels[found.point].tolist() == found.cluster.tolist() and -1 not in found.cluster
    counts = [(labels == cluster).sum() for cluster in found.cluster]
    assert counts == found.count.tolist() == sorted(counts, reverse=True)
    assert set(found.cluster) == {3, 7, 8}


def test_without_a_cluster_there_is_no_landmark():
    assert len(landmarks.landmarks(np.zeros((3, 2)), np.full(3, -1)).cluster) == 0


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("`·self` 747 of 834", "·self"),
        ("`._` 108 of 348, after `·self` or `self`, where it stands", "._, after ·self or self, wh…"),
        ("29 different tokens (`·` 528 of 1,032, …)", "29 tokens (·, …)"),
        ("`self` 20 of 23, `x` 1 of 9", "self, x"),
        ("x" * 29, "x" * 27 + "…"),
    ],
)
def test_words_of_a_heading_are_short_and_without_counts(heading, words):
    assert landmarks.words(heading) == words and len(words) <= landmarks.MAX_WORDS


def palette():
    listed = re.search(r"PALETTE = \[(.*?)\]", COLORS.read_text(encoding="utf-8"), re.DOTALL)
    assert listed
    return re.findall(r"#([0-9a-f]{6})", listed[1])


def oklab(hexadecimal, matrix):
    """A colour as it is seen with a kind of colour blindness, in OKLab (Ottosson 2020)."""
    channels = np.array([int(hexadecimal[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_CONES) @ np.clip(np.array(matrix) @ linear, 0, 1))


def least_difference(colors):
    seen = [[oklab(color, matrix) for color in colors] for matrix in BLIND.values()]
    return min(np.linalg.norm(a - b) for view in seen for i, a in enumerate(view) for b in view[:i])


def test_the_palette_can_be_told_apart_with_every_common_kind_of_colour_blindness():
    colors = palette()
    assert len(colors) == landmarks.N_COLORS
    assert least_difference(colors) > 0.12
    assert least_difference(["c44e52", "55a868", "8c8c3a"]) < 0.1  # red, green and olive of like lightness
