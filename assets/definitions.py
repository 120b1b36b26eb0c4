"""The Dagster code location: all assets, checks, jobs and resources of the experiment in force."""

import atexit
import gc
import os
import sys
import warnings
from pathlib import Path

# A panic of a Rust library that finds no memory for its backtrace either would wait for ever for the lock it holds.
os.environ["RUST_BACKTRACE"] = "0"

# `dagster dev -w workspace.yaml` loads this file by its path, from whatever directory; the packages lie beside it.
CHECKOUT = str(Path(__file__).resolve().parent.parent)
if CHECKOUT not in sys.path:
    sys.path.insert(0, CHECKOUT)

import dagster as dg  # noqa: E402

# A check by shard is a preview in Dagster, which is pinned; said at each start, it would hide what matters.
warnings.filterwarnings("ignore", message="Specifying a partitions_def", category=dg.PreviewWarning)

from assets import (  # noqa: E402
    asked_observables,
    basis,
    checks,
    cluster_ablations,
    cluster_controls,
    cluster_interventions,
    clusters,
    control_search,
    document_weights,
    everything,
    explorer,
    inputs,
    kernel_controls,
    labels,
    lost_runs,
    overview,
    partitions,
    prediction,
    questions,
    run_tables,
    sampled_controls,
    sampler_controls,
    sampling,
    text_controls,
)
from resources import experiment as experiments  # noqa: E402
from resources.io_manager import ArtifactIOManager  # noqa: E402

JOBS = {
    "ground_truth": "Draws and sampled susceptibilities of ground-truth shards.",
    "basis": "The PCA basis, its reliability, and the auxiliary model.",
    "measure": "Linear responses and activations of token shards.",
    "upsample": "PC scores of every token of token shards.",
    "whiten": "Whitened vectors of token shards.",
    "explore": "The map, the component table and the static site.",
    "cluster": "Graphs, clusters of all chains and of halves, and what the clusters are in words.",
    "controls": "What else finds the clusters: text, activations, gradients, other weights, chains without the loss.",
}
MODULES = (
    inputs,
    sampling,
    sampler_controls,
    basis,
    prediction,
    clusters,
    labels,
    cluster_ablations,
    text_controls,
    kernel_controls,
    sampled_controls,
    cluster_controls,
    cluster_interventions,
    run_tables,
    explorer,
    questions,
    asked_observables,
    document_weights,
)


def build_definitions(**overrides: object) -> dg.Definitions:
    """The definitions, with resources replaced by keyword."""
    store = experiments.store(partitions.EXPERIMENT)
    description = overview.description(partitions.EXPERIMENT, store)
    resources = {
        "experiment": dg.ResourceDefinition.hardcoded_resource(partitions.EXPERIMENT, description),
        "store": dg.ResourceDefinition.hardcoded_resource(store, f"Where the artifacts lie: `{store.root}`"),
        "io_manager": ArtifactIOManager(store, partitions.FACTS),
    }
    made = dg.AssetSelection.assets
    stages = {
        "ground_truth": made("sgld_samples", "ground_truth_susceptibilities", "chain_products"),
        "basis": dg.AssetSelection.groups(basis.GROUP),
        "measure": made("linear_response", "activations"),
        "upsample": made(*prediction.DESCRIPTIONS),
        "whiten": made("whitened_susceptibilities"),
        "explore": dg.AssetSelection.groups(explorer.GROUP),
        "cluster": dg.AssetSelection.groups(clusters.GROUP),
        "controls": dg.AssetSelection.groups(control_search.GROUP),
    }
    tags = {"experiment": partitions.EXPERIMENT.name}
    jobs = [
        *(dg.define_asset_job(name, assets, description=JOBS[name], run_tags=tags) for name, assets in stages.items()),
        everything.job(lambda: defs),
    ]
    # Off until its sensor is switched on in the UI: what is made from something newer is made again, but for what a plain
    # run leaves out, for which nothing waits.
    eager = dg.AutomationCondition.eager().ignore(dg.AssetSelection.groups(control_search.GROUP))
    refreshed = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(
            automation_condition=None if partitions.ON_REQUEST.items() <= spec.tags.items() else eager
        ),
        [asset for asset in dg.load_assets_from_modules(MODULES) if isinstance(asset, dg.AssetsDefinition)],
    )
    return dg.Definitions(
        assets=refreshed,
        sensors=[inputs.corpus_files, lost_runs.lost_runs],
        asset_checks=checks.ALL,
        jobs=jobs,
        resources={**resources, **overrides},
        executor=dg.in_process_executor,  # a run is a process already; one for each step would load PyTorch again
    )


defs = build_definitions()

# Each run, and each look of a sensor, leaves about 0.11 MiB of Dagster's cyclic garbage in the code server. Python looks for it
# when a quarter as many objects have come as there are, which here is after 300 runs and 40 MiB. What is imported stays: it is
# set aside, and a collection of what is left, which is nothing, begins the count anew.
gc.freeze()
atexit.register(gc.unfreeze)  # or DuckDB tells of each of its objects that it outlives the interpreter
gc.collect()
