"""The linear response alone: minus the mean slope of the excess loss along v = E[grad phi] / localization.

The first Hermite term of the covariance under a Gaussian posterior (Houdre, Perez-Abreu and Surgailis 1998). Near a minimum
the second term is of the same size: second_order.py adds it.
"""

from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility.estimators import terms
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility


def estimate(traces: LossTraces, all_weights: LossTraces | None = None) -> Susceptibility:
    """Each chain has a direction of its own, so the spread between chains covers the direction's error too."""
    del all_weights
    return terms.mean_and_error(-terms.excess_slope(traces), traces.chain)


ESTIMATORS = {"first_order": Estimator(estimate, needs_direction=True, needs_slopes=True)}
