"""A decoder described as frozen data: its sizes and the switches of its blocks, without a weight. It is run in decoder.py."""

from dataclasses import dataclass
from typing import NamedTuple

from susc_pipeline.model.rotary import Rotary


class AttentionKind(NamedTuple):
    """How the heads of one layer attend."""

    scale: float
    """What the product of a query and a key is multiplied with."""
    rotary: Rotary = Rotary()
    window: int | None = None
    """Positions that a token sees, its own among them; None for all before it."""
    cap: float | None = None
    """Soft cap of the scaled product: cap * tanh(product / cap)."""


@dataclass(frozen=True)
class Description:
    """The shape of a decoder and the switches of its blocks, without a weight."""

    vocabulary_size: int
    hidden_size: int
    inner_size: int
    """Width of the MLP."""
    n_heads: int
    n_groups: int
    """Heads of keys and values; each serves n_heads / n_groups heads, one after another."""
    head_size: int
    max_positions: int
    attention: tuple[AttentionKind, ...]
    """One for each layer."""
    nonlinearity: str
    """A name of NONLINEARITIES."""
    norms: tuple[str, ...] = ("attention_norm", "mlp_norm")
    """Norms of a layer, by the names of fields of Layer."""
    biases: tuple[str, ...] = ()
    """Matrices of a layer that have a bias, by the names of fields of Layer."""
    gated: bool = False
    """The MLP multiplies f(gate x) with up x."""
    root_mean_square: bool = False
    """Norms divide by the root of the mean square; else they are layer norms."""
    norm_offset: float = 0.0
    """What is added to a norm's scale (Gemma: 1)."""
    norm_epsilon: float = 1e-5
    wide_head_norms: bool = False
    """Norms of queries and keys are over all heads together (OLMo 2), not over each."""
    parallel_residual: bool = False
    """Attention and MLP read the same stream."""
    learned_positions: bool = False
    embedding_scale: float = 1.0
    """What the embedding is multiplied with before the first layer (Gemma)."""
    final_cap: float | None = None
    """Soft cap of the logits (Gemma 2)."""
    tied: bool = False
    """The unembedding is the embedding."""

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.attention)

    @property
    def n_queries(self) -> int:
        """Heads of a group."""
        return self.n_heads // self.n_groups
