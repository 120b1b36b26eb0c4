"""Weights of documents that make a wanted change of observables: the ridge-regularized pseudo-inverse of their responses.

    h = chi^T (chi chi^T + ridge N)^-1 wanted,     weights 1 + h,

N the diagonal of each observable's squared noise, the sum over documents of its squared errors. The rows of chi are centred, so
that the weights have the mean one. This is patterning, the dual of interpretability (Wang and Murfet 2026). Errors of chi are
propagated to first order, as if independent. In truth the error of an observable's response direction is shared by all documents,
so errors of weights and of predictions can be too small. Where chi comes from is in document_responses.py.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from susc_pipeline.patterning.document_responses import Responses


class Reachable(NamedTuple):
    """Directions of the observables in units of their noise, from the one that rises highest above it to the lowest."""

    directions: Float[np.ndarray, "observables directions"]
    """Of unit length: left singular vectors of the centred responses, each observable divided by its noise."""
    singular_values: Float[np.ndarray, " directions"]
    """Length of the change by weights of unit length, in units of the noise."""
    noise_level: float
    """Largest singular value that errors alone would give, in the same units; a direction is reachable above it."""
    noise: Float[np.ndarray, " observables"]
    """Of each observable: root of the sum over documents of squared errors, in nats; at least rounding."""

    @property
    def certainty(self) -> Float[np.ndarray, " directions"]:
        """Share of the squared singular value that is not noise, between 0 and 1."""
        return np.clip(1 - 1 / np.maximum(self.singular_values, np.finfo(np.float64).tiny) ** 2, 0, 1)

    @property
    def count(self) -> int:
        """Number of reachable directions."""
        return int((self.singular_values > self.noise_level).sum())


class Reweighting(NamedTuple):
    """Weights of the documents, and what they are predicted to do."""

    weights: Float[np.ndarray, " documents"]
    """Not negative, mean one."""
    standard_errors: Float[np.ndarray, " documents"]
    """Of the weights before clipping, from the errors of the responses as if independent."""
    predicted: Float[np.ndarray, " observables"]
    """Change of each observable by these weights, in nats: clipping counted, optimism taken off."""
    predicted_errors: Float[np.ndarray, " observables"]
    """Standard errors of the predicted change, from errors of the responses as if independent, in nats."""
    reachable_share: float
    """Share of the wanted change's squared length, in units of the noise, along reachable directions."""
    n_clipped: int
    """Weights that would have been negative and are zero."""
    lost_share: float
    """Share of the change that the weights would make unclipped, along itself, that clipping loses."""
    unclipped_share: float
    """Largest multiple of the wanted change that needs no clipping."""


def reachable(responses: Responses) -> Reachable:
    """The directions of the observables and how far each rises above the noise.

    The noise level is the longest row plus the longest column of the errors, a bound on the mean largest singular value of a
    matrix of such noise but for a factor near one (Bandeira and van Handel 2016). Rows have the length one in units of the
    noise, so that m observables with equal errors for n documents give 1 + sqrt(m / n).

    Raises:
        ValueError: a response or an error that is not finite, or an error below zero.
    """
    chi = _centred(responses)
    squares = responses.standard_errors.astype(np.float64) ** 2
    rounding = (
        np.linalg.norm(chi, axis=1) * max(chi.shape) * np.finfo(chi.dtype).eps
    )  # the rule of numpy.linalg.matrix_rank
    noise = np.maximum(np.sqrt(squares.sum(axis=1)), rounding.clip(np.finfo(chi.dtype).tiny))
    left, values, _ = np.linalg.svd(chi / noise[:, None], full_matrices=False)
    level = 1 + np.sqrt((squares / noise[:, None] ** 2).sum(axis=0).max())
    return Reachable(left, values, float(level), noise)


def weights(
    responses: Responses,
    wanted: Float[np.ndarray, " observables"],
    *,
    ridge: float = 1.0,
    project: bool = False,
) -> Reweighting:
    """The weights of the documents that make the wanted change with least squared departure from one.

    Weights below zero become zero and all are scaled to the mean one; `lost_share` says what that costs, and the wanted change
    times `unclipped_share` needs none of it.

    Args:
        responses: of the observables to the documents.
        wanted: change of every observable, in nats; zero asks that it stay.
        ridge: in multiples of the squared noise: with 1, a change is sought as far as it rises above the noise; with 0 exactly.
        project: take the wanted change's part along reachable directions where not all are, instead of refusing it.

    Raises:
        ValueError: a number that is not finite, other numbers of observables, a change of zero, or fewer reachable directions
            than observables.
    """
    found = reachable(responses)
    _check(responses, wanted, found, ridge)
    basis = found.directions[:, : found.count]
    relative = wanted / found.noise
    part = basis.T @ relative
    share = float((part @ part) / (relative @ relative))
    aim = wanted
    if found.count < len(wanted):
        _refuse_unreachable(found, len(wanted), share, project)
        aim = found.noise * (basis @ part)
    squares = responses.standard_errors.astype(np.float64) ** 2
    return _clipped(_solve(responses, aim, found, ridge), squares, share)


class _Solution(NamedTuple):
    chi: Float[np.ndarray, "observables documents"]
    multipliers: Float[np.ndarray, " observables"]
    """(chi chi^T + ridge N)^-1 wanted."""
    inverse: Float[np.ndarray, "documents observables"]
    """chi^T (chi chi^T + ridge N)^-1."""

    @property
    def excess(self) -> Float[np.ndarray, " documents"]:
        return self.chi.T @ self.multipliers

    @property
    def free(self) -> Float[np.ndarray, " documents"]:
        """Diagonal of 1 - inverse chi: how far a document's own error moves its weight."""
        return 1 - np.einsum("ji,ij->j", self.inverse, self.chi)


def _solve(responses: Responses, aim: Float[np.ndarray, " observables"], found: Reachable, ridge: float) -> _Solution:
    """Solved in units of the noise, where observables of any unit have like lengths."""
    chi, noise = _centred(responses), found.noise
    rows, own = chi / noise[:, None], (responses.standard_errors / noise[:, None]) ** 2
    inverse = np.linalg.pinv(rows @ rows.T + ridge * np.diag(own.sum(axis=1)), hermitian=True) / np.outer(noise, noise)
    return _Solution(chi, inverse @ aim, chi.T @ inverse)


def _weight_errors(
    solution: _Solution, squares: Float[np.ndarray, "observables documents"]
) -> Float[np.ndarray, " documents"]:
    """Root of the sum of squares of (1 - inverse chi)_jk y_i - inverse_ji h_k times the error of chi_ik, y the multipliers."""
    chi, y, inverse = solution
    own = squares.T @ y**2
    spread = np.einsum("ji,il,jl->j", inverse, (chi * own) @ chi.T, inverse)
    direct = own * (2 * solution.free - 1) + spread
    pushed = solution.excess[:, None] * squares.T
    crossed = ((pushed - inverse @ (chi @ pushed)) * y * inverse).sum(axis=1)
    return np.sqrt(np.maximum(direct - 2 * crossed + inverse**2 @ (squares @ solution.excess**2), 0))


def _optimism(
    solution: _Solution, squares: Float[np.ndarray, "observables documents"], kept: Bool[np.ndarray, " documents"]
) -> Float[np.ndarray, " observables"]:
    """What the responses promise too much because the weights were fitted to their errors: a covariance penalty (Efron 2004)."""
    pulled = solution.free[:, None] * solution.multipliers - solution.inverse * solution.excess[:, None]
    return (squares * pulled.T)[:, kept].sum(axis=1)


def _clipped(solution: _Solution, squares: Float[np.ndarray, "observables documents"], share: float) -> Reweighting:
    excess = solution.excess
    weights = np.maximum(1 + excess, 0)
    weights *= len(weights) / weights.sum()
    whole, kept = solution.chi @ excess, 1 + excess >= 0
    made = solution.chi @ (weights - 1)
    return Reweighting(
        weights=weights,
        standard_errors=_weight_errors(solution, squares),
        predicted=made - _optimism(solution, squares, kept),
        predicted_errors=np.sqrt(squares @ (weights - 1) ** 2),
        reachable_share=share,
        n_clipped=int((~kept).sum()),
        lost_share=float(1 - (made @ whole) / (whole @ whole)),
        unclipped_share=float(1 / max(-excess.min(), np.finfo(np.float64).tiny)),
    )


def _centred(responses: Responses) -> Float[np.ndarray, "observables documents"]:
    value, errors = responses
    if not (np.isfinite(value).all() and np.isfinite(errors).all() and (errors >= 0).all()):
        raise ValueError(
            "responses must be finite and their standard errors not negative; leave out documents and observables that "
            "have none"
        )
    value = value.astype(np.float64)
    return value - value.mean(axis=1, keepdims=True)


def _check(responses: Responses, wanted: Float[np.ndarray, " observables"], found: Reachable, ridge: float) -> None:
    if len(wanted) != len(responses.value):
        raise ValueError(
            f"{len(wanted)} changes are wanted of {len(responses.value)} observables; give one for each, zero where an "
            f"observable shall stay"
        )
    if not np.isfinite(wanted).all():
        number = int(np.argmin(np.isfinite(wanted)))
        raise ValueError(
            f"the wanted change of observable {number} is {wanted[number]}; give finite changes in nats, and leave out the "
            f"row of an observable that may do what it will"
        )
    if not wanted.any():
        raise ValueError("the wanted change is zero everywhere, which needs no weights; ask for a change")
    if not 0 <= ridge < np.inf:
        raise ValueError(f"ridge must be zero or more and finite, got {ridge}; 1 allows for the noise of the responses")


def _refuse_unreachable(found: Reachable, n_wanted: int, share: float, project: bool) -> None:
    if project and found.count:
        return
    least = found.singular_values[-1] if len(found.singular_values) else 0.0
    remedy = f"project=True takes the {share:.0%} of the change along reachable directions, or " if found.count else ""
    raise ValueError(
        f"{n_wanted} observables are to change or to stay, but only {found.count} directions rise above the noise (level "
        f"{found.noise_level:.2f} in its own units, least singular value {least:.3g}); {remedy}ask for fewer observables, give "
        f"more documents, or measure the responses on more contexts"
    )
