"""Susceptibilities of a text in one call, for a notebook: what the assets do shard by shard, for a few contexts.

Files are read by the caller; the steps that this strings together are in model/, sampling/ and susceptibility/.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Int

from susc_pipeline import seeds
from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import components, gpt_neox, pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.sampling import chains
from susc_pipeline.susceptibility import estimators

DEFAULT = SamplingSettings(step_size=2.0, n_chains=4, n_draws=4, n_burn_in=1, n_steps_between_draws=1)  # tiny.toml's
OBSERVABLE_SHARE = 4  # one background context in so many measures the observable, the others are minibatches


def susceptibilities(
    loaded: LoadedModel,
    text: str,
    *,
    background: str,
    component_names: Sequence[str] = (),
    settings: SamplingSettings = DEFAULT,
    estimator: str = "first_order",
    context_length: int = 128,
    seed: int = 0,
    progress: Callable[[list[Component]], Iterable[Component]] = iter,
) -> pl.DataFrame:
    """How each component responds to each token of a text: a row is a token and a component.

    Columns: `position` of the token in the text, `token` (its text), `loss` at w* in nats, `component`,
    `susceptibility` and its Monte-Carlo `standard_error`, both in nats squared. The first token of each context is not
    predicted and has no row; tokens beyond the last whole context are left out.

    Args:
        loaded: model and tokenizer, as of `pretrained.load`.
        text: whose tokens are measured.
        background: text of the same kind, none of it in `text`, that drives the chains and makes the mean loss.
        component_names: such as L2H0, L2MLP, embed, unembed; none named: all of the model's.
        settings: of the chains.
        estimator: one of those in susceptibility/estimators.py, but for two_chain, which needs chains of all weights.
        context_length: tokens of a context; a shorter text is one context.
        seed: of the chains.
        progress: wraps the list of components, such as `tqdm`.

    Raises:
        ValueError: a text with fewer than two tokens, a background that fills too few contexts, an unknown component.
    """
    model, tokenizer = loaded
    token_ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
    if len(token_ids) < 2:
        raise ValueError(f"the text must have at least 2 tokens, for the first is not predicted, got {len(token_ids)}")
    length = min(context_length, len(token_ids))
    shard = _contexts(token_ids, length)
    reserved = _contexts(np.asarray(tokenizer(background, add_special_tokens=False)["input_ids"], np.int64), length)
    n_observable = len(reserved) // OBSERVABLE_SHARE
    if n_observable < 1:
        raise ValueError(
            f"the background must fill at least {OBSERVABLE_SHARE} contexts of {length} tokens, got {len(reserved)}; "
            f"give a longer one, or lower context_length"
        )
    contexts = chains.sampling_contexts(
        model, shard=shard, observable=reserved[:n_observable], minibatch=reserved[n_observable:]
    )
    names = component_names or [c.name for c in components.enumerate_components(model)]
    found = [components.by_name(model, name) for name in names]
    pieces = pretrained.token_texts(tokenizer, model.vocabulary_size)
    positions = np.arange(shard.size).reshape(shard.shape)[:, 1:].ravel()
    columns = {"position": positions, "token": [pieces[token] for token in token_ids[positions]]}
    columns["loss"] = gpt_neox.token_losses(model, torch.as_tensor(shard)).flatten().cpu().numpy()
    tables = []
    for component in progress(found):
        source = seeds.sequence(seed, component.name)
        traces = chains.sample(model, component, settings, contexts, source)
        estimate = estimators.estimate(traces, kind=estimator)._asdict()
        ordered = {"susceptibility": estimate.pop("value"), **estimate}
        tables.append(pl.DataFrame({**columns, "component": component.name, **ordered}))
    return pl.concat(tables)


def _contexts(token_ids: Int[np.ndarray, " tokens"], length: int) -> Int[np.ndarray, "contexts positions"]:
    n_whole = len(token_ids) // length
    return token_ids[: n_whole * length].reshape(n_whole, length)
