"""Sizes of an experiment that a corpus can fill and its reader can afford: the largest of a ladder that begins at `tiny`'s."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

from susc_pipeline import tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.tokens import TokenizedDocument

N_SHARDS = (22, 16, 12, 8, 5, 3)
CONTEXTS_PER_SHARD = (36, 24, 16, 8)
N_CHAINS = (8, 4)
DIRECTION_CONTEXTS = (512, 256, 128)  # of a component's directions, by all chains
LEAST_OF_A_PART = 8  # contexts of the population, for each chain and role
POPULATION_OF_DIRECTIONS = 16  # contexts of the gradient at w*, in units of those of the directions


def fitted(
    documents: list[TokenizedDocument],
    base: ExperimentConfig,
    *,
    hours_of: Callable[[ExperimentConfig], float],
    hours: float,
) -> ExperimentConfig:
    """The largest experiment of the ladder that the corpus can fill and that takes no longer than it may.

    Args:
        documents: of the corpus, in tokens.
        base: what is not a size is taken from here.
        hours_of: what an experiment takes.
        hours: what it may take.

    Raises:
        ValueError: the corpus cannot fill the smallest, or the smallest takes longer.
    """
    refused, least_hours = "", math.inf
    for filled in ladder(base):
        try:
            least = tokens.check_sizes(documents, filled.tokens, filled.seed, n_chains=filled.sampling.n_chains)
        except ValueError as error:
            refused = str(error)
            continue
        if least < LEAST_OF_A_PART:
            refused = (
                f"a chain's part of the population has {least} contexts of {filled.tokens.context_length} tokens, and needs "
                f"{LEAST_OF_A_PART}; add text, or lower the length of a context"
            )
            continue
        for one in budgeted(filled):
            least_hours = min(least_hours, hours_of(one))
            if least_hours <= hours:
                return one
    if least_hours < math.inf:
        raise ValueError(
            f"the smallest experiment takes about {least_hours:.2g} hours, more than {hours:g}; choose fewer components"
        )
    raise ValueError(f"the corpus is too small for any experiment: {refused}")


def ladder(base: ExperimentConfig) -> Iterator[ExperimentConfig]:
    """Experiments from large to small: by tokens of all shards, then by chains."""
    sizes = sorted(itertools.product(N_SHARDS, CONTEXTS_PER_SHARD), key=lambda size: -size[0] * size[1])
    for (n_shards, n_contexts), n_chains in itertools.product(sizes, N_CHAINS):
        counts = {"n_shards": n_shards, "contexts_per_shard": n_contexts}
        yield dataclasses.replace(
            base,
            tokens=dataclasses.replace(base.tokens, n_ground_truth_shards=2, n_validation_shards=1, **counts),
            sampling=dataclasses.replace(base.sampling, n_chains=n_chains),
        )


def budgeted(filled: ExperimentConfig) -> Iterator[ExperimentConfig]:
    """The experiment with more to fewer contexts of the directions, and of the population behind them."""
    for budget in DIRECTION_CONTEXTS:
        n_population = POPULATION_OF_DIRECTIONS * budget
        yield dataclasses.replace(
            filled,
            tokens=dataclasses.replace(filled.tokens, max_population_contexts=n_population),
            directions=filled.directions.limited(budget),
        )
