"""The definition itself: minus the covariance, over draws, of the observable with the token's excess loss.

chi = -Cov[phi, l_xy - L] of Baker et al. (2025); no n_beta, no normalization. Exact for any posterior, and so noisy that it
serves as the oracle of the others.
"""

from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility.estimators import terms
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility


def estimate(traces: LossTraces, all_weights: LossTraces | None = None) -> Susceptibility:
    """A token that the component's noise hurts less than the mean is positive."""
    del all_weights
    phi = traces.mean_loss - traces.rest_loss
    of_tokens = terms.covariance_terms(terms.observable(traces), terms.losses(traces))
    of_mean = terms.covariance_terms(phi, traces.reference_rise[:, None])
    return terms.mean_and_error(of_mean - of_tokens, terms.blocks(traces))


ESTIMATORS = {"restricted": Estimator(estimate, is_covariance=True)}
