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
# Draws of a chain, and contexts of a component's directions by all chains: of `tiny`, then less, then the least.
PRECISIONS = (((3, 512), (2, 512), (2, 256), (1, 256)), ((1, 128),))
LEAST_OF_A_PART = 8  # contexts of the population, for each chain and role
POPULATION_OF_DIRECTIONS = 16  # contexts of the gradient at w*, in units of those of the directions


def fitted(
    documents: list[TokenizedDocument],
    base: ExperimentConfig,
    *,
    hours_of: Callable[[ExperimentConfig], float],
    hours: float,
    is_limit: bool = True,
) -> ExperimentConfig:
    """The largest experiment that the corpus can fill and that takes no longer than it may.

    Where hours are short, first tokens and draws are given up, then chains, and at last the precision of the directions.

    Args:
        documents: of the corpus, in tokens.
        base: what is not a size is taken from here.
        hours_of: what an experiment takes.
        hours: what it may take.
        is_limit: whether to refuse where even the smallest takes longer; else that one is taken.

    Raises:
        ValueError: the corpus cannot fill the smallest, or the smallest takes longer.
    """
    fillable, refused = _fillable(documents, base)
    if not fillable:
        raise ValueError(f"the corpus is too small for any experiment: {refused}")
    smallest, least_hours = fillable[0], math.inf
    for precisions, n_chains in itertools.product(PRECISIONS, N_CHAINS):
        for filled in (one for one in fillable if one.sampling.n_chains == n_chains):
            for one in (_at(filled, *precision) for precision in precisions):
                needed = hours_of(one)
                if needed <= hours:
                    return one
                if needed < least_hours:
                    smallest, least_hours = one, needed
    if is_limit:
        raise ValueError(
            f"the smallest experiment takes about {least_hours:.2g} hours, more than {hours:g}; choose fewer components"
        )
    return smallest


def _fillable(documents: list[TokenizedDocument], base: ExperimentConfig) -> tuple[list[ExperimentConfig], str]:
    """The experiments of the ladder that the corpus fills, and why the smallest that it does not fill was refused."""
    found, refused = [], ""
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
        found.append(filled)
    return found, refused


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


def _at(filled: ExperimentConfig, n_draws: int, n_contexts: int) -> ExperimentConfig:
    """The experiment with that many draws of a chain and contexts of the directions, and the population behind them."""
    return dataclasses.replace(
        filled,
        tokens=dataclasses.replace(filled.tokens, max_population_contexts=POPULATION_OF_DIRECTIONS * n_contexts),
        sampling=dataclasses.replace(filled.sampling, n_draws=n_draws),
        directions=filled.directions.limited(n_contexts),
    )
