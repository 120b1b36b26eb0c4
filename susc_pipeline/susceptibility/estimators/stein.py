"""first_order plus the sample covariance of what v does not explain: v's score as a control variate.

Cov[phi, e] = E[v.grad e] + Cov[phi - v.score, e], whatever the direction v; score is the gradient of the negative log
posterior. Unbiased, with the noise of a covariance.
"""

from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility.estimators import terms
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility


def estimate(traces: LossTraces, all_weights: LossTraces | None = None) -> Susceptibility:
    """The linear response, and the covariance that is left."""
    del all_weights
    phi = traces.mean_loss - traces.rest_loss
    rest = terms.covariance_with_excess(phi - traces.score, traces)
    return terms.mean_and_error(-terms.excess_slope(traces) - rest, traces.chain)


ESTIMATORS = {"stein": Estimator(estimate, needs_direction=True, needs_slopes=True, is_covariance=True)}
