"""Weights of documents that make a wanted change of observables: the ridge-regularized pseudo-inverse of their responses.

    h = chi^T (chi chi^T + ridge)^-1 wanted,     weights 1 + h,

with the rows of chi centred, so that the weights have the mean one (patterning, the dual of interpretability: Wang and Murfet
2026). Errors of chi are taken as independent and are propagated to first order. Where chi comes from is in document_responses.py.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from susc_pipeline.patterning.document_responses import Responses


class Reachable(NamedTuple):
    """Directions in the space of observables, from the one that documents move most to the one that they move least."""

    directions: Float[np.ndarray, "observables directions"]
    """Of unit length: left singular vectors of the centred responses."""
    singular_values: Float[np.ndarray, " directions"]
    """Length of the change by weights of unit length, in nats."""
    noise: Float[np.ndarray, " directions"]
    """Length that errors alone would give along the direction, in nats."""
    noise_level: float
    """Largest singular value that errors alone would give, in nats; a direction is reachable above it."""

    @property
    def certainty(self) -> Float[np.ndarray, " directions"]:
        """Share of the squared singular value that is not noise, between 0 and 1."""
        whole = np.maximum(self.singular_values, np.finfo(np.float64).tiny) ** 2
        return np.clip(1 - self.noise**2 / whole, 0, 1)

    @property
    def count(self) -> int:
        """Number of reachable directions."""
        return int((self.singular_values > self.noise_level).sum())


class Reweighting(NamedTuple):
    """Weights of the documents, and what they are predicted to do."""

    weights: Float[np.ndarray, " documents"]
    """Not negative, mean one."""
    standard_errors: Float[np.ndarray, " documents"]
    """Of the weights before clipping, from the errors of the responses."""
    predicted: Float[np.ndarray, " observables"]
    """Change of each observable by these weights, in nats: clipping counted, optimism taken off."""
    predicted_errors: Float[np.ndarray, " observables"]
    """Standard errors of the predicted change, in nats."""
    reachable_share: float
    """Share of the wanted change's squared length along reachable directions."""
    n_clipped: int
    """Weights that would have been negative and are zero."""
    lost_share: float
    """Share of the change that the weights would make unclipped, along itself, that clipping loses."""
    unclipped_share: float
    """Largest multiple of the wanted change that needs no clipping."""
    ridge: float
    """In nats squared."""


def reachable(responses: Responses) -> Reachable:
    """The directions of the observables and how far each rises above the noise.

    The noise level is the longest row plus the longest column of the errors, a bound on the mean largest singular value of a
    matrix of such noise but for a factor near one (Bandeira and van Handel 2016); equal errors s give s (sqrt n + sqrt m).

    Raises:
        ValueError: a response or an error that is not finite, or an error below zero.
    """
    chi, squares = _centred(responses), responses.standard_errors**2
    left, values, _ = np.linalg.svd(chi, full_matrices=False)
    noise = np.sqrt((left**2 * squares.sum(axis=1)[:, None]).sum(axis=0))
    level = np.sqrt(squares.sum(axis=1).max()) + np.sqrt(squares.sum(axis=0).max())
    rounding = values.max() * max(chi.shape) * np.finfo(chi.dtype).eps  # the rule of numpy.linalg.matrix_rank
    return Reachable(left, values, noise, float(max(level, rounding)))


def weights(
    responses: Responses,
    wanted: Float[np.ndarray, " observables"],
    *,
    ridge: float | None = None,
    project: bool = False,
) -> Reweighting:
    """The weights of the documents that make the wanted change with least squared departure from one.

    Weights below zero become zero and all are scaled to the mean one; `lost_share` says what that costs, and the wanted change
    times `unclipped_share` needs none of it.

    Args:
        responses: of the observables to the documents.
        wanted: change of every observable, in nats; zero asks that it stay.
        ridge: in nats squared; None: the mean squared noise of an observable, summed over documents.
        project: take the wanted change's part along reachable directions where not all are, instead of refusing it.

    Raises:
        ValueError: a number that is not finite, other numbers of observables, a change of zero, or fewer reachable directions
            than observables.
    """
    found = reachable(responses)
    _check(responses, wanted, found, ridge)
    basis = found.directions[:, : found.count]
    aim = basis @ (basis.T @ wanted)
    share = float((aim @ aim) / (wanted @ wanted))
    if found.count < len(wanted):
        _refuse_unreachable(found, len(wanted), share, project)
    else:
        aim = wanted
    squares = responses.standard_errors**2
    ridge = float(squares.sum(axis=1).mean()) if ridge is None else ridge
    solution = _solve(_centred(responses), aim, ridge)
    return _clipped(solution, squares, share, ridge)


class _Solution(NamedTuple):
    chi: Float[np.ndarray, "observables documents"]
    multipliers: Float[np.ndarray, " observables"]
    """(chi chi^T + ridge)^-1 wanted."""
    inverse: Float[np.ndarray, "documents observables"]
    """chi^T (chi chi^T + ridge)^-1."""

    @property
    def excess(self) -> Float[np.ndarray, " documents"]:
        return self.chi.T @ self.multipliers

    @property
    def free(self) -> Float[np.ndarray, " documents"]:
        """Diagonal of 1 - inverse chi: how far a document's own error moves its weight."""
        return 1 - np.einsum("ji,ij->j", self.inverse, self.chi)


def _solve(chi: Float[np.ndarray, "observables documents"], aim: Float[np.ndarray, " observables"], ridge: float):
    inverse = np.linalg.pinv(chi @ chi.T + ridge * np.eye(len(chi)), hermitian=True)
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


def _clipped(
    solution: _Solution, squares: Float[np.ndarray, "observables documents"], share: float, ridge: float
) -> Reweighting:
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
        ridge=ridge,
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


def _check(
    responses: Responses, wanted: Float[np.ndarray, " observables"], found: Reachable, ridge: float | None
) -> None:
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
    if ridge is not None and not 0 <= ridge < np.inf:
        raise ValueError(f"ridge must be zero or more and finite, got {ridge}; None takes the noise of the responses")


def _refuse_unreachable(found: Reachable, n_wanted: int, share: float, project: bool) -> None:
    if project and found.count:
        return
    least = found.singular_values[-1] if len(found.singular_values) else 0.0
    remedy = f"project=True takes the {share:.0%} of the change along reachable directions, or " if found.count else ""
    raise ValueError(
        f"{n_wanted} observables are to change or to stay, but only {found.count} directions rise above the noise (level "
        f"{found.noise_level:.3g} nats, least singular value {least:.3g}); {remedy}ask for fewer observables, give more "
        f"documents, or measure the responses on more contexts"
    )
