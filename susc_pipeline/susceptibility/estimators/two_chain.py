"""Two kinds of chains: the mean of the excess is that of chains in which all weights move (Gordon et al.; devinterp).

-(E_C[phi (l - L)] - E_C[phi] E_all[l - L]): it holds phi's mean times how much the component alone moves the excess.
"""

import numpy as np

from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility.estimators import terms
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility


def estimate(traces: LossTraces, all_weights: LossTraces | None = None) -> Susceptibility:
    """The estimate, with the error of both kinds of chains.

    Raises:
        ValueError: chains of all weights were not sampled.
    """
    if all_weights is None:
        raise ValueError("estimator two_chain needs chains of all weights; sample the component all_weights too")
    phi = traces.mean_loss - traces.rest_loss
    excess, reference_excess = (terms.losses(t) - t.reference_rise[:, None] for t in (traces, all_weights))
    reference = terms.mean_and_error(reference_excess, terms.blocks(all_weights))
    found = terms.mean_and_error(-phi[:, None] * (excess - reference.value), terms.blocks(traces))
    return Susceptibility(found.value, np.hypot(found.standard_error, phi.mean() * reference.standard_error))


ESTIMATORS = {"two_chain": Estimator(estimate, needs_all_weights=True, is_covariance=True)}
