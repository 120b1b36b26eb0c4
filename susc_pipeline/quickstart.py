"""A text in one call, for a notebook: its susceptibilities by chains, or its linear responses by directions found before.

Files are read by the caller, but for the folder of directions; the steps strung together here are in model/, sampling/ and
susceptibility/. The pipeline's assets take the same steps shard by shard.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerBase

from susc_pipeline import beginnings, seeds
from susc_pipeline.model import components, decoder, pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.sampling import token_draws
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import direction_files, estimators
from susc_pipeline.susceptibility import directions as response_directions
from susc_pipeline.susceptibility import linear_response as responses
from susc_pipeline.susceptibility.directions import DirectionSettings

SETTINGS = SamplingSettings(step_size=2.0, n_chains=4, batch_size=1, n_reference_contexts=1)
DIRECTIONS = DirectionSettings(max_contexts=512, n_probe_contexts=4)
DRAWS_SHARE = 4  # one background context in so many is read by the draws, the others by the directions
ESTIMATOR = "gauss_newton"


class _Measured(NamedTuple):
    contexts: Int[np.ndarray, "contexts positions"]
    columns: dict[str, object]
    """Position and token of each predicted token."""


class _Background(NamedTuple):
    directions: Population
    draws: Population
    probe: Int[np.ndarray, "contexts positions"]


def susceptibilities(
    loaded: LoadedModel,
    text: str,
    *,
    background: str,
    component_names: Sequence[str] = (),
    settings: SamplingSettings = SETTINGS,
    directions: DirectionSettings = DIRECTIONS,
    context_length: int = 128,
    seed: int = 0,
    progress: Callable[[list[Component]], Iterable[Component]] = iter,
) -> pl.DataFrame:
    """How each component responds to each token of a text, by the estimator gauss_newton: a row is a token and a component.

    Columns: `position` of the token in the text, `token` (its text), `loss` at w* in nats, `component`, `susceptibility` and
    its `standard_error` over chains and their contexts, both in nats squared. The first token of a context is not predicted
    and has no row; tokens beyond the last whole context are left out.

    Args:
        loaded: model and tokenizer, as of `pretrained.load`.
        text: whose tokens are measured.
        background: text of the same kind, without `text`. Its mean loss stands for the data distribution's: the more, the
            smaller the standard error.
        component_names: such as L2H0, L2MLP, embed, unembed; none named: all of the model's.
        settings: of the chains.
        directions: how well the response directions are determined, and the budget for it.
        context_length: tokens of a context; a shorter text is one context.
        seed: of the chains.
        progress: wraps the list of components, such as `tqdm`.

    Raises:
        ValueError: a text with fewer than two tokens, a background that holds the text or fills too few contexts, an unknown
            component.
    """
    model, tokenizer = loaded
    names = component_names or [component.name for component in components.enumerate_components(model)]
    chosen = [components.by_name(model, name) for name in names]
    measured = _measured(loaded, text, context_length)
    if text in background:
        raise ValueError("the background holds the text, which must not drive the chains; give another background")
    length = measured.contexts.shape[1]
    beginning = pretrained.beginning(tokenizer)
    reserved = _contexts(beginnings.with_beginnings(_token_ids(tokenizer, background), beginning, length), length)
    parts = _background(reserved, settings, directions, seed)
    rest = [response_directions.at_rest(model, parts.directions, chain) for chain in range(settings.n_chains)]
    losses = decoder.token_losses(model, torch.as_tensor(measured.contexts)).flatten().float().cpu().numpy()
    tables = []
    for component in progress(chosen):
        at_rest = torch.stack([own.gradient[component.name] for own in rest])
        traces = _sample(model, component, settings, directions, measured.contexts, parts, at_rest, seed)
        found = estimators.estimate(traces, kind=ESTIMATOR)
        values = {"susceptibility": found.value, "standard_error": found.standard_error}
        tables.append(pl.DataFrame({**measured.columns, "loss": losses, "component": component.name, **values}))
    return pl.concat(tables)


def linear_response(
    loaded: LoadedModel,
    text: str,
    folder: Path,
    *,
    component_names: Sequence[str] = (),
    context_length: int = 128,
    n_scores: int = 0,
) -> pl.DataFrame:
    """How each component responds to each token of a text at w*, by forward passes alone: a row is a token and a component.

    Columns: `position`, `token`, `loss` and `component` as in `susceptibilities`; `linear_response` in nats squared, and
    `half_a` and `half_b`, the same by either half of the chains: where they differ, it is noise of the directions.

    Args:
        loaded: the model that the directions were found for, with its tokenizer.
        text: whose tokens are measured.
        folder: response directions, a file <component>.safetensors each, as direction_files.py writes them.
        component_names: such as L2H0; none named: all those that the folder has.
        context_length: tokens of a context; a shorter text is one context.
        n_scores: scores along which the second-order term is measured, an even number; 0 leaves it out.

    Raises:
        ValueError: a text with fewer than two tokens, an unknown component, or directions that are missing, damaged, or of
            another model.
    """
    model, _ = loaded
    present = [c.name for c in components.enumerate_components(model) if (folder / _file_name(c.name)).is_file()]
    names = component_names or present
    if not names:
        raise ValueError(f"{folder} has no response directions, files such as {_file_name('embed')}; name their folder")
    chosen = [components.by_name(model, name) for name in names]
    measured = _measured(loaded, text, context_length)
    found = responses.estimate(
        model, measured.contexts, direction_files.halves(folder, model, chosen, n_scores=n_scores)
    )
    return pl.concat(
        pl.DataFrame(
            {
                **measured.columns,
                "loss": found.losses,
                "component": component.name,
                "linear_response": found.value[:, number],
                "half_a": found.half_a[:, number],
                "half_b": found.half_b[:, number],
            }
        )
        for number, component in enumerate(chosen)
    )


def _sample(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    wanted: DirectionSettings,
    shard: Int[np.ndarray, "contexts positions"],
    parts: _Background,
    rest: Float[torch.Tensor, "chains parameters"],
    seed: int,
) -> LossTraces:
    """Traces of one component, along directions that other contexts of the background have given."""
    slopes = response_directions.probe_slopes(model, parts.probe, {component: rest / settings.localization})[0]
    source = seeds.sequence(seed, "response_directions", component.name)
    rise = response_directions.rise(model, component, settings, wanted, parts.directions, parts.probe, slopes, source)
    mean_gradient = rest + rise.gradient
    (along,) = response_directions.divided(model, component, settings, wanted, parts.directions, mean_gradient)
    source = seeds.sequence(seed, "sgld_samples", component.name)
    options = {"direction": along, "slopes": False, "responses": True}
    return token_draws.sample(model, component, settings, shard, parts.draws, source, **options)


def _background(
    contexts: Int[np.ndarray, "contexts positions"], settings: SamplingSettings, wanted: DirectionSettings, seed: int
) -> _Background:
    """Each chain's contexts lie together in the text, so that chains share as little as it allows; then they are shuffled."""
    n_read = max(settings.batch_size, settings.draw_batch_size) + settings.n_reference_contexts
    n_each = len(contexts) // settings.n_chains
    if n_each < DRAWS_SHARE * n_read:
        raise ValueError(
            f"the background must fill at least {DRAWS_SHARE * n_read * settings.n_chains} contexts of {contexts.shape[1]} "
            f"tokens, {DRAWS_SHARE * n_read} for each of {settings.n_chains} chains, got {len(contexts)}; give a longer "
            f"one, or lower context_length or settings.n_chains"
        )
    rng = np.random.default_rng(seeds.sequence(seed, "population"))
    own = [rng.permutation(contexts[start * n_each : (start + 1) * n_each]) for start in range(settings.n_chains)]
    n_draws = n_each // DRAWS_SHARE
    draws = tuple(part[:n_draws] for part in own)
    probe = np.concatenate(draws)[:: max(1, n_draws * len(draws) // wanted.n_probe_contexts)]
    return _Background(Population(tuple(part[n_draws:] for part in own)), Population(draws), probe)


def _measured(loaded: LoadedModel, text: str, context_length: int) -> _Measured:
    model, tokenizer = loaded
    token_ids = _token_ids(tokenizer, text)
    beginning = pretrained.beginning(tokenizer)
    if len(token_ids) < 2:
        raise ValueError(f"the text must have at least 2 tokens, for the first is not predicted, got {len(token_ids)}")
    length = min(context_length, len(beginning) + len(token_ids))
    contexts = _contexts(beginnings.with_beginnings(token_ids, beginning, length), length)
    pieces = pretrained.token_texts(tokenizer, model.vocabulary_size)
    places = beginnings.with_beginnings(np.arange(len(token_ids)), [0] * len(beginning), length)
    positions = _contexts(places, length)[:, 1:].ravel()
    return _Measured(contexts, {"position": positions, "token": [pieces[token] for token in token_ids[positions]]})


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Int[np.ndarray, " tokens"]:
    return np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)


def _contexts(token_ids: Int[np.ndarray, " tokens"], length: int) -> Int[np.ndarray, "contexts positions"]:
    n_whole = len(token_ids) // length
    return token_ids[: n_whole * length].reshape(n_whole, length)


def _file_name(component: str) -> str:
    return f"{component}{direction_files.SUFFIX}"
