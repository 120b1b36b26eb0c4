"""Response directions on disk: a safetensors file a component, in the shapes of its weights. How they are found is elsewhere.

A file knows which weights it belongs to: directions of another model are refused.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from susc_pipeline.messages import shown
from susc_pipeline.model import components, decoder_weights
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling.diagnostics import Trace

SUFFIX = ".safetensors"
KEY = "response_directions"
DIRECTION, AT_REST, SCORE = "direction", "at_rest", "score"


class StoredDirections(NamedTuple):
    """The response directions of one component."""

    directions: Float[Tensor, "chains parameters"]
    """v of each chain, E[grad phi] / localization, in the order of `components.weights`."""
    mean_slopes: Float[np.ndarray, " halves"]
    """Slope of the population loss at w* along the mean direction of each half, in nats squared."""
    localization: float
    """Of the posterior, per squared weight."""
    at_rest: Float[Tensor, "chains parameters"] | None = None
    """Gradient at w* of each chain's documents: the part of v times localization that no chain had to find."""
    scores: Float[Tensor, "scores parameters"] | None = None
    """A score of each of the first chains' documents at w* (perturbation.scores)."""
    mean_curvatures: Float[np.ndarray, " scores"] | None = None
    """Curvature of the population loss at w* along each score / localization^2, in nats squared."""
    curvature: float | None = None
    """The largest of the loss at w*, in nats per squared weight (sampling/curvature.py); chains and precision follow it."""


class Diagnostics(NamedTuple):
    """How the chains of one component behaved, and how well its directions are determined."""

    trace: Trace
    rest_slopes: Float[np.ndarray, "chains probe_tokens"]
    """Slope of each probe token's loss along each chain's gradient at w* / localization."""
    rise_slopes: Float[np.ndarray, "chains probe_tokens"]
    """The same along what the chains add: both together are along the direction."""
    n_contexts: int
    """Population contexts that the chains read."""
    n_rest_contexts: int
    """Population contexts of the gradient at w*."""
    reliability: float
    """Of linear responses on the probe tokens, by all chains."""
    n_contexts_needed: float
    """Contexts of the chains at which it would be 0.9; infinite where the gradient at w* alone has more noise than that."""
    localization: float
    """Of the posterior, per squared weight."""
    curvature: float
    """The largest of the loss at w*, in nats per squared weight (sampling/curvature.py)."""


SLOPES = ("rest_slopes", "rise_slopes")
NUMBERS = ("n_contexts", "n_rest_contexts", "reliability", "n_contexts_needed", "localization", "curvature")


def model_digest(model: Decoder) -> str:
    """Sixteen hexadecimal digits that change with any weight."""
    digest = hashlib.sha256()
    for name, weight in decoder_weights.named_weights(model).items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save(
    path: Path,
    model: Decoder,
    component: Component,
    found: StoredDirections,
    diagnostics: Diagnostics,
    *,
    digest: str,
) -> None:
    """Write one component's file."""
    shapes = {name: weight.shape for name, weight in components.weights(model, component).items()}
    every = {DIRECTION: found.directions, AT_REST: found.at_rest, SCORE: found.scores}
    vectors = {kind: vector for kind, vector in every.items() if vector is not None}
    named = {
        f"{kind}.{name}": piece.contiguous()
        for kind, vector in vectors.items()
        for name, piece in components.unflatten(vector.cpu(), shapes).items()
    }
    trace = diagnostics.trace
    arrays = {"mean_slopes": found.mean_slopes, "loss": trace.loss, "rest_loss": trace.rest_loss}
    arrays |= {} if found.mean_curvatures is None else {"mean_curvatures": found.mean_curvatures}
    arrays |= {name: getattr(diagnostics, name).astype(np.float32) for name in SLOPES}
    numbers = {name: getattr(diagnostics, name) for name in NUMBERS}
    content = {"component": component.name, "model": digest, **numbers}
    tensors = named | {name: torch.as_tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}
    save_file(tensors, path, metadata={KEY: json.dumps(content)})


def load(
    path: Path,
    model: Decoder,
    component: Component,
    *,
    digest: str,
    with_rest: bool = False,
    with_scores: bool = False,
) -> StoredDirections:
    """The directions of one component, on the model's device; with gradients and scores at w* where they are asked for.

    Raises:
        ValueError: the file is damaged, or its directions belong to other weights or another component.
    """
    with _opened(path) as (file, content):
        _check_owner(content, path, component, digest)
        weights = components.weights(model, component)
        wanted = {DIRECTION: True, AT_REST: with_rest, SCORE: with_scores}
        vectors = (
            _flat(file, path, kind, weights).to(model.device) if is_wanted else None
            for kind, is_wanted in wanted.items()
        )
        directions, at_rest, scores = vectors
        mean_slopes = _tensor(file, path, "mean_slopes").numpy()
        mean_curvatures = _tensor(file, path, "mean_curvatures").numpy() if with_scores else None
        numbers = {name: content.get(name) for name in ("localization", "curvature")}
    for name, number in numbers.items():
        if not isinstance(number, float):
            raise ValueError(f"{path} lacks {name}; find the directions again")
    return StoredDirections(
        directions, mean_slopes, at_rest=at_rest, scores=scores, mean_curvatures=mean_curvatures, **numbers
    )


def population_gradient(
    path: Path, model: Decoder, component: Component, *, digest: str
) -> Float[Tensor, " parameters"]:
    """Gradient at w* of the population loss by the component's weights, the mean over the chains' documents; errors as `load`."""
    with _opened(path) as (file, content):
        _check_owner(content, path, component, digest)
        return _flat(file, path, AT_REST, components.weights(model, component)).mean(dim=0).to(model.device)


def _check_owner(content: dict[str, Any], path: Path, component: Component, digest: str) -> None:
    if content.get("model") != digest or content.get("component") != component.name:
        raise ValueError(
            f"{path} holds directions of {shown(content.get('component'))} of model {shown(content.get('model'))}, not of "
            f"{component.name} of model {digest}; use the model that they were found for, or find them again"
        )


def _flat(file: Any, path: Path, kind: str, weights: dict[str, Tensor]) -> Float[Tensor, "chains parameters"]:
    pieces = [_tensor(file, path, f"{kind}.{name}") for name in weights]
    if any(piece.shape[1:] != weight.shape for piece, weight in zip(pieces, weights.values(), strict=True)):
        raise ValueError(
            f"{path} holds vectors of other shapes than the component's weights; find the directions again"
        )
    return torch.cat([piece.flatten(1) for piece in pieces], dim=1)


def diagnostics(path: Path) -> Diagnostics:
    """What the chains of one component went through; the directions themselves are not read.

    Raises:
        ValueError: the file is damaged.
    """
    with _opened(path) as (file, content):
        trace = Trace(*(_tensor(file, path, name).numpy() for name in Trace._fields))
        slopes = {name: _tensor(file, path, name).numpy().astype(np.float64) for name in SLOPES}
        try:
            return Diagnostics(trace, **slopes, **{name: content[name] for name in NUMBERS})
        except KeyError as error:
            raise ValueError(f"{path} lacks {error}; find the directions again") from error


def halves(
    folder: Path, model: Decoder, chosen: Iterable[Component], *, digest: str | None = None, n_scores: int = 0
) -> "dict[Component, StoredDirections]":
    """The mean direction of either half of the chains, of each component: even chains, then odd ones; and first scores.

    Args:
        folder: with a file for each component.
        model: at w*.
        chosen: the components.
        digest: of the model, where it is known already.
        n_scores: scores that are read, of the first chains.

    Raises:
        ValueError: a file is damaged or of another model, or there are fewer scores.
    """
    own = digest or model_digest(model)
    found = {}
    for component in chosen:
        place = folder / f"{component.name}{SUFFIX}"
        stored = load(place, model, component, digest=own, with_scores=n_scores > 0)
        if stored.scores is not None and n_scores > len(stored.scores):
            raise ValueError(
                f"{place} has {len(stored.scores)} scores, fewer than the {n_scores} asked for; lower "
                f"linear_response.n_scores, or find the directions again"
            )
        means = torch.stack([stored.directions[rank::2].mean(dim=0) for rank in (0, 1)])
        scores, curvatures = (
            part if part is None else part[:n_scores] for part in (stored.scores, stored.mean_curvatures)
        )
        found[component] = stored._replace(directions=means, scores=scores, mean_curvatures=curvatures)
    return found


def save_observables(
    path: Path, model: Decoder, component: Component, found: Mapping[str, StoredDirections], *, digest: str
) -> None:
    """Write the directions of one component by which named observables respond: of each the mean of either half of the chains."""
    shapes = {name: weight.shape for name, weight in components.weights(model, component).items()}
    tensors, content = {}, {"component": component.name, "model": digest, "observables": list(found)}
    for observable, stored in found.items():
        pieces = components.unflatten(stored.directions.cpu(), shapes)
        tensors |= {f"{observable}.{DIRECTION}.{name}": piece.contiguous() for name, piece in pieces.items()}
        tensors[f"{observable}.mean_slopes"] = torch.as_tensor(stored.mean_slopes)
        content["localization"] = stored.localization
    save_file(tensors, path, metadata={KEY: json.dumps(content)})


def load_observables(path: Path, model: Decoder, component: Component, *, digest: str) -> "dict[str, StoredDirections]":
    """The directions that `save_observables` wrote, by name of the observable; errors as `load`."""
    with _opened(path) as (file, content):
        _check_owner(content, path, component, digest)
        weights, found = components.weights(model, component), {}
        for observable in content["observables"]:
            directions = _flat(file, path, f"{observable}.{DIRECTION}", weights).to(model.device)
            slopes = _tensor(file, path, f"{observable}.mean_slopes").numpy()
            found[observable] = StoredDirections(directions, slopes, content["localization"])
    return found


class _opened:  # noqa: N801  # a context manager, used like a function
    """An open file with what its header says of it."""

    def __init__(self, path: Path) -> None:
        try:
            self.file = safe_open(path, framework="pt")
            metadata: dict[str, Any] = self.file.__enter__().metadata() or {}
            self.content = json.loads(metadata.get(KEY, "null"))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is missing or damaged ({str(error)[:100]}); find the directions again") from error
        if not isinstance(self.content, dict):
            raise ValueError(f"{path} holds no response directions; name a file of the asset response_directions")

    def __enter__(self) -> tuple[Any, dict[str, Any]]:
        return self.file, self.content

    def __exit__(self, *exception: object) -> None:
        self.file.__exit__(*exception)


def _tensor(file: Any, path: Path, name: str) -> Tensor:
    try:
        found = file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{path} lacks {name}; find the directions again") from error
    if not torch.isfinite(found).all():
        raise ValueError(f"{path} holds nan or infinite numbers in {name}; find the directions again")
    return found
