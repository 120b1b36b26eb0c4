"""Rotary positions: the angles by which queries and keys turn, and the scalings of them. Attention is in decoder.py.

Frequencies are in float32, as checkpoints were trained with them (Su et al. 2021).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Rotary(NamedTuple):
    """How queries and keys turn with their position; a tuple without frequencies turns nothing."""

    frequencies: tuple[float, ...] = ()
    """Radians a position, one for each pair of entries; the first entries of a head turn, twice as many as there are pairs."""
    factor: float = 1.0
    """What the turned entries are multiplied with (yarn)."""


class Scaling(NamedTuple):
    """Numbers of a scaled rotary; a kind of scaling reads those that it needs."""

    kind: str = "default"
    base: float = 10_000.0
    share: float = 1.0
    """Part of a head's entries that turns."""
    factor: float = 1.0
    """How many times longer contexts became."""
    original_positions: float = 2048.0
    """Positions of the model before its contexts became longer."""
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


def rotary(head_size: int, scaling: Scaling) -> Rotary:
    """The frequencies of a head of that size.

    Raises:
        ValueError: the scaling is none of SCALINGS.
    """
    if scaling.kind not in SCALINGS:
        raise ValueError(f"rotary scaling {scaling.kind!r} is not computed here; known are {', '.join(SCALINGS)}")
    size = int(head_size * scaling.share)
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    return SCALINGS[scaling.kind](1.0 / scaling.base**exponents, scaling)


def rotate(x: Float[Tensor, "*batch positions size"], turned: Rotary) -> Float[Tensor, "*batch positions size"]:
    """The first entries of a head, turned by their positions; halves turn together, not neighbours."""
    half = len(turned.frequencies)
    cosine, sine = cosines_and_sines(turned, x.shape[-2], x)
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], dim=-1)


def cosines_and_sines(
    turned: Rotary, n_positions: int, like: Tensor
) -> tuple[Float[Tensor, "positions pairs"], Float[Tensor, "positions pairs"]]:
    """Of each position's angles, times the factor, in the type and on the device of `like`."""
    frequencies = torch.tensor(turned.frequencies, dtype=torch.float32, device=like.device)
    positions = torch.arange(n_positions, dtype=torch.float32, device=like.device)
    angles = positions[:, None] * frequencies
    return (angles.cos() * turned.factor).to(like.dtype), (angles.sin() * turned.factor).to(like.dtype)


def _rotary(frequencies: Tensor, factor: float = 1.0) -> Rotary:
    return Rotary(tuple(frequencies.tolist()), factor)


def _linear(frequencies: Tensor, scaling: Scaling) -> Rotary:
    return _rotary(frequencies / scaling.factor)


def _llama3(frequencies: Tensor, scaling: Scaling) -> Rotary:
    """Slow frequencies divided by the factor, fast ones kept, and a mean of both between them (Llama 3.1)."""
    turns = scaling.original_positions * frequencies / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return _rotary((1 - kept) * frequencies / scaling.factor + kept * frequencies)


def _yarn(frequencies: Tensor, scaling: Scaling) -> Rotary:
    """The same with a ramp over the entries' numbers, and a factor of the turned entries (Peng et al. 2023)."""
    size = 2 * len(frequencies)

    def entry(n_turns: float) -> float:
        return size * math.log(scaling.original_positions / (n_turns * 2 * math.pi)) / (2 * math.log(scaling.base))

    low, high = entry(scaling.beta_fast), entry(scaling.beta_slow)
    low, high = (math.floor(low), math.ceil(high)) if scaling.truncate else (low, high)
    low, high = max(low, 0), min(high, size - 1)
    high += 0.001 * (low == high)
    kept = 1 - ((torch.arange(len(frequencies), dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return _rotary(frequencies / scaling.factor * (1 - kept) + frequencies * kept, _yarn_factor(scaling))


def _yarn_factor(scaling: Scaling) -> float:
    def size(scale: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * scale * math.log(scaling.factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return size(scaling.mscale) / size(scaling.mscale_all_dim)
    return size(1.0)


SCALINGS: dict[str, Callable[[Tensor, Scaling], Rotary]] = {
    "default": lambda frequencies, scaling: _rotary(frequencies),
    "linear": _linear,
    # Dynamic scaling changes contexts beyond max_position_embeddings alone, which check_tokens refuses.
    "dynamic": lambda frequencies, scaling: _rotary(frequencies),
    "llama3": _llama3,
    "yarn": _yarn,
}
