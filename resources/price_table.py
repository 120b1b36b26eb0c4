"""`susc-pipeline price EXPERIMENT`: hours, disk and memory of each asset, before any of it is made.

Only the sizes of the model are read: config.json is enough, and --config gives that of a model that is not here yet. Hours
follow from operations over a rate: that of a layer with the model's sizes, measured here, or a share of a given one.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from resources import experiment as experiments
from resources import language_model
from susc_pipeline import feasibility, price
from susc_pipeline import plan as plans
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import checkpoint, components, decoder, decoder_weights, operations, pretrained, randomized
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.pretrained import ModelSettings
from susc_pipeline.plan import Plan
from susc_pipeline.price import Price

SHARE = 0.3  # of the rate of a large matrix product that is given
# Of the rate of a layer's forward pass that is measured: .95 on SmolLM2, all assets together; on tiny .85 by draws.
SHARE_OF_LAYER = 0.8
PROCESS_BYTES = 700 << 20  # of an interpreter with torch, Dagster and polars, before it does anything
REPEATS = 5  # of the layer's pass, of which the fastest counts
LEAST_OPERATIONS = {
    "cpu": 5e9
}  # of that pass: a fraction of a second, with as many contexts as it takes; elsewhere MANY
MANY, MOST_CONTEXTS = 5e11, 1024
REMEDIES = {
    "response_directions": "sampling.n_chains, sampling.batch_size or model.components",
    "sgld_samples": "sampling.n_chains, sampling.evaluation_batch_size or tokens.contexts_per_shard",
    "linear_response": "model.components or tokens.context_length",
    "knn_graph": "representation.n_components or knn.n_neighbors, or set knn.rows_at_once",
}


def content_of(settings: ModelSettings) -> tuple[dict[str, Any], Path]:
    """What config.json says, and where it stands; of a Hub name that file alone is fetched.

    Raises:
        ValueError: there is none.
    """
    folder = language_model.folder_of(settings)
    try:
        place = folder / "config.json" if folder.is_dir() else Path(language_model.fetched(settings, "config.json"))
        return checkpoint.config(place), place
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no config.json of model.source {settings.source!r} was found ({error}); give the file as --config"
        ) from error


def plan_of(experiment: ExperimentConfig, config: Path | None = None) -> Plan:
    """The experiment on a model of the sizes that config.json says.

    Raises:
        ValueError: no config.json, a model that is not computed here, or a pattern that no component matches.
    """
    content, place = (checkpoint.config(config), config) if config else content_of(experiment.model)
    model = checkpoint.shaped(content, place, dtype=experiment.model.dtype)
    return Plan(model, components.chosen(model, experiment.model.components), experiment)


def measured_rate(plan: Plan) -> float:
    """Operations a second that the assets reach: a share of what a layer of these sizes does, forward, on the device.

    A layer says more than a large matrix product: narrow models are far from its rate, wide ones near.
    """
    device = pretrained.torch_device(plan.experiment.model.device)
    layer = _layer(plan.model, device, getattr(torch, plan.experiment.model.dtype))
    of_context = operations.layer(plan.model, plan.n_positions) * plan.n_positions
    n_contexts = math.ceil(LEAST_OPERATIONS.get(device, MANY) / of_context)
    n_contexts = min(max(n_contexts, price.CONTEXTS_AT_ONCE), MOST_CONTEXTS)
    x = torch.randn(n_contexts, plan.n_positions, plan.model.hidden_size, device=device)
    x, seconds = x.to(layer.embedding.dtype), []
    for _ in range(REPEATS):
        started = time.perf_counter()
        decoder.run_layer(x, layer.layers[0], layer)[0, 0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return SHARE_OF_LAYER * n_contexts * of_context / min(seconds)


def _layer(model: Decoder, device: str, dtype: torch.dtype) -> Decoder:
    """The model's first layer alone, with random weights; its ends, which are not run, have one row."""
    ends = {"embedding": model.embedding[:1], "unembedding": model.unembedding[:1], "positions": None}
    alone = dataclasses.replace(model, layers=model.layers[:1], **ends)
    named = decoder_weights.named_weights(alone)
    empty = {name: torch.empty(weight.shape, dtype=dtype, device=device) for name, weight in named.items()}
    filled = decoder_weights.with_weights(alone, empty)
    return randomized.untrained(filled, torch.Generator(device=device).manual_seed(0))


def hours(plan: Plan, rate: float) -> float:
    """Hours of all assets together, those of clusters included, at so many operations a second."""
    return (seconds_of(price.total(price.prices(plan)), rate) + price.seconds_beside(plan)) / 3600


def seconds_of(one: Price, rate: float) -> float:
    """Seconds of an asset's operations at the rate."""
    return one.operations / rate


def duration(seconds: float) -> str:
    """Such as `4.2 h`, `35 min`, `12 s`."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def size(n_bytes: float) -> str:
    """Such as `1.3 GB`, in three digits at most."""
    unit, factor = next(((u, f) for u, f in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)) if n_bytes >= f), ("kB", 1e3))
    return f"{n_bytes / factor:.3g} {unit}"


def table(plan: Plan, rate: float) -> list[str]:
    """A line for each asset, and the sum."""
    found = price.prices(plan)
    rows = [*found.items(), ("together (memory: the most)", price.total(found))]
    lines = [f"{'asset':42} {'operations':>11} {'time':>9} {'disk':>9} {'memory':>9}"]
    for name, one in rows:
        count = f"{one.operations:.2g}" if one.operations else ""
        spent = duration(seconds_of(one, rate)) if one.operations else ""
        held = size(one.memory) if one.memory else ""
        lines.append(f"{name:42} {count:>11} {spent:>9} {size(one.disk) if one.disk else '':>9} {held:>9}")
    return lines


def summary(plan: Plan, rate: float) -> str:
    """The sum in one line."""
    whole = price.total(price.prices(plan))
    return (
        f"at most about {duration(seconds_of(whole, rate))} of matrix products at {rate:.2g} operations a second and "
        f"{duration(price.seconds_beside(plan))} of clusters and pages, "
        f"{size(whole.disk)} of disk, {size(PROCESS_BYTES + whole.memory)} of memory at most"
    )


def refuse_what_cannot_fit(plan: Plan, available: float) -> None:
    """Compare the memory of each asset with what the machine has, after settings with the model and the tokens.

    Args:
        plan: of the experiment.
        available: bytes of the whole machine or GPU.

    Raises:
        ValueError: an asset needs more, or a setting cannot be obeyed; names the keys to change.
    """
    feasibility.check(plan)
    for name, one in price.prices(plan).items():
        if PROCESS_BYTES + one.memory > available:
            remedy = REMEDIES.get(name.split(",")[0], "the size of the experiment")
            raise ValueError(
                f"{name} needs about {size(PROCESS_BYTES + one.memory)} of memory at once, but there are "
                f"{size(available)}; lower {remedy}, or use a larger machine"
            )


def memory_of(settings: ModelSettings) -> float:
    """Bytes of memory of the device, used or not."""
    device = pretrained.torch_device(settings.device)
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(psutil.virtual_memory().total)


def report(name: str, config: Path | None, *, teraflops: float | None = None, gigabytes: float | None = None) -> int:
    """Print the price of an experiment; 0 where it fits, 1 where it does not.

    Args:
        name: of the experiment, or its TOML file.
        config: config.json of a model that is not here.
        teraflops: rate of a large matrix product, of which a share is reached; measured with a layer, if none is given.
        gigabytes: memory of the machine; this one's, if none is given.

    Raises:
        ValueError: it cannot be priced.
    """
    experiment = experiments.load(name)
    plan = plan_of(experiment, config)
    rate = SHARE * teraflops * 1e12 if teraflops else measured_rate(plan)
    source = f"{SHARE:.0%} of the {teraflops:g} given" if teraflops else "measured here, with a layer of these sizes"
    print(
        f"{experiment.name}: {len(plan.chosen)} components, {plan.n_tokens:,} tokens, {plan.n_sampled:,} of them sampled"
    )
    print("\n".join(table(plan, rate)))
    print(f"at {rate / 1e12:.3g} TFLOP/s ({source})")
    print("response_directions is priced at its whole budget; it ends sooner once responses are reliable")
    print(f"clusters, tables and pages: {duration(price.seconds_beside(plan))} on two cores, as on tiny")
    if not experiment.tokens.max_population_contexts:
        print(f"the population is taken for {plans.POPULATION:,} contexts; tokens.max_population_contexts bounds it")
    try:
        refuse_what_cannot_fit(plan, gigabytes * 1e9 if gigabytes else memory_of(experiment.model))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
