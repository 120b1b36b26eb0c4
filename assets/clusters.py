"""The k-NN graph and its clusters, with whitening and, on the same tokens, without."""

import dagster as dg
import numpy as np
import polars as pl
from scipy import sparse

from assets import branch, plots, pools, progress
from assets.partitions import EVERY_SHARD, version
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.clustering import agreement, blocks, membership, reproducibility, search
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model.pretrained import token_texts

GROUP = "6_clusters"
DESCRIPTIONS = {
    "clusters": "Local-PageRank clusters of tokens (Andersen, Chung and Lang 2006): size, conductance, volume, density, seed, "
    "and reproducibility: best Jaccard index with a cluster by half of the chains, the lesser of both halves. Numbered by "
    "rising conductance = leaving / (leaving + staying) edge weight. "
    "Read them in the explorer, a static site: its path is in the metadata, `make explore` serves it.",
    "cluster_members": "The tokens of each cluster, most central first, with the shard that each is in.",
}
SHARES = {"halves_matched": False, "halves_matched_by_chance": True}
ALL_WHITENED = {"whitened_susceptibilities": dg.AssetIn(partition_mapping=EVERY_SHARD)}


@dg.asset(ins=ALL_WHITENED, group_name=GROUP, kinds={"numpy"}, code_version=version(3, "knn"), pool=pools.MEMORY)
def knn_graph(
    context: dg.AssetExecutionContext,
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[sparse.csr_array]:
    """Symmetric graph that joins tokens near in whitened susceptibility, edge weights falling with distance.

    w_ij = exp(-2 d_ij^2 / (s_i s_j)), s the distance to the seventh neighbour (self-tuning: Zelnik-Manor and Perona 2004),
    unless knn.kernel says otherwise. A vertex is a token; vertices are numbered by shard, context and position. With
    knn.rows_at_once it is built in files.
    """
    tokens = schema.stack(whitened_susceptibilities, "whitened")
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "knn_graph"))
    report = progress.reporter(context, "tokens with neighbours")
    with store.scratch("knn_graph") as folder:
        graph = blocks.knn_graph(tokens.values, experiment.knn, rng, folder, progress=report)
    return dg.MaterializeResult(value=graph, metadata={"vertices": graph.shape[0], "edges": graph.nnz // 2})


def half_graph_asset(half: str) -> dg.AssetsDefinition:
    """The graph by one half of the chains."""

    @dg.asset(
        name=f"half_{half}_knn_graph",
        ins={"predictions": dg.AssetIn(f"half_{half}_predictions", partition_mapping=EVERY_SHARD)},
        group_name=GROUP,
        kinds={"numpy"},
        code_version=version(3, "knn", "representation"),
        description=f"The same graph of the same tokens by half {half} of the chains: predictions whitened by a basis of their "
        "own, v = U (s - mean) / sqrt(variance).",
        pool=pools.MEMORY,
    )
    def graph_of_half(
        predictions: dict[str, pl.LazyFrame],
        experiment: dg.ResourceParam[ExperimentConfig],
        store: dg.ResourceParam[Store],
    ) -> dg.MaterializeResult[sparse.csr_array]:
        shards = [schema.stack({k: frame}, "prediction").values for k, frame in sorted(predictions.items())]
        graph = branch.graph_of(branch.whitened(shards, experiment), f"half_{half}_knn_graph", experiment, store)
        return dg.MaterializeResult(value=graph, metadata={"vertices": graph.shape[0], "edges": graph.nnz // 2})

    return graph_of_half


half_a_knn_graph, half_b_knn_graph = half_graph_asset("a"), half_graph_asset("b")


def half_clusters_asset(half: str) -> dg.AssetsDefinition:
    """The clusters by one half of the chains."""

    @dg.asset(
        name=f"half_{half}_cluster_members",
        ins={**ALL_WHITENED, "graph": dg.AssetIn(f"half_{half}_knn_graph")},
        group_name=GROUP,
        kinds={"numpy", "parquet"},
        code_version=version(1, "clustering"),
        description=f"The tokens of the clusters that the same search finds in the graph by half {half} of the chains.",
        pool=pools.MEMORY,
    )
    def members_of_half(
        context: dg.AssetExecutionContext,
        whitened_susceptibilities: dict[str, pl.LazyFrame],
        graph: sparse.csr_array,
        experiment: dg.ResourceParam[ExperimentConfig],
    ) -> dg.MaterializeResult[pl.DataFrame]:
        return branch.found_in(context, graph, schema.stack(whitened_susceptibilities, "whitened"), experiment)

    return members_of_half


half_a_cluster_members, half_b_cluster_members = half_clusters_asset("a"), half_clusters_asset("b")


@dg.multi_asset(
    ins={**ALL_WHITENED, "token_shards": dg.AssetIn(partition_mapping=EVERY_SHARD)},
    outs={
        name: dg.AssetOut(kinds={"numpy", "parquet"}, code_version=version(8, "clustering"), description=text)
        for name, text in DESCRIPTIONS.items()
    },
    group_name=GROUP,
    pool=pools.MEMORY,
)
def find_clusters(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    token_shards: dict[str, pl.LazyFrame],
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    knn_graph: sparse.csr_array,
    half_a_cluster_members: pl.DataFrame,
    half_b_cluster_members: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
):
    """From every token: personalised PageRank, sweep, again from the core; then the sets that their own members find."""
    report = progress.reporter(context, "tokens cut from")
    found = search.find_clusters(knn_graph, experiment.clustering, progress=report)
    tokens = schema.stack(whitened_susceptibilities, "whitened")
    halves = [membership.labels(half, tokens) for half in (half_a_cluster_members, half_b_cluster_members)]
    again = reproducibility.reproducibility(found.labels, *halves, n_clusters=len(found.size))
    table, members = membership.cluster_table(found, again, tokens), membership.member_table(found, tokens)
    contexts = pl.concat([token_shards[shard] for shard in sorted(token_shards)]).collect()
    loaded = language_model.outline(experiment.model)
    texts = token_texts(loaded.tokenizer, loaded.model.vocabulary_size)
    best = plots.best_clusters(table, members, contexts, texts)
    counts = {"clusters": table.height, "clustered_tokens": members.height, "tokens": len(tokens.values)}
    counts |= {"cuts": found.n_cuts, "edges_visited": found.n_visited}
    counts |= {"reproduced": int(np.sum(again >= agreement.MATCH))}
    page = dg.MetadataValue.path(store.page())
    metadata = {
        **counts,
        "explorer": page,
        "reproducibility": plots.glance(np.sort(again)[::-1]),
        "best": best,
        "sizes": plots.clusters(table),
    }
    yield dg.Output(table, "clusters", metadata=metadata)
    yield dg.Output(members, "cluster_members")


@dg.asset(
    ins=ALL_WHITENED,
    group_name=GROUP,
    kinds={"numpy", "polars"},
    code_version=version(1, "seed"),
)
def cluster_reproducibility(
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    cluster_members: pl.DataFrame,
    half_a_cluster_members: pl.DataFrame,
    half_b_cluster_members: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """How many clusters come again from halves of the chains that share nothing, and how many chance alone would match.

    Share of clusters with a match of Jaccard |A and B| / |A or B| >= 1/2, both ways, and adjusted mutual information over all
    tokens (Vinh, Epps and Bailey 2010). Chance: the second's labels permuted among the occurrences of each token.
    """
    tokens = schema.stack(whitened_susceptibilities, "whitened")
    members = {"all chains": cluster_members, "half a": half_a_cluster_members, "half b": half_b_cluster_members}
    labels = {name: membership.labels(each, tokens) for name, each in members.items()}
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "cluster_reproducibility"))
    frame = reproducibility.table(labels, tokens.keys["token_id"].to_numpy(), rng)
    halves = frame.filter(first="half a", second="half b").rows_by_key("is_chance", named=True, unique=True)
    shares = {name: halves[is_chance]["first_matched"] or 0.0 for name, is_chance in SHARES.items()}
    return dg.MaterializeResult(value=frame, metadata={**shares, "table": plots.table(frame)})
