"""Nonlinear functions of an MLP by the names that checkpoints give them, with their derivatives."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Nonlinearity(NamedTuple):
    """A function of each entry, and its derivative."""

    apply: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _quick_slope(x: Tensor) -> Tensor:
    share = torch.sigmoid(1.702 * x)
    return share * (1 + 1.702 * x * (1 - share))


GELU = Nonlinearity(functional.gelu, lambda x: torch.ops.aten.gelu_backward(torch.ones_like(x), x))
GELU_TANH = Nonlinearity(
    lambda x: functional.gelu(x, approximate="tanh"),
    lambda x: torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate="tanh"),
)
SILU = Nonlinearity(functional.silu, lambda x: torch.ops.aten.silu_backward(torch.ones_like(x), x))
RELU = Nonlinearity(functional.relu, lambda x: (x > 0).to(x.dtype))
QUICK_GELU = Nonlinearity(lambda x: x * torch.sigmoid(1.702 * x), _quick_slope)

NONLINEARITIES = {
    "gelu": GELU,
    "gelu_python": GELU,
    "gelu_new": GELU_TANH,
    "gelu_fast": GELU_TANH,
    "gelu_accurate": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
    "gelu_python_tanh": GELU_TANH,
    "quick_gelu": QUICK_GELU,
    "silu": SILU,
    "swish": SILU,
    "relu": RELU,
}
