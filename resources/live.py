"""What a finished run measures a reader's own text with: model, directions, bases and clusters, read once."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from resources import tables
from resources.files import StoreError
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.clustering import membership
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.explorer import payload
from susc_pipeline.model import components
from susc_pipeline.own_text import measurement, neighborhood, pairs
from susc_pipeline.own_text.measurement import Instrument, Measured, Progress
from susc_pipeline.own_text.neighborhood import Nearest, Neighborhood, Trial
from susc_pipeline.representation import pca, whitening
from susc_pipeline.susceptibility import direction_files

MAX_CORPUS_TOKENS = 1_000_000
"""Corpus tokens among which near ones are looked for, about; of a larger corpus, whole shards, evenly spaced."""
N_TRIED = 300
"""Clustered and as many other corpus tokens, on which the choice of a cluster is tried at the start."""


@dataclass(frozen=True, eq=False)
class Live:
    """A run that can measure a text."""

    instrument: Instrument
    neighborhood: Neighborhood
    trial: Trial
    n_tokens: int
    """Of the whole corpus."""

    def facts(self) -> dict[str, Any]:
        """What the page must know of it, as JSON."""
        return {
            "characters": measurement.MAX_CHARACTERS,
            "tokens": measurement.MAX_TOKENS,
            "contextLength": self.instrument.context_length,
            "corpusTokens": len(self.neighborhood.numbers),
            "allTokens": self.n_tokens,
            "near": neighborhood.N_TOKENS,
            "trial": self.trial._asdict(),
        }

    def token_ids(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of each text.

        Raises:
            ValueError: a text is too short or too long, or holds what is no character.
        """
        return [measurement.token_ids(self.instrument.loaded.tokenizer, text) for text in texts]

    def answers(self, texts: list[np.ndarray]) -> Iterator[dict[str, Any]]:
        """Progress in windows of all texts, and last the result, as JSON."""
        started, measured = time.perf_counter(), []
        lengths = [min(self.instrument.context_length, len(text)) for text in texts]
        totals = [len(measurement.windows(len(text), length)) for text, length in zip(texts, lengths, strict=True)]
        for number, text in enumerate(texts):
            for step in measurement.measure(self.instrument, text):
                if isinstance(step, Progress):
                    yield {"done": sum(totals[:number]) + step.done, "total": sum(totals)}
                else:
                    measured.append(text_json(text, step, self.neighborhood.nearest(step.whitened)))
        result: dict[str, Any] = {"texts": measured}
        if len(texts) == 2:
            found = pairs.pairs(*texts)
            result["pairs"] = {
                "byPosition": found.by_position,
                "first": found.first.tolist(),
                "second": found.second.tolist(),
            }
        yield {"result": result | {"seconds": round(time.perf_counter() - started, 2)}}


def load(experiment: ExperimentConfig, store: Store, *, report: Callable[[str], None] = lambda message: None) -> Live:
    """What the run of the experiment measures with.

    Args:
        experiment: whose run it is.
        store: where it lies.
        report: told what is being read.

    Raises:
        ValueError: the clusters are of vectors that no linear response gives.
        StoreError: something was not made, is damaged, or was made anew after the explorer.
    """
    if experiment.representation.upsampling != "linear_response":
        raise ValueError(
            "text of one's own needs representation.upsampling = 'linear_response': the clusters of this experiment are of "
            "vectors that the auxiliary model predicts; serve the explorer without --live"
        )
    check_page(store)
    report("reading the model and its response directions")
    found = instrument(experiment, store)
    report("reading the corpus tokens and their clusters")
    near = corpus_neighborhood(experiment, store)
    trial = near.trial(N_TRIED, np.random.default_rng(seeds.sequence(experiment.seed, "own_text")))
    settings = experiment.tokens
    return Live(found, near, trial, settings.n_shards * settings.contexts_per_shard * (settings.context_length - 1))


def check_page(store: Store) -> None:
    """Refuse a page whose clusters are not those of the store: their numbers would mean others."""
    page, members = store.manifest("explorer"), store.manifest("cluster_members")
    if page is None or members is None or page.inputs.get("cluster_members") != members.sha256:
        raise StoreError("the explorer was not made of the clusters in the store; make run brings it up to date")


def instrument(experiment: ExperimentConfig, store: Store) -> Instrument:
    """Model, directions and bases."""
    for asset in ("language_model", "pca_basis", "whitening_basis"):
        store.checked(asset)
    loaded = LanguageModelFolder(store.path("language_model")).load(experiment.model)
    chosen = components.chosen(loaded.model, experiment.model.components)
    folder = store.finished_components("response_directions")
    for component in chosen:
        folder.whole(component.name)
    n_scores = experiment.linear_response.n_scores
    halves = direction_files.halves(folder.path, loaded.model, chosen, n_scores=n_scores)
    basis = pca.load(store.path("pca_basis"))
    white = whitening.load(store.path("whitening_basis"))
    return Instrument(loaded, halves, basis, white, experiment.tokens.context_length)


def corpus_neighborhood(experiment: ExperimentConfig, store: Store) -> Neighborhood:
    """The corpus tokens, numbered as the explorer numbers them: by shard, context and position."""
    shards = sorted(tokens.shard_keys(experiment.tokens))
    per_shard = experiment.tokens.contexts_per_shard * (experiment.tokens.context_length - 1)
    n_read = min(len(shards), max(1, MAX_CORPUS_TOKENS // per_shard))
    read = np.unique(np.linspace(0, len(shards) - 1, n_read).round().astype(int))
    for number in read:
        store.checked("whitened_susceptibilities", shards[number])
    frames = {shards[n]: tables.scan(store.table("whitened_susceptibilities", shards[n])) for n in read}
    stacked = schema.stack(frames, "whitened")
    store.checked("cluster_members")
    members: pl.DataFrame = tables.scan(store.table("cluster_members")).collect()
    numbers = (read[:, None] * per_shard + np.arange(per_shard)).ravel()
    return neighborhood.neighborhood(stacked.values, numbers, membership.labels(members, stacked))


def text_json(text: np.ndarray, measured: Measured, near: Nearest) -> dict[str, Any]:
    """A measured text: arrays as payload.py packs them, a row a predicted token."""
    return {
        "tokens": text.tolist(),
        "losses": payload.floats(measured.losses),
        "responses": {name: payload.floats(values) for name, values in measured.responses._asdict().items()},
        "scores": {name: payload.floats(values) for name, values in measured.scores._asdict().items()},
        "cluster": near.cluster.tolist(),
        "near": {"tokens": near.tokens.tolist(), "distances": payload.floats(near.token_distances)},
        "clusters": {"numbers": near.clusters.tolist(), "distances": payload.floats(near.cluster_distances)},
    }
