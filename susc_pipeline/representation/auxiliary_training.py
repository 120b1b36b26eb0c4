"""Training of the auxiliary model: initial weights, optimizer, epochs, and when to stop."""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from susc_pipeline.representation import metrics, moments
from susc_pipeline.representation.auxiliary import BLOCK_SIZE, AuxModel, AuxSettings, precision, predict


class History(NamedTuple):
    """Losses after each epoch, as shares of the targets' variance, and the epoch (from 0) that was kept.

    The training loss is the plain squared error; for the stopping loss see `metrics.unexplained_share`.
    """

    training_loss: list[float]
    stopping_loss: list[float]
    best_epoch: int


class Training(NamedTuple):
    """A trained model, and how it came about."""

    model: AuxModel
    history: History


def train(
    activations: Float[np.ndarray, "tokens features"],
    targets: Float[np.ndarray, "tokens pcs"],
    *,
    stopping_activations: Float[np.ndarray, "stopping features"],
    stopping_targets: Float[np.ndarray, "stopping pcs"],
    settings: AuxSettings,
    hidden_width: int,
    rng: np.random.Generator,
    device: str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Training:
    """The model of the epoch with the lowest stopping loss.

    The same arguments give the same model, bit for bit, on a CPU with the same number of threads.

    Args:
        activations: training tokens; a memory map is read batch by batch.
        targets: PC scores of the training tokens; may be a memory map too.
        stopping_activations: tokens of documents withheld from training, to know when to stop.
        stopping_targets: PC scores of the stopping tokens.
        settings: loss and optimizer.
        hidden_width: hidden units.
        rng: decides the initial weights and the order of tokens.
        device: where the arithmetic is done.
        progress: called after each epoch with the epochs done and the stopping loss.
    """
    check_training_set(activations, targets)
    check_training_set(stopping_activations, stopping_targets)
    model = initialized(activations, targets, hidden_width, rng).to(device)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / settings.averaging_steps))
    optimizer = build_optimizer(model, settings, n_steps_per_epoch=math.ceil(len(activations) / settings.batch_size))
    training_loss, stopping_loss, best_epoch = [], [], 0
    best = copy.deepcopy(averaged.module)
    for epoch in range(settings.max_epochs):
        training_loss.append(train_epoch(model, averaged, optimizer, activations, targets, settings, rng))
        predicted = predict(averaged.module, stopping_activations)
        stopping_loss.append(metrics.unexplained_share(predicted, stopping_targets))
        if not math.isfinite(stopping_loss[-1]):
            rate = settings.learning_rate
            raise ValueError(f"stopping loss is nan after epoch {epoch + 1}; lower aux.learning_rate ({rate:g})")
        if progress is not None:
            progress(epoch + 1, stopping_loss[-1])
        if epoch == 0 or stopping_loss[-1] < stopping_loss[best_epoch]:
            best, best_epoch = copy.deepcopy(averaged.module), epoch
        if epoch - best_epoch >= settings.patience:
            break
    return Training(best.eval().requires_grad_(False), History(training_loss, stopping_loss, best_epoch))


def initialized(
    activations: Float[np.ndarray, "tokens features"],
    targets: Float[np.ndarray, "tokens pcs"],
    hidden_width: int,
    rng: np.random.Generator,
) -> AuxModel:
    """A model with the training set's means and scales, random weights and zero biases.

    The decoder starts at a tenth of the usual 1 / sqrt(fan-in): random features of a full-sized one are an error that
    must be unlearned first, and are learned around instead.
    """
    model = AuxModel(activations.shape[1], hidden_width, targets.shape[1])
    inputs, outputs = moments.column_statistics(activations), moments.column_statistics(targets)
    model.input_mean.copy_(torch.from_numpy(inputs.mean))
    # A constant feature is zero once centred, whatever it is divided by.
    model.input_scale.copy_(torch.from_numpy(np.where(inputs.standard_deviation > 0, inputs.standard_deviation, 1.0)))
    model.target_mean.copy_(torch.from_numpy(outputs.mean))
    model.target_scale.fill_(float(np.sqrt(np.mean(outputs.standard_deviation**2))))
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    for layer, gain in ((model.encoder, 1.0), (model.decoder, 0.1)):
        nn.init.normal_(layer.weight, std=gain * float(layer.in_features) ** -0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    return model


def build_optimizer(model: AuxModel, settings: AuxSettings, *, n_steps_per_epoch: int) -> torch.optim.AdamW:
    """AdamW whose decay is set per epoch.

    A step of AdamW shrinks weights by learning_rate * decay. What has to stay the same when the data grow is how many
    epochs the weights remember, not how many steps (Wang and Aitchison 2024).
    """
    decay = settings.weight_decay / (settings.learning_rate * n_steps_per_epoch)
    matrices, vectors = [model.encoder.weight, model.decoder.weight], [model.encoder.bias, model.decoder.bias]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def train_epoch(
    model: AuxModel,
    averaged: AveragedModel,
    optimizer: torch.optim.Optimizer,
    activations: Float[np.ndarray, "tokens features"],
    targets: Float[np.ndarray, "tokens pcs"],
    settings: AuxSettings,
    rng: np.random.Generator,
) -> float:
    """Mean squared error of one pass over the tokens in random order, as a share of the targets' variance."""
    order = rng.permutation(len(activations))
    device, total = model.input_mean.device, 0.0
    for start in range(0, len(order), settings.batch_size):
        # Sorted, because a memory map is read faster forwards.
        rows = np.sort(order[start : start + settings.batch_size])
        batch = torch.tensor(activations[rows], device=device)
        wanted = torch.tensor(targets[rows], device=device, dtype=torch.float32)
        with precision(device):
            code = model.encode(batch)
            predicted = model.decode(code)
        error = torch.mean(((predicted - wanted) / model.target_scale) ** 2)
        loss = error + settings.l1_penalty * code.float().abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        averaged.update_parameters(model)
        total += float(error.detach()) * len(rows)
    return total / len(order)


def check_training_set(
    activations: Float[np.ndarray, "tokens features"], targets: Float[np.ndarray, "tokens pcs"]
) -> None:
    """Refuse sets whose sizes differ or are below 2, values that are not finite, and targets that do not vary."""
    if len(activations) != len(targets) or len(targets) < 2:
        sizes = f"{len(activations)} activations and {len(targets)} targets"
        raise ValueError(f"training and stopping sets must pair at least 2 tokens, got {sizes}; add documents")
    blocks = [slice(start, start + BLOCK_SIZE) for start in range(0, len(targets), BLOCK_SIZE)]
    n_bad = sum(int(np.sum(~np.isfinite(targets[block]))) for block in blocks)
    if n_bad:
        raise ValueError(f"targets must be finite, got {n_bad} nan or infinite; repair the susceptibilities")
    if not any((targets[block] != targets[:1]).any() for block in blocks):
        raise ValueError("targets must vary, got the same scores for every token; check the chains and the PCA basis")
    if not all(np.isfinite(activations[block]).all() for block in blocks):
        raise ValueError("activations must be finite, got nan or infinity; float16 ends at 65504, store float32")
