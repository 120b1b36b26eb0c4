"""Bulk effective sample size of chains, by arviz-stats. R-hat, whose limit by chance is known here, is in diagnostics.py."""

import numpy as np
from jaxtyping import Float

MIN_DRAWS = 4  # of a chain: each half needs two


def bulk_effective_sample_size(trace: Float[np.ndarray, "chains draws"]) -> float:
    """Independent draws with the same error of the mean, after draws are replaced by normal scores of their ranks.

    Vehtari et al. (2021), Rank-normalization, folding, and localization; chains are split in halves. nan for fewer than
    MIN_DRAWS draws a chain.
    """
    if trace.shape[1] < MIN_DRAWS:
        return float("nan")
    from arviz_stats.base import array_stats  # here: it is slow to load

    return float(array_stats.ess(trace, chain_axis=0, draw_axis=1, method="bulk"))
