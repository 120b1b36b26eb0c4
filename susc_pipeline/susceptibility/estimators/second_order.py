"""First and second Hermite term of the covariance under a Gaussian posterior, with the Hessian of the loss whole.

With g = grad phi, v = E[g] / localization from other contexts, and d = (g(+) - g(-)) / (2 localization) of a chain and its
mirror image,

    chi = -E[v.grad e] - E[d.grad e(+) - d.grad e(-)] / 4,   e = l_xy - L.

The second part is half of E[g_odd.grad e_odd] / localization. Of the Hermite expansion Cov = f1 + f2 + f3 + ... (Houdre,
Perez-Abreu and Surgailis 1998) it holds f1 + f2 + 2 f4; terms of even order in g, f3 among them, are left out. The odd parts
of a pair sum to zero, so that what is linear in the weights adds no noise.

The posterior is taken for the Gaussian prior. With r = n_beta curvature / localization, the part along a direction is too
large by 1 + r on a quadratic loss, and by (1 + r) / (1 - r) where phi's third derivative decides (tests/test_closed_forms.py).
"""

from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility.estimators import terms
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility


def estimate(traces: LossTraces, all_weights: LossTraces | None = None) -> Susceptibility:
    """Chains are independent in direction, draws and contexts: their spread is the error of the population's value."""
    del all_weights
    found = terms.excess_slope(traces) + terms.excess_own_slope(traces) / 2
    return terms.mean_and_error(-found, traces.chain)


ESTIMATORS = {"second_order": Estimator(estimate, needs_direction=True, needs_slopes=True, needs_own_slopes=True)}
