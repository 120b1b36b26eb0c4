"""Whitening: PCA of the predicted PC scores, each direction scaled to unit variance. The first PCA is in pca.py.

An auxiliary model predicts a noisy PC with little variance, so the predicted matrix has nearly null directions. Scaled
to unit variance they would fill the distances between tokens with noise; directions below a floor are dropped.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64
from safetensors.numpy import save_file

from susc_pipeline import folders
from susc_pipeline.representation import pca
from susc_pipeline.representation.moments import Moments

KIND = "whitening_basis"
AXES = {"mean": "pcs", "directions": "directions pcs", "variance": "directions"}


@dataclass(frozen=True, eq=False)
class WhiteningBasis:
    """Mean of the predicted scores, the directions kept (orthonormal rows), and the variance along each.

    `floor` is the variance at or below which a direction was dropped; `count` is the number of tokens behind the fit.
    """

    mean: Float64[np.ndarray, " pcs"]
    directions: Float64[np.ndarray, "directions pcs"]
    variance: Float64[np.ndarray, " directions"]
    floor: float
    count: int

    @property
    def n_dropped(self) -> int:
        """Directions left out because their variance does not exceed the floor."""
        return len(self.mean) - len(self.variance)


def fit(moments: Moments, *, relative_floor: float) -> WhiteningBasis:
    """Whitening of the variables behind the moments.

    Args:
        moments: of the predicted PC scores, over all shards.
        relative_floor: directions with at most this share of the largest variance are dropped; 0 drops only those
            that are null to rounding.

    Raises:
        ValueError: the scores do not vary at all.
    """
    if not 0 <= relative_floor < 1:
        raise ValueError(f"relative_floor must be in [0, 1), got {relative_floor:g}; 1e-3 is the usual value")
    if moments.is_constant.all():
        raise ValueError("predicted scores must vary to be whitened, got only constant columns; check the aux model")
    axes = pca.principal_axes(moments.covariance)
    floor = variance_floor(axes.variance, relative_floor)
    keep = axes.variance > floor
    return WhiteningBasis(moments.mean, axes.directions[keep], axes.variance[keep], floor, moments.count)


def variance_floor(variance: Float64[np.ndarray, " pcs"], relative_floor: float) -> float:
    """The largest variance times the relative floor, or times n * eps where that is more.

    The second is the rank rule of numpy.linalg.matrix_rank, applied to the covariance: eigenvalues of a symmetric
    matrix are known to about eps times the largest, and no direction below that is told from zero.
    """
    rank_floor = len(variance) * np.finfo(variance.dtype).eps
    return float(variance.max() * max(relative_floor, rank_floor))


def transform(
    scores: Float[np.ndarray, "tokens pcs"], basis: WhiteningBasis
) -> Float64[np.ndarray, "tokens directions"]:
    """Scores centred, rotated to the basis's directions, and divided by the standard deviation along each."""
    return ((scores - basis.mean) @ basis.directions.T) / np.sqrt(basis.variance)


def save(basis: WhiteningBasis, folder: Path) -> None:
    """Write config.json and basis.safetensors into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(getattr(basis, name)) for name in AXES}, folder / "basis.safetensors")
    config = {"kind": KIND, "floor": basis.floor, "count": basis.count}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> WhiteningBasis:
    """The basis that `save` wrote, equal to the last bit (JSON holds the shortest digits that read back exactly).

    Raises:
        ValueError: there is none, or it is damaged.
    """
    config = folders.read_config(folder, KIND)
    floor, count = folders.number(config, "floor", float, folder), folders.number(config, "count", int, folder)
    return WhiteningBasis(floor=floor, count=count, **folders.read_arrays(folder / "basis.safetensors", AXES))
