"""PCA of the z-scored susceptibility matrix, fitted to merged moments. Whitening of what is predicted is in whitening.py."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64
from safetensors.numpy import save_file

from susc_pipeline import folders
from susc_pipeline.messages import require
from susc_pipeline.representation import moments as moments_module
from susc_pipeline.representation.moments import Moments

KIND = "pca_basis"
AXES = {"mean": "components", "scale": "components", "components": "pcs components", "explained_variance": "pcs"}
UPSAMPLINGS = ("linear_response", "auxiliary")


@dataclass(frozen=True)
class RepresentationSettings:
    """Residual-stream inputs, PCA and whitening."""

    upsampling: str = "linear_response"
    """Where the vectors of all tokens come from: `linear_response`, measured at the trained weights, or `auxiliary`, predicted
    from activations by the auxiliary model."""
    layers: tuple[int, ...] = (1, 2, 3, 4)
    """Residual stream after these layers (1 = after the first) is the auxiliary model's input."""
    n_components: int = 0
    """Principal components considered; 0 considers one per model component."""
    min_reliability: float = 0.5
    """Split-half reliability below which a principal component is dropped: at 1/2 it is half noise, and whitening would
    give that noise the weight of a signal. A component of little variance that is reliable stays."""
    whitening_floor: float = 1e-3
    """Principal components with less than this share of the largest predicted variance are dropped."""

    def __post_init__(self) -> None:
        """Check the values."""
        rule = f"one of {UPSAMPLINGS}"
        require(self.upsampling in UPSAMPLINGS, "representation.upsampling", self.upsampling, rule)
        require(len(self.layers) >= 1, "representation.layers", self.layers, "at least one layer")
        require(min(self.layers) >= 1, "representation.layers", self.layers, "numbers from 1")
        require(len(set(self.layers)) == len(self.layers), "representation.layers", self.layers, "different layers")
        require(self.n_components >= 0, "representation.n_components", self.n_components, "zero or more")
        require(self.min_reliability < 1, "representation.min_reliability", self.min_reliability, "below 1")
        require(0 <= self.whitening_floor < 1, "representation.whitening_floor", self.whitening_floor, "in [0, 1)")


@dataclass(frozen=True, eq=False)
class PCABasis:
    """Mean and standard deviation of each model component, and the principal axes (rows) of the z-scored matrix.

    `explained_variance` are eigenvalues of the correlation matrix, so that all of them together add up to the number
    of model components; `count` is the number of tokens behind the fit.
    """

    mean: Float64[np.ndarray, " components"]
    scale: Float64[np.ndarray, " components"]
    components: Float64[np.ndarray, "pcs components"]
    explained_variance: Float64[np.ndarray, " pcs"]
    count: int

    @property
    def explained_variance_ratio(self) -> Float64[np.ndarray, " pcs"]:
        """Share of the z-scored matrix's total variance (1 per model component) along each principal axis."""
        return self.explained_variance / len(self.mean)


class PrincipalAxes(NamedTuple):
    """Eigenvectors of a covariance as rows, by falling variance, largest loading positive."""

    directions: Float64[np.ndarray, "pcs features"]
    variance: Float64[np.ndarray, " pcs"]


def fit(moments: Moments, *, n_components: int | None = None) -> PCABasis:
    """The leading `n_components` principal axes of the z-scored variables, or all of them.

    Raises:
        ValueError: a column is constant, or there are fewer columns than axes asked for.
    """
    n_columns = len(moments.mean)
    n_kept = n_columns if n_components is None else n_components
    if not 1 <= n_kept <= n_columns:
        raise ValueError(f"n_components must be between 1 and the number of columns ({n_columns}), got {n_kept}")
    axes = principal_axes(moments_module.standardized(moments).covariance)
    return PCABasis(
        moments.mean, moments.standard_deviation, axes.directions[:n_kept], axes.variance[:n_kept], moments.count
    )


def select(basis: PCABasis, keep: Bool[np.ndarray, " pcs"]) -> PCABasis:
    """The basis with only these axes.

    Raises:
        ValueError: none is kept.
    """
    if not keep.any():
        raise ValueError(
            f"at least one of {len(keep)} principal axes must be kept, got none; lower the bar or draw more"
        )
    return replace(basis, components=basis.components[keep], explained_variance=basis.explained_variance[keep])


def transform(x: Float[np.ndarray, "tokens components"], basis: PCABasis) -> Float64[np.ndarray, "tokens pcs"]:
    """PC scores: z-scores by the basis's mean and standard deviation, projected onto its axes."""
    return ((x - basis.mean) / basis.scale) @ basis.components.T


def inverse_transform(
    scores: Float[np.ndarray, "tokens pcs"], basis: PCABasis
) -> Float64[np.ndarray, "tokens components"]:
    """The matrix in its own units that has these PC scores, and zero along the axes left out."""
    return (scores @ basis.components) * basis.scale + basis.mean


def principal_axes(covariance: Float64[np.ndarray, "features features"]) -> PrincipalAxes:
    """Eigenvectors and eigenvalues of a covariance; eigenvalues that rounding made negative become 0."""
    variance, vectors = np.linalg.eigh(covariance)
    directions = np.ascontiguousarray(vectors.T[::-1])
    return PrincipalAxes(oriented(directions), np.maximum(variance[::-1], 0.0))


def oriented(directions: Float64[np.ndarray, "pcs features"]) -> Float64[np.ndarray, "pcs features"]:
    """The directions with signs such that the loading of largest size is positive.

    Of loadings that agree to half of the digits the first one counts: rounding must not choose between 0.71 and -0.71,
    which are all the loadings that two columns can have.
    """
    size = np.abs(directions)
    tied = size >= size.max(axis=1, keepdims=True) * (1 - np.sqrt(np.finfo(np.float64).eps))
    signs = np.sign(directions[np.arange(len(directions)), tied.argmax(axis=1)])
    return directions * signs[:, None]


def save(basis: PCABasis, folder: Path) -> None:
    """Write config.json and basis.safetensors into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(getattr(basis, name)) for name in AXES}, folder / "basis.safetensors")
    config = {"kind": KIND, "count": basis.count}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> PCABasis:
    """The basis that `save` wrote, equal to the last bit.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    count = folders.number(folders.read_config(folder, KIND), "count", int, folder)
    return PCABasis(count=count, **folders.read_arrays(folder / "basis.safetensors", AXES))
