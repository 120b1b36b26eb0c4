"""Operations of a decoder, by formula, from its description alone: multiplications and additions for one token.

Counted are matrix products, with 2 operations for each weight, and attention. What a component's chain, a tangent or an
asset takes is made of these in price.py.
"""

from susc_pipeline.model import components
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder


def layer(model: Decoder, n_positions: int) -> float:
    """Of one layer; attention is causal: a token sees half of the positions."""
    return 2.0 * _layer_weights(model) + 2.0 * _queries(model) * n_positions


def unembedding(model: Decoder) -> float:
    """From the last residual stream to the losses."""
    return 2.0 * model.hidden_size * model.vocabulary_size


def forward(model: Decoder, n_positions: int) -> float:
    """Of a whole forward pass."""
    return model.n_layers * layer(model, n_positions) + unembedding(model)


def above(model: Decoder, component: Component, n_positions: int) -> float:
    """Of a component and what has to be computed with it, the layers above it and the unembedding."""
    if component.kind == "unembed":
        return unembedding(model)
    own = 2 * _mlp_weights(model) if component.kind == "mlp" else 0
    if component.kind in components.OF_ATTENTION:
        own = _own_attention(model, component, n_positions)
        own += 0 if model.parallel_residual else 2 * _mlp_weights(model)
    return own + _n_above(model, component) * layer(model, n_positions) + unembedding(model)


def below(model: Decoder, component: Component, n_positions: int) -> float:
    """Of what a component reads, once for the contexts of a step: the layers below it, and what stands beside it in its own."""
    if component.layer < 0:
        return model.n_layers * layer(model, n_positions) if component.kind == "unembed" else 0.0
    whole = layer(model, n_positions)
    beside = whole - 2 * _mlp_weights(model)  # the layer's attention
    if component.kind in components.OF_ATTENTION:
        beside = (whole if model.parallel_residual else beside) + _own_attention(model, component, n_positions)
    return component.layer * whole + beside


def tangent(model: Decoder, component: Component, n_positions: int) -> float:
    """That a tangent along a component's weights adds to a forward pass; no product with the vocabulary but unembed's.

    In a layer attention has four products for two, each with the whole context; the last layer is passed by keys and
    values alone. A tangent begins in its component: along the direction, and through the weights.
    """
    if component.kind == "unembed":
        return unembedding(model)
    width, shape, queries = model.hidden_size, model.description, _queries(model)
    whole = 2 * _layer_weights(model) + 8 * queries * n_positions
    last = 4 * width * shape.n_groups * shape.head_size + 4 * queries * n_positions
    n_above = _n_above(model, component)
    passed = (n_above - 1) * whole + last if n_above else 0
    return _own_tangent(model, component, n_positions) + passed


def _own_attention(model: Decoder, component: Component, n_positions: int) -> float:
    part = components.part(model, component)
    attended = 2 * model.head_size * n_positions * (sum(part.columns.widths) / model.head_size)
    return 2 * model.hidden_size * sum(part.rows.widths + part.columns.widths) + attended


def _own_tangent(model: Decoder, component: Component, n_positions: int) -> float:
    width, shape, size = model.hidden_size, model.description, model.head_size
    along = 0 if component.kind == "embed" else 2 * components.n_parameters(model, component)
    heads = {"head": 1, "key_value": shape.n_queries}.get(component.kind, 0)
    through = 2 * width * shape.inner_size if component.kind == "mlp" else 2 * heads * width * size
    return along + through + 8.0 * heads * size * n_positions


def _n_above(model: Decoder, component: Component) -> int:
    return model.n_layers - 1 - component.layer  # the embedding counts as layer -1


def _queries(model: Decoder) -> int:
    return model.n_heads * model.head_size


def _layer_weights(model: Decoder) -> int:
    shape = model.description
    attention = model.hidden_size * (2 * shape.n_heads + 2 * shape.n_groups) * shape.head_size
    return attention + _mlp_weights(model)


def _mlp_weights(model: Decoder) -> int:
    return (3 if model.description.gated else 2) * model.hidden_size * model.description.inner_size
