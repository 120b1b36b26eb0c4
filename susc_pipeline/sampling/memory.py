"""What sampling a component needs of memory, from the settings alone, and whether that is there.

An estimate: the activations that a gradient step keeps for its way back, or that an evaluation holds at once, whichever
is more, and the chains' own weights. It is checked against measured peaks (tests/test_memory.py).
"""

import psutil
import torch

from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import components
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX

# Arrays in the shape of a component's weights that live at once: delta, gradient, noise, w* + delta and its gradient,
# and three temporaries of a sampler's step.
WEIGHT_ARRAYS = 8
# Of the width of the residual stream, kept by a layer for its way back: two norms' inputs and outputs, query, key and
# value as projected and as rotated, the attended values, and the stream itself.
STREAMS_OF_A_LAYER = 12


class BatchTooLargeError(ValueError):
    """A minibatch or an evaluation would not fit in memory."""


def needed_bytes(model: GPTNeoX, component: Component, settings: SamplingSettings, n_positions: int) -> int:
    """Estimate of the peak, beside the model and the residual streams that are held anyway, in bytes."""
    width, hidden = model.hidden_size, model.layers[0].up.shape[0] if model.layers else 0
    of_layer = STREAMS_OF_A_LAYER * width + 2 * hidden
    own = 2 * hidden if component.kind == "mlp" else 0
    n_above = 0 if component.kind == "unembed" else model.n_layers - 1 - component.layer
    item = model.embedding.element_size()
    in_step = settings.n_chains * settings.batch_size * n_positions * (n_above * of_layer + own + 3 * width) * item
    at_once = max(settings.evaluation_batch_size, settings.n_chains)
    in_evaluation = at_once * n_positions * ((n_above > 0) * of_layer + own + 3 * width) * item
    weights = WEIGHT_ARRAYS * settings.n_chains * components.n_parameters(model, component) * 4
    return weights + max(in_step, in_evaluation)


def available_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or what the operating system could give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def check(model: GPTNeoX, component: Component, settings: SamplingSettings, n_positions: int) -> None:
    """Refuse settings whose batches cannot fit.

    Raises:
        BatchTooLargeError: more is needed than there is; names both, and the settings to lower.
    """
    needed, available = needed_bytes(model, component, settings, n_positions), available_bytes(model.device)
    if needed > available:
        raise BatchTooLargeError(
            f"{component.name} needs about {needed / 2**30:.1f} GiB at once, but {available / 2**30:.1f} GiB are free; "
            f"lower sampling.batch_size ({settings.batch_size}), sampling.n_chains ({settings.n_chains}) or "
            f"sampling.evaluation_batch_size ({settings.evaluation_batch_size})"
        )
