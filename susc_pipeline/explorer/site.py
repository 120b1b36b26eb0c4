"""The static site: what it shows, as one value, and the files it becomes. How they look is in static/.

Everything is addressed by arithmetic, so that there is no index to load: card c lies in file c // CARDS_PER_FILE,
member number m of all in file m // MEMBERS_PER_FILE, context n in file n // CONTEXTS_PER_FILE.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from susc_pipeline.explorer import cards as card_module
from susc_pipeline.explorer import corpus as corpus_module
from susc_pipeline.explorer import listing, payload, search, vectors
from susc_pipeline.explorer.cards import Cards
from susc_pipeline.explorer.comparison import Comparison
from susc_pipeline.explorer.corpus import Corpus, Members, Shards
from susc_pipeline.explorer.settings import ExplorerSettings
from susc_pipeline.representation.pca import PCABasis

STATIC = Path(__file__).parent / "static"
CARDS_PER_FILE = 32
MEMBERS_PER_FILE = 8192
CONTEXTS_PER_FILE = 16
PREVIEWS_PER_FILE = 256
TOKENS_PER_SEARCH_FILE = 200
DOCUMENTS_PER_SEARCH_FILE = 400
MAX_CLUSTERS_OF_TOKEN = 100


@dataclass(frozen=True, eq=False)
class Site:
    """Everything that the site shows.

    `run` is what is told of the run as it stands (run_page.py); `layout` is of schema.LAYOUT; `texts` is the readable
    text of each token id.
    """

    settings: ExplorerSettings
    run: dict[str, Any]
    texts: list[str]
    components: list[str]
    basis: PCABasis
    shards: Shards
    graph: sparse.csr_array
    clusters: pl.DataFrame
    members: pl.DataFrame
    layout: pl.DataFrame
    comparisons: list[Comparison]


def save(site: Site, folder: Path) -> None:
    """Write the whole site into a folder that does not exist yet."""
    shutil.copytree(STATIC, folder)
    data = folder / "data"
    corpus = corpus_module.corpus(site.shards.contexts)
    members = corpus_module.members(site.members, corpus)
    cards = card_module.cards(site.shards, members, site.basis, n_clusters=site.clusters.height)
    write_clusters(data, site, corpus, members, cards)
    write_members(data, members)
    write_texts(data, site, corpus, members)
    write_map(data, site, corpus, members)
    firsts = write_search(data, site, corpus, members)
    payload.write(data, "run", site.run)
    payload.write(data, "compare", [_comparison(one) for one in site.comparisons])
    payload.write(data, "site", summary(site, corpus, members, firsts))


def summary(site: Site, corpus: Corpus, members: Members, firsts: dict[str, list[str]]) -> dict[str, Any]:
    """What every view needs first."""
    return {
        "experiment": site.run["experiment"],
        "clusters": site.clusters.height,
        "members": members.frame.height,
        "contexts": corpus.contexts.height,
        "tokens": corpus.contexts.height * corpus.tokens_per_context,
        "positions": corpus.tokens_per_context + 1,
        "components": site.components,
        "pcs": len(site.basis.components),
        "texts": site.texts,
        "basis": {
            "components": payload.quantized(site.basis.components),
            # What zero susceptibility is, in standard deviations from the mean token.
            "zero": (-site.basis.mean / site.basis.scale).tolist(),
            "scale": site.basis.scale.tolist(),
            "scores": np.sqrt(site.basis.explained_variance).tolist(),
        },
        "perFile": {
            "cards": CARDS_PER_FILE,
            "members": MEMBERS_PER_FILE,
            "texts": CONTEXTS_PER_FILE,
            "previews": PREVIEWS_PER_FILE,
        },
        "lossEdges": card_module.LOSS_EDGES[:-1].tolist(),
        "mapPoints": site.layout.height,
        "search": firsts,
        "sampled": _ranges(_truth_contexts(site, corpus)),
    }


def write_clusters(data: Path, site: Site, corpus: Corpus, members: Members, cards: Cards) -> None:
    """The columns of the list, the cards, and one example of each cluster."""
    n_clusters = site.clusters.height
    documents = pl.DataFrame(
        {"document": range(len(corpus.documents)), "source": [corpus_module.source(d) for d in corpus.documents]},
        schema={"document": pl.Int64, "source": pl.String},
    )
    sourced = members.frame.join(documents, on="document", how="left", maintain_order="left")
    tokens = card_module.listed(members.frame, "token_id", card_module.N_TOKENS_LISTED, n_clusters)
    sources = card_module.listed(sourced, "source", card_module.N_SOURCES_LISTED, n_clusters)
    in_documents = card_module.listed(members.frame, "document", card_module.N_SOURCES_LISTED, n_clusters)
    survival = site.comparisons[0].jaccard if site.comparisons else np.full(n_clusters, np.nan)
    payload.write(data, "clusters", listing.columns(site.clusters, cards, tokens, sources, survival))
    examples = listing.previews(members, corpus)
    for start in range(0, n_clusters, PREVIEWS_PER_FILE):
        shown = examples[start : start + PREVIEWS_PER_FILE]
        payload.write(data, f"previews/{start // PREVIEWS_PER_FILE:05d}", payload.packed(shown))
    rows = site.clusters.sort("cluster").to_dicts()
    for start in range(0, n_clusters, CARDS_PER_FILE):
        found = [
            {
                **{name: rows[number][name] for name in ("volume", "density")},
                "stability": [rows[number][name] for name in ("seed_stability", "point_stability", "chain_stability")],
                **card_module.card(cards, number),
                "tokens": tokens[number],
                "sources": sources[number],
                "documents": [[corpus.documents[d], count] for d, count in in_documents[number]],
                "nDocuments": int(members_documents),
                "survival": _survival(site.comparisons, number),
            }
            for number, members_documents in _document_counts(
                members, range(start, min(n_clusters, start + CARDS_PER_FILE))
            )
        ]
        value = {"cards": found, **card_module.vectors(cards, slice(start, start + CARDS_PER_FILE))}
        payload.write(data, f"cards/{start // CARDS_PER_FILE:05d}", value)


def write_members(data: Path, members: Members) -> None:
    """Context and position of every member, by cluster and rank."""
    frame = members.frame
    for start in range(0, frame.height, MEMBERS_PER_FILE):
        rows = frame.slice(start, MEMBERS_PER_FILE)
        value = {name: payload.packed(rows[name].to_numpy()) for name in ("context", "position")}
        payload.write(data, f"members/{start // MEMBERS_PER_FILE:05d}", value)


def write_texts(data: Path, site: Site, corpus: Corpus, members: Members) -> None:
    """The contexts with cluster and loss of each token; beside them the scores, the neighbours and what was sampled."""
    labels, per_context = corpus_module.labels(members, corpus), corpus.tokens_per_context
    scores = corpus_module.batches(
        {shard: frame.select("loss", "prediction") for shard, frame in site.shards.predictions.items()},
        CONTEXTS_PER_FILE * per_context,
    )
    for number, batch in enumerate(scores):
        rows = slice(number * CONTEXTS_PER_FILE, (number + 1) * CONTEXTS_PER_FILE)
        frame = corpus.contexts[rows]
        value = {
            "tokens": payload.packed(corpus.token_ids[rows]),
            "clusters": payload.packed(labels[rows]),
            "losses": payload.quantized(batch["loss"].to_numpy()[:, None]),
            "documents": [corpus.documents[d] for d in frame["document"]],
            "starts": frame["start"].to_list(),
        }
        name = f"{number:05d}"
        payload.write(data, f"texts/{name}", value)
        payload.write(data, f"scores/{name}", payload.quantized(batch["prediction"].to_numpy()))
        first = number * CONTEXTS_PER_FILE * per_context
        near = vectors.strongest_edges(site.graph, first, first + batch.height, site.settings.n_neighbors)
        payload.write(data, f"neighbors/{name}", payload.packed(near + 1))
    for number, value in vectors.sampled(site.shards.truth, site.basis, corpus):
        payload.write(data, f"truth/{number:05d}", value)


def write_map(data: Path, site: Site, corpus: Corpus, members: Members) -> None:
    """Places, tokens and clusters of the map's points, and a file for each PC by which they can be coloured."""
    numbers = corpus.contexts.select("context_id", "context")
    points = site.layout.join(numbers, on="context_id", how="left", maintain_order="left")
    context, position = points["context"].to_numpy(), points["position"].to_numpy()
    labels = corpus_module.labels(members, corpus)[context, position - 1]
    payload.write(data, "map/places", payload.quantized(points.select("x", "y").to_numpy()))
    payload.write(data, "map/tokens", payload.packed(context * corpus.tokens_per_context + position - 1))
    payload.write(data, "map/clusters", payload.packed(labels))
    keys = ["context_id", "position"]
    frames = [frame.select(*keys, "prediction").collect() for _, frame in sorted(site.shards.predictions.items())]
    joined = points.select(keys).join(pl.concat(frames), on=keys, how="left", maintain_order="left")
    scores = joined["prediction"].to_numpy()
    for number in range(scores.shape[1]):
        payload.write(data, f"map/pc-{number:04d}", payload.quantized(scores[:, number : number + 1]))


def write_search(data: Path, site: Site, corpus: Corpus, members: Members) -> dict[str, list[str]]:
    """The index of token texts and of documents; the first key of each file."""
    counted = members.frame.group_by("token_id", "cluster").len().sort(["len", "cluster"], descending=[True, False])
    groups = counted.group_by("token_id", maintain_order=True).agg("cluster", "len").iter_rows()
    entries = [
        search.Entry(
            search.token_key(site.texts[token]),
            [token, len(found), sum(counts), found[:MAX_CLUSTERS_OF_TOKEN], counts[:MAX_CLUSTERS_OF_TOKEN]],
        )
        for token, found, counts in groups
    ]
    contexts = corpus.contexts.sort("document", "start").group_by("document", maintain_order=True).agg("context")
    documents = [search.Entry(corpus.documents[number], [found]) for number, found in contexts.iter_rows()]
    return {
        "tokens": search.write(data, "tokens", entries, per_file=TOKENS_PER_SEARCH_FILE),
        "documents": search.write(data, "documents", documents, per_file=DOCUMENTS_PER_SEARCH_FILE),
    }


def _survival(comparisons: list[Comparison], cluster: int) -> list[dict[str, Any]]:
    return [
        {"with": one.name, "jaccard": round(float(one.jaccard[cluster]), 4), "partner": int(one.partner[cluster])}
        for one in comparisons
    ]


def _comparison(one: Comparison) -> dict[str, Any]:
    return {
        "name": one.name,
        "meaning": one.meaning,
        "tokens": one.n_tokens,
        "clusters": one.n_clusters,
        "rand": one.adjusted_rand_index,
        "jaccard": payload.quantized(one.jaccard[:, None]),
        "partner": payload.packed(one.partner),
    }


def _document_counts(members: Members, numbers: range) -> Iterator[tuple[int, int]]:
    found = members.frame.filter(pl.col("cluster").is_between(numbers.start, numbers.stop - 1))
    counts = dict(found.group_by("cluster").agg(pl.col("document").n_unique()).iter_rows())
    yield from ((number, counts.get(number, 0)) for number in numbers)


def _truth_contexts(site: Site, corpus: Corpus) -> list[int]:
    shards = sorted(site.shards.truth)
    return corpus.contexts.filter(pl.col("shard").is_in(shards))["context"].to_list()


def _ranges(numbers: list[int]) -> list[list[int]]:
    """Ascending numbers as first and last of each run without a gap."""
    values = np.array(numbers, dtype=np.int64)
    runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1) if len(values) else []
    return [[int(run[0]), int(run[-1])] for run in runs]
