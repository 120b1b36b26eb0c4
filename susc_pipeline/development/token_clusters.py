"""Axes and clusters of one checkpoint, from linear responses alone: no draw is sampled at a checkpoint."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from susc_pipeline.clustering import knn, search
from susc_pipeline.clustering.knn import KNNSettings
from susc_pipeline.clustering.local_cluster import SearchSettings
from susc_pipeline.development.measured import Checkpoint
from susc_pipeline.representation import moments, pca, whitening
from susc_pipeline.representation.pca import PCABasis, RepresentationSettings
from susc_pipeline.susceptibility import reliability


@dataclass(frozen=True)
class ClusterSettings:
    """How vectors become clusters, the same at every checkpoint."""

    representation: RepresentationSettings
    knn: KNNSettings
    search: SearchSettings
    seed: int
    """Of the search for neighbours."""


@dataclass(frozen=True, eq=False)
class Found:
    """Axes and clusters of one checkpoint."""

    basis: PCABasis
    labels: Int[np.ndarray, " tokens"]
    half_a: Int[np.ndarray, " tokens"]
    """Clusters of the same tokens by even chains."""
    half_b: Int[np.ndarray, " tokens"]
    """By odd chains."""


def reliable_basis(checkpoint: Checkpoint, settings: RepresentationSettings) -> PCABasis | None:
    """Principal axes of the z-scored responses whose halves agree; None where no axis is reliable enough.

    Raises:
        ValueError: a component does not vary.
    """
    considered = pca.fit(moments.of(checkpoint.response), n_components=settings.n_components or None)
    halves = moments.of(np.concatenate([checkpoint.half_a, checkpoint.half_b], axis=1))
    reached = reliability.split_half_scores(halves, considered).reliability
    is_reliable = reached >= settings.min_reliability
    return pca.select(considered, is_reliable) if is_reliable.any() else None


def find(checkpoint: Checkpoint, basis: PCABasis, settings: ClusterSettings) -> Found:
    """The clusters by all chains and by either half, in the coordinates of the axes by all chains."""
    values = (checkpoint.response, checkpoint.half_a, checkpoint.half_b)
    return Found(basis, *(labels_of(pca.transform(part, basis), settings) for part in values))


def labels_of(scores: Float[np.ndarray, "tokens pcs"], settings: ClusterSettings) -> Int[np.ndarray, " tokens"]:
    """Cluster of each token, -1 where it is in none."""
    whitener = whitening.fit(moments.of(scores), relative_floor=settings.representation.whitening_floor)
    points = whitening.transform(scores, whitener).astype(np.float32)
    graph = knn.knn_graph(points, settings.knn, np.random.default_rng(settings.seed))
    return search.find_clusters(graph, settings.search).labels
