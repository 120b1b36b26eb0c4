"""Losses of a model one of whose components is perturbed, without recomputing what the component cannot change.

Everything below the component is read from the residual stream at w*; beside it, the rest of its layer is added as
it was; above it, all chains run as one batch, for they share the weights there. A perturbation is the difference from
w*, kept in float32 whatever the model's type: added to a bfloat16 weight, a small step would be rounded away.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import components, gpt_neox, token_loss
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX

CURVATURE_RISE = 0.003  # nats


class ComponentInputs(NamedTuple):
    """What a component's losses need from below and beside it, for a table of contexts."""

    token_ids: Int[Tensor, "contexts positions"]
    normed: Float[Tensor, "contexts positions hidden"]
    """What the component reads, after its layer norm; for the embedding, what it adds at w*."""
    rest: Float[Tensor, "contexts positions hidden"]
    """The residual stream that the component adds to; for embed and unembed not used."""

    def take(self, rows: Tensor | slice) -> "ComponentInputs":
        """The inputs of some contexts; an index of shape (chains, contexts) gives every chain its own."""
        return ComponentInputs(*(tensor[rows] for tensor in self))


@torch.no_grad()
def prepare(
    model: GPTNeoX,
    component: Component,
    token_ids: Int[Tensor, "contexts positions"],
    stream: Float[Tensor, "depths contexts positions hidden"],
) -> ComponentInputs:
    """Inputs of a component from the residual stream of the contexts."""
    if component.kind in ("embed", "all_weights"):
        return ComponentInputs(token_ids, stream[0], stream[0])
    if component.kind == "unembed":
        normed = gpt_neox.normalize(stream[-1], model.final_norm, model)
        return ComponentInputs(token_ids, normed, stream[-1])
    layer = model.layers[component.layer]
    x = stream[component.layer]
    if component.kind == "mlp":
        middle = x + gpt_neox.attention(x, layer, model)
        read = x if model.parallel_residual else middle
        return ComponentInputs(token_ids, gpt_neox.normalize(read, layer.mlp_norm, model), middle)
    normed = gpt_neox.normalize(x, layer.attention_norm, model)
    added = _head(model, _full(components.weights(model, component), {}), normed[None])[0]
    total = stream[component.layer + 1] if model.parallel_residual else x + gpt_neox.attention(x, layer, model)
    return ComponentInputs(token_ids, normed, total - added)


@torch.no_grad()
def prepare_tokens(
    model: GPTNeoX, component: Component, token_ids: Int[Tensor, "contexts positions"]
) -> ComponentInputs:
    """Inputs of a component from the contexts themselves; only the layers that it needs are run."""
    n_needed = model.n_layers if component.kind == "unembed" else component.layer + (component.kind == "head")
    stream = gpt_neox.residual_stream(model, token_ids, n_layers=n_needed)
    return prepare(model, component, token_ids, stream)


def losses(
    model: GPTNeoX,
    component: Component,
    inputs: ComponentInputs,
    deltas: Float[Tensor, "chains parameters"],
    labels: torch.Generator | None = None,
) -> Float[Tensor, "chains contexts predicted"]:
    """Loss of each token but the first under each chain's perturbation of the component, in nats.

    Args:
        model: at w*.
        component: the one that is perturbed.
        inputs: of shape (contexts, ...) where all chains read the same contexts, or (chains, contexts, ...).
        deltas: difference from w* of the component's weights, flat, in the order of `components.weights`.
        labels: with it, losses are those of tokens that the perturbed model itself predicts, drawn by this generator.
    """
    trained = components.weights(model, component)
    shapes = {name: weight.shape for name, weight in trained.items()}
    named = components.unflatten(deltas, shapes)
    shared = inputs.token_ids.ndim == 2
    token_ids, normed, rest = (tensor[None] if shared else tensor for tensor in inputs)
    chains_ids = token_ids.expand(len(deltas), -1, -1)
    match component.kind:
        case "all_weights":
            changed = (
                {name: trained[name] + delta[chain] for name, delta in named.items()} for chain in range(len(deltas))
            )
            models = (gpt_neox.with_weights(model, weights) for weights in changed)
            pairs = zip(models, chains_ids, strict=True)
            return torch.stack([gpt_neox.differentiable_losses(moved, ids, labels) for moved, ids in pairs])
        case "unembed":
            return _unembed(trained["unembedding"], named["unembedding"], normed, chains_ids, labels)
        case "embed":
            x = normed + lookup(named["embedding"], chains_ids).to(normed.dtype)
        case "mlp":
            x = rest + _mlp(_full(trained, named), normed)
        case _:
            x = rest + _head(model, _full(trained, named), normed)
    return _run_above(model, component, x, chains_ids, labels)


def gradients(
    model: GPTNeoX, component: Component, batch: ComponentInputs, delta: Float[Tensor, "chains parameters"]
) -> tuple[Float[Tensor, "chains parameters"], Float[Tensor, " chains"]]:
    """Gradient of each chain's mean minibatch loss by its own weights, and that loss."""
    with torch.enable_grad():
        leaf = delta.detach().requires_grad_()
        loss = losses(model, component, batch, leaf).mean(dim=(1, 2))
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return gradient, loss.detach()


def scores(
    model: GPTNeoX,
    component: Component,
    batch: ComponentInputs,
    delta: Float[Tensor, "chains parameters"],
    labels: torch.Generator,
) -> Float[Tensor, "chains parameters"]:
    """A random vector of each chain whose covariance is the Fisher matrix of a token's prediction, at the chain's weights.

    The score of labels that the model itself predicts, summed over N tokens and divided by their root. The Fisher matrix is
    the Gauss-Newton matrix of the loss (Martens 2020): its Hessian, but for curvature times the error of the prediction.
    """
    with torch.enable_grad():
        leaf = delta.detach().requires_grad_()
        loss = losses(model, component, batch, leaf, labels)
        (gradient,) = torch.autograd.grad(loss.sum() / loss[0].numel() ** 0.5, leaf)
    return gradient


@torch.no_grad()
def curvatures(
    model: GPTNeoX,
    component: Component,
    inputs: ComponentInputs,
    deltas: Float[Tensor, "chains parameters"],
    along: Float[Tensor, "chains parameters"],
    here: Float[Tensor, "chains contexts predicted"],
    *,
    step: float,
) -> Float[Tensor, "chains contexts predicted"]:
    """Second derivative of each token's loss along a direction of each chain, by a central difference.

    Args:
        model: at w*, in float32: in bfloat16 a difference of losses is noise.
        component: the one that is perturbed.
        inputs: as `losses` takes them.
        deltas: where the chains are.
        along: the directions.
        here: losses where the chains are.
        step: of the difference, in lengths of the direction.
    """
    ahead, behind = (losses(model, component, inputs, deltas + sign * step * along) for sign in (1, -1))
    return (ahead - here + behind - here) / step**2


def curvature_step(scores: Float[Tensor, "scores parameters"], *, rise: float = CURVATURE_RISE) -> float:
    """Step of the difference along scores which raises the mean loss so much: far above rounding, small beside the noise.

    A step along s raises it by step^2 s.Fs / 2, and (s.s')^2 of two scores has the mean of s.Fs.
    """
    n_pairs = max(1, len(scores) * (len(scores) - 1) // 2)
    stiffness = (scores @ scores.T).triu(1).square().sum() / n_pairs
    return float((2 * rise / stiffness.clamp_min(torch.finfo(torch.float32).tiny)).sqrt())


def _full(trained: dict[str, Tensor], deltas: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor | None]]:
    return {name: (weight, deltas.get(name)) for name, weight in trained.items()}


def _linear(
    x: Float[Tensor, "chains_or_one contexts positions inputs"],
    weight: tuple[Tensor, Tensor | None],
    bias: tuple[Tensor, Tensor | None] | None,
) -> Float[Tensor, "chains contexts positions outputs"]:
    """X times (weight + delta), plus (bias + delta), chain by chain."""
    trained, delta = weight
    rows = x.flatten(1, 2)
    if delta is None:
        product = rows @ trained.T
    elif trained.dtype == torch.float32:
        product = rows @ (trained + delta).transpose(1, 2)
    else:  # two products: the delta keeps its own exponent, where a sum would round it away
        product = rows @ trained.T + rows @ delta.to(trained.dtype).transpose(1, 2)
    if bias is not None:
        constant, difference = bias
        product = product + (constant if difference is None else (constant + difference[:, None]).to(product.dtype))
    return product.unflatten(1, x.shape[1:3])


def _head(model: GPTNeoX, weights: dict, normed: Float[Tensor, "chains_or_one contexts positions hidden"]) -> Tensor:
    stacked = _linear(normed, weights["query_key_value"], weights.get("query_key_value_bias"))
    attended = gpt_neox.attend(stacked.flatten(0, 1).unsqueeze(-2), model).squeeze(-2)
    return _linear(attended.unflatten(0, stacked.shape[:2]), weights["output"], None)


def _mlp(weights: dict, normed: Float[Tensor, "chains_or_one contexts positions hidden"]) -> Tensor:
    hidden = functional.gelu(_linear(normed, weights["up"], weights.get("up_bias")))
    return _linear(hidden, weights["down"], weights.get("down_bias"))


def lookup(
    table: Float[Tensor, "chains vocabulary hidden"], token_ids: Int[Tensor, "chains contexts positions"]
) -> Float[Tensor, "chains contexts positions hidden"]:
    """Rows of each chain's own table."""
    offsets = torch.arange(len(table), device=table.device)[:, None, None] * table.shape[1]
    return functional.embedding(token_ids + offsets, table.reshape(-1, table.shape[-1]))


def _run_above(
    model: GPTNeoX,
    component: Component,
    x: Float[Tensor, "chains contexts positions hidden"],
    token_ids: Tensor,
    labels: torch.Generator | None,
) -> Tensor:
    merged = x.flatten(0, 1)
    if component.kind == "head" and not model.parallel_residual:
        merged = merged + gpt_neox.mlp(merged, model.layers[component.layer], model)
    for layer in model.layers[component.layer + 1 :]:
        merged = gpt_neox.run_layer(merged, layer, model)
    normed = gpt_neox.normalize(merged, model.final_norm, model)
    flat = token_loss.cross_entropy(normed, token_ids.reshape(-1, token_ids.shape[-1]), model.unembedding, labels)
    return flat.unflatten(0, x.shape[:2])


def _unembed(
    trained: Tensor,
    delta: Float[Tensor, "chains vocabulary hidden"],
    normed: Tensor,
    token_ids: Tensor,
    labels: torch.Generator | None,
) -> Float[Tensor, "chains contexts predicted"]:
    def one(chain: int) -> Tensor:
        read = normed[chain if len(normed) > 1 else 0]
        if trained.dtype == torch.float32:
            return token_loss.cross_entropy(read, token_ids[chain], trained + delta[chain], labels)
        # Concatenating inputs and matrices adds the two products before the softmax, each in its own exponent.
        both = torch.cat([trained, delta[chain].to(trained.dtype)], dim=-1)
        return token_loss.cross_entropy(torch.cat([read, read], dim=-1), token_ids[chain], both, labels)

    return torch.stack([one(chain) for chain in range(len(delta))])
