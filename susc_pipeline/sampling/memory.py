"""What sampling a component needs of memory, from the settings alone, and whether that is there.

An estimate: the activations that a gradient step keeps for its way back, or that an evaluation holds at once, whichever
is more, and the chains' own weights. It is checked against measured peaks (tests/test_memory.py).
"""

import psutil
import torch

from susc_pipeline.model import components, derivatives, layer_tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling.posterior import SamplingSettings

N_IMAGES = 2  # of a chain: itself and its mirror image
N_TANGENTS = 2  # carried beside an evaluation: along the response direction and along the draw's own
# Arrays in the shape of a component's weights that live at once for each image of a chain: delta, gradient and noise of
# this step and of the last, w* + delta and its gradient, chain by chain and summed, two directions, and temporaries.
WEIGHT_ARRAYS = 16


class BatchTooLargeError(ValueError):
    """A step's contexts or an evaluation would not fit in memory."""


def needed_bytes(
    model: Decoder, component: Component, settings: SamplingSettings, n_positions: int, *, device: str = ""
) -> int:
    """Estimate of the peak, beside the model and the inputs of the measured contexts, in bytes; of chains with mirror images.

    A step takes gradients of all images, and then, without them, those of the chains at w*: the first need more. `device` is
    the kind of device that the chains will run on, where the model lies elsewhere.
    """
    kept = derivatives.kept_numbers(model, component)
    item, n_images = model.embedding.element_size(), N_IMAGES * settings.n_chains
    n_most = max(settings.batch_size, settings.draw_batch_size)
    n_read = settings.n_chains * (n_most + settings.n_reference_contexts)
    in_preparation = n_read * derivatives.kept_numbers(model, Component("embed"), n_layers=1)
    in_step = min(n_images, derivatives.chains_at_once(model, component, n_most, n_positions)) * n_most * kept
    of_context = derivatives.kept_numbers(model, component, n_layers=1)
    each = max(
        1, settings.evaluation_batch_size // n_images
    )  # contexts of a chain; tangents take a few chains at a time
    n_chains_at_once = max(1, layer_tangents.ROWS_AT_ONCE[device or model.device.type] // (each * n_positions))
    with_tangents = min(n_images, n_chains_at_once) * each * (1 + N_TANGENTS) * of_context
    in_evaluation = max(each * n_images * of_context, with_tangents)
    weights = WEIGHT_ARRAYS * n_images * components.n_parameters(model, component) * 4
    return weights + max(in_preparation, in_step, in_evaluation) * n_positions * item


def available_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or what the operating system could give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def check(model: Decoder, component: Component, settings: SamplingSettings, n_positions: int) -> None:
    """Refuse settings whose batches cannot fit.

    Raises:
        BatchTooLargeError: more is needed than there is; names both, and the settings to lower.
    """
    needed, available = needed_bytes(model, component, settings, n_positions), available_bytes(model.device)
    if needed > available:
        raise BatchTooLargeError(
            f"{component.name} needs about {needed / 2**30:.1f} GiB at once, but {available / 2**30:.1f} GiB are free; "
            f"lower sampling.batch_size ({settings.batch_size}), sampling.draw_batch_size, sampling.n_reference_contexts "
            f"({settings.n_reference_contexts}), sampling.n_chains ({settings.n_chains}) or "
            f"sampling.evaluation_batch_size ({settings.evaluation_batch_size})"
        )
