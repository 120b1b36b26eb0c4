"""The same model with weights that know nothing: untrained, or permuted. They show what a result owes to training.

Shapes, names and everything but the numbers stay. What is measured of these models is in susceptibility/.
"""

import torch
from torch import Tensor

from susc_pipeline.model import decoder_weights
from susc_pipeline.model.decoder import Decoder

INITIAL_DEVIATION = 0.02  # of a matrix's entries before training: `initializer_range` of transformers' decoders


def untrained(model: Decoder, generator: torch.Generator) -> Decoder:
    """The model before training: matrices of normal entries with standard deviation 0.02, biases zero, norms that only normalize.

    The embedding is a matrix like the others (Radford et al. 2019, without their smaller deviation of output matrices).
    """

    def drawn(name: str, weight: Tensor) -> Tensor:
        if name.endswith(".scale"):
            return torch.full_like(weight, 1 - model.description.norm_offset)
        if weight.ndim < 2:
            return torch.zeros_like(weight)
        normal = torch.randn(weight.shape, generator=generator, device=weight.device)
        return (INITIAL_DEVIATION * normal).to(weight.dtype)

    return decoder_weights.with_weights(
        model, {name: drawn(name, w) for name, w in decoder_weights.named_weights(model).items()}
    )


def permuted(model: Decoder, generator: torch.Generator) -> Decoder:
    """The model with the entries of each matrix in random order: every distribution of weights stays, no structure does.

    Biases and norms keep their order.
    """

    def shuffled(weight: Tensor) -> Tensor:
        if weight.ndim < 2:
            return weight
        order = torch.randperm(weight.numel(), generator=generator, device=weight.device)
        return weight.flatten()[order].view(weight.shape)

    return decoder_weights.with_weights(
        model, {name: shuffled(w) for name, w in decoder_weights.named_weights(model).items()}
    )
