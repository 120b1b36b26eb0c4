"""The static site: what it shows, as one value, and the files it becomes. How they look is in static/.

Everything is addressed by arithmetic, so that there is no index to load: card c lies in file c // CARDS_PER_FILE,
member number m of all in file m // MEMBERS_PER_FILE, context n in file n // text_files.CONTEXTS_PER_FILE.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from susc_pipeline.buckets import Buckets
from susc_pipeline.clustering.knn import StoredGraph
from susc_pipeline.clustering.neighbors import Neighbors
from susc_pipeline.explorer import (
    asked,
    documents,
    listing,
    map_files,
    payload,
    responses,
    run_page,
    search_index,
    shard_pass,
    text_files,
    wanted,
)
from susc_pipeline.explorer import cards as card_module
from susc_pipeline.explorer import control_rows as control_module
from susc_pipeline.explorer import means as mean_module
from susc_pipeline.explorer import numbering as corpus_module
from susc_pipeline.explorer.cards import Cards, Lists
from susc_pipeline.explorer.comparison import Comparison
from susc_pipeline.explorer.control_rows import Controls
from susc_pipeline.explorer.means import Means
from susc_pipeline.explorer.numbering import Corpus, Shards
from susc_pipeline.explorer.search_index import Entry, TokenIndex
from susc_pipeline.explorer.settings import ExplorerSettings
from susc_pipeline.explorer.shard_pass import Central, Gathered
from susc_pipeline.representation.pca import PCABasis

STATIC = Path(__file__).parent / "static"
CARDS_PER_FILE = 32
MEMBERS_PER_FILE = 8192
PREVIEWS_PER_FILE = 256
TOKENS_PER_SEARCH_FILE = 200
WORDS_PER_SEARCH_FILE = 200
MEMBERS_AT_ONCE = 32 * MEMBERS_PER_FILE


@dataclass(frozen=True, eq=False)
class Site:
    """Everything that the site shows; what there is of each token or edge stays in its files until it is written.

    `run` is what is told of the run as it stands (run_page.py); `layout` is of schema.LAYOUT; `members` of schema.MEMBERS,
    in order of cluster and rank; `labels` of schema.LABELS, a row for each cluster; `profiles` of
    schema.CLUSTER_PROFILES, in order of cluster and component; `texts` is the readable text of each token
    id; `components` of schema.COMPONENTS; `asked` is of asked.section, `wanted` of
    wanted.section.
    """

    settings: ExplorerSettings
    run: dict[str, Any]
    texts: list[str]
    components: pl.DataFrame
    basis: PCABasis
    shards: Shards
    graph: StoredGraph
    clusters: pl.DataFrame
    members: pl.LazyFrame
    labels: pl.DataFrame
    profiles: pl.LazyFrame
    layout: pl.DataFrame
    comparisons: list[Comparison]
    controls: Controls | None = None
    asked: dict[str, Any] | None = None
    wanted: list[dict[str, Any]] | None = None


def save(site: Site, folder: Path) -> None:
    """Write the whole site into a folder that does not exist yet.

    Held at once are a shard, or a chunk of clusters, and a few numbers for each cluster, context and document. What is
    known by shard and wanted by cluster goes through temporary files beside the folder.
    """
    shutil.copytree(STATIC, folder)
    data = folder / "data"
    corpus = corpus_module.corpus(site.shards.contexts)
    with tempfile.TemporaryDirectory(prefix=".aside.", suffix=".tmp", dir=folder.parent) as aside:
        members = Buckets(Path(aside) / "members", corpus_module.MEMBER)
        central = write_members(data, site, corpus, members)
        found = shard_pass.gather(site.shards, corpus, members, central, site.basis, folder=Path(aside))
        means = mean_module.empty(Path(aside), site.components.height, site.clusters.height)
        index = write_clusters(data, site, corpus, found, means)
        mean_module.write(data, means)
        words = text_files.write(data, site.shards, corpus, members, site.graph, site.settings.n_neighbors, site.texts)
        text_files.write_sampled(data, site.shards, corpus, site.basis)
        headings = site.labels.sort("cluster")["heading"].to_list()
        map_files.write(data, site.layout, site.shards, corpus, members, site.basis, headings)
        listed = documents.entries(corpus, members, Path(aside))
    responses.write(data, responses.respond(site.shards, corpus, site.basis), corpus, site.basis)
    firsts = write_search(data, [search_index.token_entries(index, site.texts), listed, words])
    payload.write(data, "run", site.run)
    payload.write(data, "compare", [_comparison(one) for one in site.comparisons])
    payload.write(data, "controls", control_module.section(site.controls))
    payload.write(data, "site", summary(site, corpus, firsts))
    if site.asked:
        asked.write(folder, site.asked)
    if site.wanted:
        wanted.write(folder, site.wanted)


def summary(site: Site, corpus: Corpus, firsts: dict[str, list[str]]) -> dict[str, Any]:
    """What every view needs first."""
    return {
        "experiment": site.run["experiment"],
        "model": str(site.run["settings"]["model"]["source"]),
        "corpus": str(site.run["settings"]["corpus"]["kind"]).replace("_", " "),
        "clusters": site.clusters.height,
        "members": int(site.clusters["size"].sum()),
        "contexts": corpus.contexts.height,
        "documents": len(corpus.documents),
        "tokens": corpus.contexts.height * corpus.tokens_per_context,
        "positions": corpus.n_positions,
        "components": run_page.rows(site.components.drop("loadings")),
        "source": str(site.run["source"]),
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
            "texts": text_files.CONTEXTS_PER_FILE,
            "previews": PREVIEWS_PER_FILE,
            "documents": documents.PER_FILE,
        },
        "lossEdges": shard_pass.LOSS_EDGES[:-1].tolist(),
        "mapPoints": site.layout.height,
        "search": firsts,
        "sampled": _ranges(_truth_contexts(site, corpus)),
    }


def write_members(data: Path, site: Site, corpus: Corpus, members: Buckets) -> Central:
    """Context and position of every member, by cluster and rank; they are also set aside by shard.

    Returns:
        The most central member of each cluster.
    """
    central = Central(*(np.zeros(site.clusters.height, np.int64) for _ in Central._fields))
    first = 0
    for rows in corpus_module.members(site.members, corpus, MEMBERS_AT_ONCE):
        corpus_module.set_aside(rows, corpus, members)
        for start in range(0, rows.height, MEMBERS_PER_FILE):
            part = rows.slice(start, MEMBERS_PER_FILE)
            value = {name: payload.packed(part[name].to_numpy()) for name in ("context", "position")}
            payload.write(data, f"members/{first + start // MEMBERS_PER_FILE:05d}", value)
        first += MEMBERS_AT_ONCE // MEMBERS_PER_FILE
        leading = rows.filter(rank=0)
        for name, values in central._asdict().items():
            values[leading["cluster"].to_numpy()] = leading[name].to_numpy()
    return central


def write_clusters(data: Path, site: Site, corpus: Corpus, found: Gathered, means: Means) -> TokenIndex:
    """The cards, chunk by chunk, the columns of the list, one example of each cluster; mean responses are set aside.

    Returns:
        In which clusters each token is.
    """
    table, index, rows = site.clusters.sort("cluster"), search_index.empty(), []
    labels = site.labels.sort("cluster")
    nearest = card_module.nearest_clusters(found.centres)
    sources = pl.DataFrame(
        {"document": range(len(corpus.documents)), "source": [corpus_module.source(d) for d in corpus.documents]},
        schema={"document": pl.Int32, "source": pl.String},
    )
    for chunk in range(-(-max(table.height, 1) // shard_pass.CHUNK)):
        cards = card_module.cards(found, site.basis, site.profiles, chunk)
        lists = card_module.lists(found, sources, chunk)
        mean_module.put(means, cards)
        index = search_index.updated(index, lists.counts)
        shown = slice(cards.first, cards.first + shard_pass.CHUNK)
        rows.append(listing.rows(table[shown], labels[shown], cards, lists.tokens, lists.sources))
        _write_cards(data, site, corpus, cards, lists, nearest)
    payload.write(data, "clusters", listing.columns(rows))
    for start in range(0, table.height, PREVIEWS_PER_FILE):
        examples = found.previews[start : start + PREVIEWS_PER_FILE]
        payload.write(data, f"previews/{start // PREVIEWS_PER_FILE:05d}", payload.packed(examples))
        headings = labels["heading"][start : start + PREVIEWS_PER_FILE].to_list()
        payload.write(data, f"headings/{start // PREVIEWS_PER_FILE:05d}", headings)
    return index


def _write_cards(data: Path, site: Site, corpus: Corpus, cards: Cards, lists: Lists, nearest: Neighbors) -> None:
    table = site.clusters.sort("cluster").slice(cards.first, shard_pass.CHUNK).to_dicts()
    found_by = control_module.found_by(site.controls, site.clusters.height)[cards.first :]
    labels = site.labels.sort("cluster").slice(cards.first, shard_pass.CHUNK).to_dicts()
    values = [
        {
            **{name: known[name] for name in ("volume", "density", "reproducibility")},
            "foundByMembers": known["found_by_members"],
            "parent": [known["parent_size"], known["parent_conductance"]] if known["parent_size"] else None,
            **card_module.card(cards, row, nearest),
            **card_module.label(labels[row]),
            "tokens": lists.tokens[row],
            "sources": lists.sources[row],
            "documents": [[corpus.documents[d], count] for d, count in lists.documents[row]],
            "nDocuments": lists.n_documents[row],
            "controls": found_by[row],
        }
        for row, known in enumerate(table)
    ]
    for start in range(0, len(values), CARDS_PER_FILE):
        rows = slice(start, start + CARDS_PER_FILE)
        value = {"cards": values[rows], **card_module.vectors(cards, rows)}
        payload.write(data, f"cards/{(cards.first + start) // CARDS_PER_FILE:05d}", value)


def write_search(data: Path, found: list[list[Entry]]) -> dict[str, list[str]]:
    """The indexes of members by token, of documents and of the text; the first key of each file."""
    per_file = {"tokens": TOKENS_PER_SEARCH_FILE, "documents": documents.PER_FILE, "words": WORDS_PER_SEARCH_FILE}
    pairs = zip(per_file.items(), found, strict=True)
    return {name: search_index.write(data, name, entries, per_file=size) for (name, size), entries in pairs}


def _comparison(one: Comparison) -> dict[str, Any]:
    return {
        "name": one.name,
        "meaning": one.meaning,
        "tokens": one.n_tokens,
        "clusters": one.n_clusters,
        "rand": one.adjusted_rand_index,
        "compared": payload.packed(one.compared),
        "jaccard": payload.quantized(one.jaccard[:, None]),
        "partner": payload.packed(one.partner),
    }


def _truth_contexts(site: Site, corpus: Corpus) -> list[int]:
    shards = sorted(site.shards.truth)
    return corpus.contexts.filter(pl.col("shard").is_in(shards))["context"].to_list()


def _ranges(numbers: list[int]) -> list[list[int]]:
    """Ascending numbers as first and last of each run without a gap."""
    values = np.array(numbers, dtype=np.int64)
    runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1) if len(values) else []
    return [[int(run[0]), int(run[-1])] for run in runs]
