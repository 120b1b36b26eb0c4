"""Components of a GPT-NeoX whose weights are shaken one at a time, and the weights that belong to each.

A head owns its rows of the query-key-value matrix and bias and its columns of the output matrix, but neither the
output bias nor a layer norm; an MLP owns its two matrices and biases (Baker et al. 2025). What a perturbed component
does to the losses is in perturbation.py.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from susc_pipeline.model import gpt_neox
from susc_pipeline.model.gpt_neox import GPTNeoX


class Component(NamedTuple):
    """One part of the model: `head`, `mlp`, `embed` or `unembed`; layer and head count from zero, -1 where none.

    The kind `all_weights` is the whole model, layer norms included; it is no part, and not enumerated with them.
    """

    kind: str
    layer: int = -1
    head: int = -1

    def __str__(self) -> str:
        """Its name."""
        return self.name

    @property
    def name(self) -> str:
        """Such as L2H0, L2MLP, embed, unembed."""
        match self.kind:
            case "head":
                return f"L{self.layer}H{self.head}"
            case "mlp":
                return f"L{self.layer}MLP"
            case _:
                return self.kind


ALL_WEIGHTS = Component("all_weights")


def enumerate_components(model: GPTNeoX) -> list[Component]:
    """All components in order: embed, then layer by layer the heads and the MLP, then unembed.

    For Pythia-1.4B: 24 layers of 16 heads and an MLP, embed and unembed, 410 in all.
    """
    layers = []
    for layer in range(model.n_layers):
        layers += [Component("head", layer, head) for head in range(model.n_heads)] + [Component("mlp", layer)]
    return [Component("embed"), *layers, Component("unembed")]


def by_name(model: GPTNeoX, name: str) -> Component:
    """The component of that name.

    Raises:
        ValueError: the model has no such component.
    """
    found = {component.name: component for component in enumerate_components(model)}
    if name not in found:
        raise ValueError(f"the model has no component {name!r}; it has {', '.join(found)}")
    return found[name]


def weights(model: GPTNeoX, component: Component) -> dict[str, Tensor]:
    """The component's weights at w*, as views of the model's where that is possible.

    Raises:
        ValueError: the component is none of this model.
    """
    if component == ALL_WEIGHTS:
        return gpt_neox.named_weights(model)
    if component not in enumerate_components(model):
        raise ValueError(
            f"the model has no component {component.name!r}: {model.n_layers} layers x {model.n_heads} heads"
        )
    match component.kind:
        case "embed":
            return {"embedding": model.embedding}
        case "unembed":
            return {"unembedding": model.unembedding}
    layer = model.layers[component.layer]
    if component.kind == "mlp":
        named = {"up": layer.up, "up_bias": layer.up_bias, "down": layer.down, "down_bias": layer.down_bias}
        return {name: weight for name, weight in named.items() if weight is not None}
    rows = slice(component.head * 3 * model.head_size, (component.head + 1) * 3 * model.head_size)
    columns = slice(component.head * model.head_size, (component.head + 1) * model.head_size)
    head = {"query_key_value": layer.query_key_value[rows], "output": layer.dense[:, columns]}
    if layer.query_key_value_bias is not None:
        head["query_key_value_bias"] = layer.query_key_value_bias[rows]
    return head


def n_parameters(model: GPTNeoX, component: Component) -> int:
    """Number of weights that belong to a component."""
    return sum(weight.numel() for weight in weights(model, component).values())


def flatten(named: dict[str, Tensor]) -> Float[Tensor, " parameters"]:
    """The named weights of a component as one vector, in float32: what `unflatten` takes apart."""
    return torch.cat([weight.reshape(-1).float() for weight in named.values()])


def unflatten(
    flat: Float[Tensor, "chains parameters"], shapes: dict[str, torch.Size]
) -> dict[str, Float[Tensor, "chains ..."]]:
    """Views of flat vectors, one a chain, as the named weights of a component."""
    pieces = flat.split([shape.numel() for shape in shapes.values()], dim=1)
    return {name: piece.view(-1, *shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
