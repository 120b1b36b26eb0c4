"""The map and the static site on which the clusters are read."""

import dataclasses
from importlib import metadata
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
from scipy import sparse

from assets import pools
from assets.clusters import ALL_WHITENED
from assets.partitions import EVERY_SHARD, EXPERIMENT, version
from assets.run_tables import GROUP
from resources import clustered_tokens
from resources.component_folder import ComponentFolder
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.clustering.knn import StoredGraph
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.explorer import asked as asked_questions
from susc_pipeline.explorer import asked_tokens, comparison, control_rows, layout, run_page, wanted
from susc_pipeline.explorer.asked_tokens import Entry, Measured
from susc_pipeline.explorer.comparison import Comparison
from susc_pipeline.explorer.numbering import Shards
from susc_pipeline.explorer.site import Site
from susc_pipeline.model.pretrained import token_texts
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.susceptibility import direction_files
from susc_pipeline.susceptibility import regime as regimes

LIBRARIES = ("torch", "transformers", "numpy", "polars", "scikit-learn", "pynndescent", "umap-learn", "dagster")
SHARDED = (
    "token_shards",
    "predicted_susceptibilities",
    "half_a_predictions",
    "half_b_predictions",
    "whitened_susceptibilities",
    "ground_truth_susceptibilities",
)
FRAME = dg.PythonObjectDagsterType(pl.DataFrame)  # an argument that is not named has no type by itself
ASKED = [
    name
    for name, named in zip(asked_questions.TABLES, (EXPERIMENT.data_changes, EXPERIMENT.observables), strict=True)
    if named
]
WANTED = list(wanted.TABLES) if EXPERIMENT.wanted_changes else []
BY_SHARD = dg.DagsterType(
    lambda _, value: isinstance(value, dict), "LazyFramesByShard", typing_type=dict[str, pl.LazyFrame]
)
# Responses of the tokens of data changes, by the run's own observable and by those that are named.
OF_TOKENS = (
    ["linear_response", *(["observable_responses"] if EXPERIMENT.observables else [])]
    if EXPERIMENT.data_changes
    else []
)
OTHER_EXPERIMENT = "Another experiment of the same store, over the tokens that both clustered."


@dg.asset(
    ins=ALL_WHITENED,
    group_name=GROUP,
    kinds={"numpy", "parquet"},
    code_version=version(2, "explorer"),
    pool=pools.MEMORY,
)
def map_layout(
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    knn_graph: sparse.csr_array,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Tokens in two dimensions: UMAP's layout (McInnes et al. 2018) of the graph that the clusters come from.

    Of many tokens a random sample, with the edges within it. Nearness means something, far distances nothing.
    """
    tokens = schema.stack(whitened_susceptibilities, "whitened")
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "map_layout"))
    chosen = layout.sample(len(tokens.values), experiment.explorer.max_map_points, rng)
    graph, start = knn_graph[chosen][:, chosen], tokens.values[chosen][:, :2]
    places = layout.layout(graph, start, n_epochs=experiment.explorer.n_layout_epochs, rng=rng)
    keys = tokens.keys.with_columns(shard=tokens.shard)[chosen.tolist()]
    frame = keys.with_columns(x=pl.Series(places[:, 0]), y=pl.Series(places[:, 1])).select(*schema.LAYOUT)
    return dg.MaterializeResult(value=frame, metadata={"edges": graph.nnz // 2})


@dg.asset(
    ins={
        **{name: dg.AssetIn(partition_mapping=EVERY_SHARD) for name in SHARDED},
        **{name: dg.AssetIn(dagster_type=FRAME) for name in (*ASKED, *WANTED)},
        **{name: dg.AssetIn(partition_mapping=EVERY_SHARD, dagster_type=BY_SHARD) for name in OF_TOKENS},
    },
    group_name=GROUP,
    kinds={"html"},
    code_version=version(10, "explorer") + "-3" * bool(ASKED) + "-wanted-2" * bool(WANTED),
    pool=pools.MEMORY,
)
def explorer(
    language_model: LanguageModelFolder,
    token_shards: dict[str, pl.LazyFrame],
    response_directions: ComponentFolder,
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    predicted_susceptibilities: dict[str, pl.LazyFrame],
    half_a_predictions: dict[str, pl.LazyFrame],
    half_b_predictions: dict[str, pl.LazyFrame],
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    knn_graph: StoredGraph,
    clusters: pl.DataFrame,
    cluster_members: pl.LazyFrame,
    cluster_labels: pl.DataFrame,
    cluster_profiles: pl.LazyFrame,
    cluster_controls: pl.DataFrame | None,
    cluster_control_matches: pl.DataFrame | None,
    map_layout: pl.DataFrame,
    component_table: pl.DataFrame,
    chain_diagnostics: pl.DataFrame,
    reliability: pl.DataFrame,
    aux_correlation: pl.DataFrame,
    leakage: pl.DataFrame,
    calibration: pl.DataFrame,
    regime: pl.DataFrame,
    negative_control: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
    **asked: Any,
) -> dg.MaterializeResult[Site]:
    """A static site of the clusters: list, cards, text, map, run and comparisons. Open index.html, or `make explore`.

    It needs no server and loads nothing from a network; data lie in small files beside the page, loaded when needed.
    """
    loaded = language_model.outline(experiment.model)
    tables = {
        "chains": run_page.chains(chain_diagnostics),
        "reliability": reliability,
        "aux_correlation": aux_correlation,
    }
    tables |= {"leakage": leakage, "regime": regime, "negative_control": negative_control, "calibration": calibration}
    predictions = (predicted_susceptibilities, half_a_predictions, half_b_predictions)
    shards = Shards(token_shards, *predictions, whitened_susceptibilities, ground_truth_susceptibilities)
    run = run_of(experiment, store, response_directions, component_table["name"], tables, pca_basis)
    texts = token_texts(loaded.tokenizer, loaded.model.vocabulary_size)
    of_clusters = (clusters, cluster_members, cluster_labels, cluster_profiles)
    beside = comparisons(clusters.height, experiment, store), control_rows.of(cluster_controls, cluster_control_matches)
    parts = (component_table, pca_basis, shards, knn_graph, *of_clusters, map_layout, *beside)
    metadata = {"page": dg.MetadataValue.path(store.page()), "clusters": clusters.height}
    tokens = entries_of(experiment, cluster_members, **{name: asked[name] for name in OF_TOKENS})
    questions = asked_questions.section(*(asked.get(name) for name in asked_questions.TABLES), tokens=tokens)
    told = questions, wanted.section(*(asked.get(name) for name in wanted.TABLES))
    return dg.MaterializeResult(value=Site(experiment.explorer, run, texts, *parts, *told), metadata=metadata)


def entries_of(
    experiment: ExperimentConfig,
    members: pl.LazyFrame,
    linear_response: dict[str, pl.LazyFrame] | None = None,
    observable_responses: dict[str, pl.LazyFrame] | None = None,
) -> list[Entry]:
    """The tokens behind the entries of data changes, by the run's own observable and by those that are named."""
    names = [observable.name for observable in experiment.observables]
    every = Measured([asked_questions.OWN], linear_response or {}), Measured(names, observable_responses or {})
    return [entry for one in every for entry in asked_tokens.furthest(experiment.data_changes, one, members)]


def run_of(
    experiment: ExperimentConfig,
    store: Store,
    directions: ComponentFolder,
    names: pl.Series,
    tables: dict[str, pl.DataFrame],
    basis: PCABasis,
) -> dict[str, object]:
    """What the page of the run shows: facts, tables of errors, and the traces of the chains that found the directions."""
    found = {name: direction_files.diagnostics(directions.whole(name)) for name in names}
    return {
        **facts(experiment, store),
        "tables": {name: run_page.table(frame) for name, frame in tables.items()},
        "meaning": regimes.MEANING,
        "source": experiment.representation.upsampling.replace("_", " "),
        "traces": run_page.loss_traces(found, experiment.sampling),
        "explainedVariance": basis.explained_variance_ratio.tolist(),
    }


def facts(experiment: ExperimentConfig, store: Store) -> dict[str, object]:
    """What was run, with what, and what it cost."""
    settings = dataclasses.asdict(experiment)
    return {
        "experiment": experiment.name,
        "digest": experiment.digest(),
        "seed": experiment.seed,
        "settings": {
            name: value for name, value in settings.items() if isinstance(value, dict) and name != "execution"
        },
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "seconds": store.seconds(),
    }


def comparisons(n_clusters: int, experiment: ExperimentConfig, store: Store) -> list[Comparison]:
    """These clusters beside those of each experiment that the settings name."""
    found = []
    for name in experiment.explorer.compare_with:
        here, there = clustered_tokens.read(store), clustered_tokens.read(store.sibling(name))
        shared = here.tokens.join(there.tokens, on=["document_id", "offset"], how="semi")
        compared = comparison.compare(
            here.members, there.members, shared, name=name, meaning=OTHER_EXPERIMENT, n_clusters=n_clusters
        )
        found.append(compared)
    return found
