"""The table of chain diagnostics: whether the chains of each component can be believed, and its LLC. Formulas are elsewhere."""

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
from jaxtyping import Float

from susc_pipeline import schema
from susc_pipeline.sampling import convergence, diagnostics
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import regime
from susc_pipeline.susceptibility.direction_files import Diagnostics


def of_directions(component: str, found: Diagnostics, settings: SamplingSettings) -> dict[str, object]:
    """The row of the chains that found a component's response directions, which belong to no shard."""
    own = {
        "direction_reliability": found.reliability,
        "contexts": found.n_contexts,
        "contexts_needed": found.n_contexts_needed,
    }
    return row(component, None, regime.rises(found, settings), n_beta=settings.n_beta) | own


def row(
    component: str, shard: str | None, rise: Float[np.ndarray, "chains draws"], *, n_beta: float
) -> dict[str, object]:
    """What the rise of the mean loss over that at w* says of a component's chains, a row of schema.CHAIN_DIAGNOSTICS.

    Args:
        component: its name.
        shard: whose tokens the chains measured; none for the chains that found directions.
        rise: in nats; a row for each pair of mirrored chains.
        n_beta: of the chains; LLC and its error are missing where it is zero.
    """
    llc = diagnostics.local_learning_coefficient(rise, init_loss=0.0, n_beta=n_beta)
    enough = rise.shape[1] >= convergence.MIN_DRAWS
    return {
        "component": component,
        "shard": shard,
        "n_chains": rise.shape[0],
        "n_draws": rise.shape[1],
        "r_hat": diagnostics.r_hat(rise) if enough else None,
        "r_hat_limit": diagnostics.r_hat_limit(*rise.shape) if enough else None,
        "bulk_ess": convergence.bulk_effective_sample_size(rise) if enough else None,
        "effective_share": diagnostics.effective_sample_size(rise) / rise.size,
        "llc": llc.value if n_beta else None,
        "llc_error": llc.standard_error if n_beta else None,
    }


def table(rows: Iterable[Mapping[str, object]]) -> pl.DataFrame:
    """The rows as schema.CHAIN_DIAGNOSTICS; what a row lacks is missing."""
    names = schema.CHAIN_DIAGNOSTICS
    return pl.DataFrame([{name: one.get(name) for name in names} for one in rows], schema=names)
