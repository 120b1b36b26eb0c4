"""Matrices of responses, observables by documents, with their errors: what reweighting.py inverts.

    chi_ij = d O_i / d h_j     where document j has the weight 1 + h_j instead of 1, and L = mean over n documents of l_j

in nats per unit of a weight. Each document counts alike, whatever its length. Where gradients and directions of losses come
from is in group_losses.py.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


class Responses(NamedTuple):
    """How each observable responds to the weight of each document."""

    value: Float[np.ndarray, "observables documents"]
    """In nats per unit of a weight."""
    standard_errors: Float[np.ndarray, "observables documents"]
    """Of the values, in the same unit."""


def from_halves(
    half_a: Float[np.ndarray, "observables documents"], half_b: Float[np.ndarray, "observables documents"]
) -> Responses:
    """The mean of two independent estimates, and its error: half their root mean square difference, one for each observable.

    One difference has one degree of freedom, so the documents of an observable are pooled, as if their errors were independent.
    What errors share counts too, a difference common to all documents included.
    """
    errors = np.sqrt(np.mean((half_a - half_b) ** 2, axis=1, keepdims=True)) / 2
    return Responses((half_a + half_b) / 2, np.broadcast_to(errors, half_a.shape).copy())


def of_losses(
    directions: Float[Tensor, "observables parameters"], gradients: Float[Tensor, "documents parameters"]
) -> Float[np.ndarray, "observables documents"]:
    """chi_ij = -v_i . (grad l_j - grad L) / n, by directions and gradients as group_losses.py gives them."""
    centred = gradients - gradients.mean(dim=0)
    return -(directions @ centred.T).double().cpu().numpy() / len(gradients)


def of_components(
    half_a: Float[np.ndarray, "tokens components"],
    half_b: Float[np.ndarray, "tokens components"],
    documents: Int[np.ndarray, " documented_tokens"],
    *,
    n_beta: float,
) -> Responses:
    """How the population loss under each component's posterior responds to the weight of each document.

    d<phi_c>/d h_j = -n_beta Cov[phi_c, l_j - L] / n: n_beta / n times the mean susceptibility of the document's tokens.

    Args:
        half_a: susceptibilities or linear responses by one half of the chains, in nats squared.
        half_b: by the other half.
        documents: number of each token's document, from 0 on without a gap.
        n_beta: of the posterior, without unit.

    Raises:
        ValueError: a document has no token, or the numbers of tokens differ.
    """
    if len(documents) != len(half_a):
        raise ValueError(f"{len(documents)} tokens have a document, but {len(half_a)} a response; give one for each")
    n_tokens = np.bincount(documents)
    if not n_tokens.all():
        raise ValueError(f"document {int(np.argmin(n_tokens))} has no token; number the documents without a gap")
    return of_document_means(*(document_means(half, documents) for half in (half_a, half_b)), n_beta=n_beta)


def document_means(
    values: Float[np.ndarray, "tokens components"], documents: Int[np.ndarray, " tokens"]
) -> Float[np.ndarray, "documents components"]:
    """Mean over each document's tokens; documents are numbered from 0 on without a gap."""
    sums = np.stack([np.bincount(documents, column) for column in values.T.astype(np.float64)], axis=1)
    return sums / np.bincount(documents)[:, None]


def of_document_means(
    half_a: Float[np.ndarray, "documents components"],
    half_b: Float[np.ndarray, "documents components"],
    *,
    n_beta: float,
) -> Responses:
    """The same from each document's mean over its tokens, by either half of the chains, in nats squared."""
    return from_halves(*(n_beta * means.T / len(means) for means in (half_a, half_b)))
