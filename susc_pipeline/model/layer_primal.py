"""What a layer computes at w*, kept for its tangents. How it is computed is in layer_tangents.py."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Normed(NamedTuple):
    """A norm's input, output, mean (of a layer norm) and what it divides by, inverted; without a norm, both are absent."""

    read: Tensor
    normed: Tensor
    mean: Tensor | None = None
    inverse: Tensor | None = None


class Attention(NamedTuple):
    """Of shape (contexts groups rows ...), a row for each head of the group and position; the query is scaled."""

    query: Tensor
    key: Tensor
    value: Tensor
    query_reads: Normed
    key_reads: Normed
    scores: Tensor
    """Before the soft cap and the mask."""
    probabilities: Tensor
    weights: Tensor
    """Derivative of a tangent's weighted scores: the probabilities, times the derivative of the soft cap."""
    mixed: Float[Tensor, "contexts positions heads size"]


class Bent(NamedTuple):
    """The outputs of an MLP's first matrices, and what its last matrix reads."""

    hidden: Tensor
    gate: Tensor | None
    opened: Tensor | None
    """The gate after the nonlinearity."""
    active: Tensor
    """What the last matrix reads."""


class MLP(NamedTuple):
    """What an MLP reads, computes and gives."""

    reads: Normed
    bent: Bent
    lifted: Normed
    """What the MLP gives, and after the norm behind it."""


class Primal(NamedTuple):
    """What a layer computes; `middle` is the stream after attention, `end` after the MLP."""

    reads: Normed
    attention: Attention
    attended: Normed
    """What the heads give, and after the norm behind them."""
    middle: Tensor
    mlp: MLP
    end: Tensor


class Top(NamedTuple):
    """The last layer, the losses, and the gradient of each loss by activations at its own position."""

    losses: Tensor
    primal: Primal
    of_read: Tensor
    of_attended: Tensor
    of_lifted: Tensor
    of_mixed: Tensor
    of_scores: Tensor
