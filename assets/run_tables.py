"""Tables of components, chains and clusters that queries and pages show. The explorer shows them."""

import dagster as dg
import polars as pl

from assets import plots, pools
from assets.partitions import EVERY_SHARD, version
from resources.component_folder import ComponentFolder
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline.clustering import cluster_profiles as profile_tables
from susc_pipeline.clustering.cluster_profiles import Scores
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.explorer import component_table as component_tables
from susc_pipeline.model import components
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.sampling import loss_traces
from susc_pipeline.susceptibility import chain_diagnostics as chain_tables
from susc_pipeline.susceptibility import direction_files

GROUP = "7_explorer"
SCORES = ("predicted_susceptibilities", "half_a_predictions", "half_b_predictions")
OF_RISES = ["chain", "draw", "mean_loss", "rest_loss"]


@dg.asset(group_name=GROUP, kinds={"polars"}, code_version=version(1, "model", "sampling", "components"))
def component_table(
    language_model: LanguageModelFolder,
    pca_basis: PCABasis,
    reliability: pl.DataFrame,
    regime: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """What each component is, and its figures in one row: reliability, LLC, regime, share of variance, loadings.

    What reads of components reads this table; a name is only shown. The warehouse has it as `components`.
    """
    model = language_model.outline(experiment.model).model
    chosen = components.chosen(model, experiment.model.components)
    n_weights = [components.n_parameters(model, component) for component in chosen]
    frame = component_tables.component_table(
        chosen, n_weights, pca_basis, reliability, regime, n_beta=experiment.sampling.n_beta
    )
    columns = [name for name, kind in frame.schema.items() if not kind.is_nested()]
    return dg.MaterializeResult(value=frame, metadata={"table": plots.table(frame.select(columns))})


@dg.asset(
    ins={"sgld_samples": dg.AssetIn(partition_mapping=EVERY_SHARD)},
    group_name=GROUP,
    kinds={"numpy", "polars"},
    code_version=version(1, "sampling"),
)
def chain_diagnostics(
    component_table: pl.DataFrame,
    response_directions: ComponentFolder,
    sgld_samples: dict[str, ComponentFolder],
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Whether the chains of each component can be believed: split R-hat, bulk effective sample size, LLC with its error.

    By shard, and without a shard of the chains that found the response directions. R-hat of Gelman et al. (2013) with what
    chance alone would give; effective sample size by ranks (Vehtari et al. 2021, arviz-stats); LLC = n_beta (E[L] - L(w*))
    (Lau et al. 2023). Of the traces of draws only the losses of the population are read.
    """
    n_beta, rows = experiment.sampling.n_beta, []
    for name in component_table["name"]:
        found = direction_files.diagnostics(response_directions.whole(name))
        rows.append(chain_tables.of_directions(name, found, experiment.sampling))
        for shard, traces in sorted(sgld_samples.items()):
            rise = loss_traces.rises(traces.scan(name, OF_RISES))
            rows.append(chain_tables.row(name, shard, rise, n_beta=n_beta))
    frame = chain_tables.table(rows)
    shown = frame.filter(pl.col("shard").is_null()).drop("shard")
    above = int((frame["r_hat"] > frame["r_hat_limit"]).sum())
    return dg.MaterializeResult(value=frame, metadata={"r_hats_above_limit": above, "table": plots.table(shown)})


@dg.asset(
    ins={name: dg.AssetIn(partition_mapping=EVERY_SHARD) for name in SCORES},
    group_name=GROUP,
    kinds={"numpy", "polars"},
    code_version=version(1, "seed"),
    pool=pools.MEMORY,
)
def cluster_profiles(
    predicted_susceptibilities: dict[str, pl.LazyFrame],
    half_a_predictions: dict[str, pl.LazyFrame],
    half_b_predictions: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    clusters: pl.DataFrame,
    cluster_members: pl.DataFrame,
    component_table: pl.DataFrame,
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Mean response of each cluster to each component, in standard deviations over tokens, with its standard error.

    m = sum s_d / n. The error is that over documents, sqrt(D/(D - 1) sum (s_d - n_d m)^2) / n (Liang and Zeger 1986), and half
    the difference of halves of the chains, which share nothing. half_width is half of the 95 % interval.
    """
    scores, names = Scores(predicted_susceptibilities, half_a_predictions, half_b_predictions), component_table["name"]
    with store.scratch("cluster_profiles") as folder:
        how = {"n_clusters": clusters.height, "folder": folder / "documents"}
        frame = profile_tables.table(scores, cluster_members, pca_basis, names.to_list(), **how)
    strongest = frame.filter(pl.col("mean").abs() > pl.col("half_width")).height
    return dg.MaterializeResult(value=frame, metadata={"beyond_zero": strongest, "table": plots.table(frame.head(100))})
