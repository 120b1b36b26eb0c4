"""The table of components: what each is, how well it is measured, what decides its susceptibilities. No token is in it."""

from collections.abc import Sequence

import polars as pl

from susc_pipeline import schema
from susc_pipeline.model.components import Component
from susc_pipeline.representation.pca import PCABasis


def component_table(
    chosen: Sequence[Component],
    n_weights: Sequence[int],
    basis: PCABasis,
    reliability: pl.DataFrame,
    regime: pl.DataFrame,
    *,
    n_beta: float,
) -> pl.DataFrame:
    """A row for each component, of schema.COMPONENTS, in the order of the entries of every vector over components.

    Args:
        chosen: the components that are shaken, in order.
        n_weights: number of weights of each.
        basis: mean, standard deviation (nats squared) and principal axes of their susceptibilities.
        reliability: of schema.RELIABILITY.
        regime: of schema.REGIME; of its rows, those at this n_beta.
        n_beta: of the chains that the susceptibilities are by; LLC and its error are missing where it is zero.

    Raises:
        ValueError: the basis is of another number of components.
    """
    if len(chosen) != len(basis.mean):
        raise ValueError(
            f"the basis is of {len(basis.mean)} components, the model has {len(chosen)}; materialize pca_basis again"
        )
    variance = basis.scale**2
    own = pl.DataFrame(
        {
            "component": range(len(chosen)),
            "name": [one.name for one in chosen],
            "kind": [one.kind for one in chosen],
            "layer": [one.layer if one.layer >= 0 else None for one in chosen],
            "head": [one.head if one.head >= 0 else None for one in chosen],
            "n_weights": n_weights,
            "mean": basis.mean,
            "standard_deviation": basis.scale,
            "share_of_variance": variance / variance.sum(),
            "loadings": basis.components.T.tolist(),
        }
    )
    of_components = reliability.filter(kind="component").select(
        "name", "reliability", reliability_low="low", reliability_high="high"
    )
    here = regime.filter(pl.col("n_beta") == n_beta).unique("component", keep="first", maintain_order=True)
    decided = here.select(
        "curvature",
        "controlled_share",
        *(pl.when(pl.col("n_beta") > 0).then(pl.col(column)).alias(column) for column in ("llc", "llc_error")),
        name="component",
        loss_pull=pl.col("n_beta") * pl.col("curvature") / pl.col("localization"),
    )
    joined = own.join(of_components, on="name", how="left").join(decided, on="name", how="left").sort("component")
    return joined.select(pl.col(name).cast(kind) for name, kind in schema.COMPONENTS.items())
