"""Which loss the observable phi is made of: that of fresh contexts at every draw, so that it is the population's.

Near w* the gradient of the population loss is almost zero, that of a small fixed set is not: a fixed set puts its own
sampling noise into phi, and every susceptibility inherits it. How a corpus becomes a population is in tokens.py.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from susc_pipeline.model import perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs


class Population(NamedTuple):
    """Contexts that stand for the data distribution: each chain has a part of its own, in random order."""

    parts: tuple[Int[np.ndarray, "contexts positions"], ...]

    def fresh(self, first: int, n_contexts: int) -> Int[np.ndarray, "chains contexts positions"]:
        """The next contexts of every part from number `first` on; a part that is used up begins again.

        Raises:
            ValueError: a part has fewer contexts than one batch.
        """
        for chain, part in enumerate(self.parts):
            if len(part) < n_contexts:
                raise ValueError(
                    f"chain {chain} has {len(part)} population contexts, fewer than the {n_contexts} of one step; raise "
                    f"tokens.population_share, or lower sampling.n_chains, sampling.batch_size or "
                    f"sampling.n_reference_contexts"
                )
        rows = np.arange(first, first + n_contexts)
        return np.stack([part[rows % len(part)] for part in self.parts])


def inputs(
    model: Decoder, component: Component, token_ids: Int[np.ndarray, "chains contexts positions"]
) -> ComponentInputs:
    """What a component's losses on each chain's contexts need; only the layers below it are computed."""
    ids = torch.as_tensor(np.asarray(token_ids, np.int64)).to(model.device)
    prepared = perturbation.prepare_tokens(model, component, ids.flatten(0, 1))
    return prepared.each(lambda tensor: tensor.unflatten(0, ids.shape[:2]))
