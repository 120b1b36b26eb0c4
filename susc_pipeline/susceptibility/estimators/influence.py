"""The Bayesian influence function: as restricted, with the token's own loss in place of its excess."""

from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility.estimators import terms
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility


def estimate(traces: LossTraces, all_weights: LossTraces | None = None) -> Susceptibility:
    """Minus the covariance of the observable with the token's loss, which is not centred on the population."""
    del all_weights
    found = terms.covariance_terms(terms.observable(traces), terms.losses(traces))
    return terms.mean_and_error(-found, terms.blocks(traces))


ESTIMATORS = {"influence": Estimator(estimate, is_covariance=True)}
