"""The reference library on our models: the same components, chains, draws and steps, through its own `sample`."""

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from devinterp.slt.sampling import sample
from devinterp.slt.weight_restrictions import create_param_masks

from susc_pipeline.model.components import Component
from susc_pipeline.sampling.posterior import SamplingSettings

METHODS = {"sgld": "sgmcmc_sgld", "rmsprop_sgld_devinterp": "rmsprop_sgld"}


class Tokens(NamedTuple):
    """Contexts of a comparison, token ids of equal length."""

    shard: np.ndarray
    observable: np.ndarray
    minibatch: np.ndarray


class PeerTraces(NamedTuple):
    """Losses that the reference library stored: (chains, draws, contexts, predicted)."""

    shard: np.ndarray
    observable: np.ndarray
    minibatch_ids: np.ndarray
    """Token ids of each step's minibatch: (chains, steps, batch, positions)."""
    shard_ids: np.ndarray
    observable_ids: np.ndarray


def masks(module: torch.nn.Module, component: Component) -> dict[str, torch.Tensor | None]:
    """The reference's name for a component, as the masks of its parameters."""
    ends = {"embed": module.get_input_embeddings(), "unembed": module.get_output_embeddings()}
    if component.kind in ends:
        weight = ends[component.kind].weight
        return {name: None for name, parameter in module.named_parameters() if parameter is weight}
    part = " mlp" if component.kind == "mlp" else f"h{component.head}"
    return create_param_masks(module, f"l{component.layer}{part}")


def run(
    module: Any,
    component: Component,
    tokens: Tokens,
    settings: SamplingSettings,
    *,
    seed: int = 100,
    n_chains: int | None = None,
) -> PeerTraces:
    """Sample one component with the reference library; its progress bars and files are thrown away.

    The number of chains may be fewer than the settings allow for our own.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sample(
            module,
            _dataset(tokens.minibatch),
            {
                "observable": (_dataset(tokens.observable), len(tokens.observable) // settings.batch_size),
                "shard": (_dataset(tokens.shard), len(tokens.shard) // settings.batch_size),
            },
            lr=settings.step_size,
            n_beta=settings.n_beta,
            localization=settings.localization,
            sampling_method=METHODS[settings.sampler],
            param_masks=masks(module, component),
            num_chains=n_chains or settings.n_chains,
            num_draws=settings.n_draws,
            batch_size=settings.batch_size,
            num_burnin_steps=settings.n_burn_in,
            num_steps_bw_draws=settings.n_steps_between_draws,
            num_init_loss_batches=1,  # its default of 32 would be charged to it for every component
            init_seed=seed,
            device="cpu",
            output_path=Path(folder) / "samples.zarr",
        )
        names = ("loss_shard", "loss_observable", "sampling_input_ids_micro", "input_ids_shard", "input_ids_observable")
        return PeerTraces(*(np.asarray(found.dataset[name].values) for name in names))


def _dataset(ids: np.ndarray) -> Dataset:
    return Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch")
