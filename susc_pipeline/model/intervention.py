"""What happens to the losses when a component is taken away or made stronger: mean ablation, and its weights scaled.

Both are perturbations of one component (perturbation.py); an ablation also adds a constant in its place. A susceptibility is
about weights that are shaken, not about these: they are what a reader takes it for, and clustering/interventions.py asks.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import components, perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder

FACTORS = (0.95, 1.05)
SCALED = tuple(f"weights times {factor}" for factor in FACTORS)
ABLATED = "ablated by its mean"
OUTPUTS = {"head": ("output",), "mlp": ("down", "down_bias")}


def can_be_ablated(model: Decoder, component: Component) -> bool:
    """Whether the component gives something of its own to the stream: a head, an MLP, or an embedding of its own."""
    return component.kind in OUTPUTS or (component.kind == "embed" and not model.description.tied)


@torch.no_grad()
def mean_output(model: Decoder, component: Component, batches: Iterable[Tensor]) -> Float[Tensor, " hidden"]:
    """Mean over all positions of what a component gives: an MLP or a head to the stream, the embedding a row for a token.

    What a head gives is without the output bias, which belongs to no head. Each batch has token ids (contexts, positions).

    Raises:
        ValueError: the component gives nothing of its own to the stream (shared keys and values, the unembedding, tied ends).
    """
    if not can_be_ablated(model, component):
        raise ValueError(
            f"{component.name} cannot be ablated by its mean: only a head, an MLP or an untied embedding can"
        )
    total, count = torch.zeros(model.hidden_size, dtype=torch.float64, device=model.device), 0
    for token_ids in batches:
        total += _output(model, component, token_ids).double().sum(dim=(0, 1))
        count += token_ids.numel()
    return (total / count).to(model.embedding.dtype)


def _output(
    model: Decoder, component: Component, token_ids: Int[Tensor, "contexts positions"]
) -> Float[Tensor, "contexts positions hidden"]:
    if component.kind == "embed":
        return functional.embedding(token_ids, model.embedding)
    normed = perturbation.prepare_tokens(model, component, token_ids).normed[None]
    without = perturbation.added(model, component, normed, _named(model, component, removal(model, component)))
    return (perturbation.added(model, component, normed, {}) - without)[0]


def removal(model: Decoder, component: Component) -> Float[Tensor, "1 parameters"]:
    """The perturbation under which a head or an MLP gives zero."""
    trained = components.weights(model, component)
    parts = [-w if name in OUTPUTS[component.kind] else torch.zeros_like(w) for name, w in trained.items()]
    return torch.cat([part.flatten() for part in parts])[None].float()


def _named(model: Decoder, component: Component, deltas: Float[Tensor, "chains parameters"]) -> dict[str, Tensor]:
    return components.unflatten(deltas, {n: w.shape for n, w in components.weights(model, component).items()})


@torch.no_grad()
def ablated_losses(
    model: Decoder, component: Component, token_ids: Int[Tensor, "contexts positions"], mean: Float[Tensor, " hidden"]
) -> Float[Tensor, "contexts predicted"]:
    """Loss of each token but the first, in nats, where the component gives its mean whatever it reads.

    Args:
        model: at w*.
        component: a head, an MLP or the embedding.
        token_ids: of the contexts.
        mean: as `mean_output` gives it.
    """
    inputs = perturbation.prepare_tokens(model, component, token_ids)
    if component.kind == "embed":
        return perturbation.losses(model, component, inputs, (mean - model.embedding).float().flatten()[None])[0]
    own = {"rest": inputs.rest + mean} if inputs.beside is None else {"beside": inputs.beside + mean}
    inputs = inputs._replace(**own)
    return perturbation.losses(model, component, inputs, removal(model, component))[0]


@torch.no_grad()
def scaled_losses(
    model: Decoder, component: Component, token_ids: Int[Tensor, "contexts positions"], factors: Sequence[float]
) -> Float[Tensor, "factors contexts predicted"]:
    """Loss of each token but the first, in nats, with all weights of the component times each factor."""
    own = torch.cat([weight.flatten() for weight in components.weights(model, component).values()]).float()
    deltas = torch.stack([(factor - 1) * own for factor in factors])
    return perturbation.losses(model, component, perturbation.prepare_tokens(model, component, token_ids), deltas)


def loss_changes(
    model: Decoder,
    component: Component,
    token_ids: Int[np.ndarray, "contexts positions"],
    mean: Float[Tensor, " hidden"] | None,
    *,
    contexts_at_once: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Float[np.ndarray, "contexts predicted"]]:
    """Change of each token's loss from w*, in nats, under every intervention on a component.

    Args:
        model: at w*.
        component: the one that is changed.
        token_ids: of the contexts.
        mean: what it gives on average, as `mean_output` gives it; without one it is only scaled.
        contexts_at_once: bounds memory, changes no number beyond rounding.
        progress: told the contexts done and their total.
    """
    found: dict[str, list[np.ndarray]] = {}
    n_done = 0
    for part in torch.as_tensor(np.asarray(token_ids, np.int64)).split(contexts_at_once):
        ids = part.to(model.device)
        rest, *scaled = scaled_losses(model, component, ids, [1.0, *FACTORS])
        changed = dict(zip(SCALED, scaled, strict=True))
        if mean is not None:
            changed[ABLATED] = ablated_losses(model, component, ids, mean)
        for name, losses in changed.items():
            found.setdefault(name, []).append((losses - rest).float().cpu().numpy())
        n_done += len(part)
        progress(n_done, len(token_ids))
    return {name: np.concatenate(parts) for name, parts in found.items()}
