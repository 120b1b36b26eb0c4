"""First and second Hermite term of the covariance under a Gaussian posterior, the second by scores: the default.

With v = E[grad phi] / localization from other contexts, and s the score of labels that the model itself predicts at another
draw, whose covariance is the Fisher matrix F (perturbation.scores),

    chi = -E[v.grad e] - E[s.(hessian e) s] / (2 localization^2),   e = l_xy - L.

Of Cov = f1 + f2 + ... (Houdre, Perez-Abreu and Surgailis 1998) the first part is f1. The second is
f2 = tr(E[H] E[hessian e]) / (2 localization^2) with F, the Gauss-Newton matrix, for the Hessian H of phi. What is left out is
H - F, curvature times the error of the prediction; it is zero at w* for a model whose predictions are calibrated.

Why it is the default: splitting F evenly between both sides gives a noise of tr(F B F B), where second_order.py, which puts H
on one side, has the larger tr(H H B B); for a token whose B is of one direction b that is (b.Fb)^2 instead of |b|^2 |Hb|^2.
`benchmarks/truth.py --part estimators` holds the two against each other.

Both terms are one second difference. On the path w + h s + h^2 localization^2 v a loss has the second derivative
s.(hessian) s + 2 localization^2 v.grad, so that three losses measure both and no tangent is carried (derivatives.curvatures).
"""

from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility.estimators import terms
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility


def estimate(traces: LossTraces, all_weights: LossTraces | None = None) -> Susceptibility:
    """Chains are independent in direction, draws, labels and contexts: their spread is the error of the population's value."""
    del all_weights
    return terms.mean_and_error(-terms.excess_response(traces), traces.chain)


ESTIMATORS = {"gauss_newton": Estimator(estimate, needs_direction=True, needs_responses=True)}
