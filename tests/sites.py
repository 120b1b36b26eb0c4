"""Made-up sites: clusters with centres of their own, text from a given vocabulary. For tests and the benchmark."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import sparse

from susc_pipeline import schema
from susc_pipeline.clustering import cluster_profiles, knn
from susc_pipeline.explorer import asked, asked_tokens, comparison, component_table, run_page, wanted
from susc_pipeline.explorer.control_rows import Controls
from susc_pipeline.explorer.numbering import Shards
from susc_pipeline.explorer.settings import ExplorerSettings
from susc_pipeline.explorer.site import Site
from susc_pipeline.model.components import Component
from susc_pipeline.patterning import wanted_changes
from susc_pipeline.patterning.wanted_changes import WantedChange
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.sampling.diagnostics import Trace
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility.data_changes import DataChange
from susc_pipeline.susceptibility.direction_files import Diagnostics

SAMPLING = SamplingSettings()

HOSTILE_TEXTS = [
    "<script>document.title='run'</script>",
    "</script><img src=x onerror=\"document.title='run'\">",
    " self",
    "self",
    "\n",
    "    ",
    "\"'`\\",
    "\u202eright to left\u2066",
    "שלום",
    "\U0001f600",
    "⟨e2 80⟩",
    "\u2028",
    "__proto__",
    "${alert(1)}",
    "=1+1",
    "&amp;<b>",
    "\x1b[31m",
    "the",
]
HOSTILE_DOCUMENTS = ["<img src=x onerror=alert(1)>/a.py", "__proto__/b", "%2e%2e/c?d#e", "\u202ef", "g\"'/h", "i/j k"]


class Shape(NamedTuple):
    """How large a made-up site is."""

    n_clusters: int = 12
    n_layers: int = 2
    n_heads: int = 3
    n_groups: int = 1
    n_pcs: int = 5
    n_shards: int = 3
    contexts_per_shard: int = 10
    context_length: int = 16
    n_edges: int = 4
    n_documents_per_shard: int = 4
    clustered: float = 0.8
    truth_shards: int = 2
    tied: bool = False
    is_asked: bool = False
    has_wanted_changes: bool = False


def components_of(shape: Shape) -> list[Component]:
    parts = [
        *(("head", n) for n in range(shape.n_heads)),
        *(("key_value", n) for n in range(shape.n_groups)),
        ("mlp", -1),
    ]
    of_layers = [Component(kind, layer, number) for layer in range(shape.n_layers) for kind, number in parts]
    return [Component("embed"), *of_layers, *([] if shape.tied else [Component("unembed")])]


def table_of(chosen: list[Component], basis: PCABasis) -> pl.DataFrame:
    """The component table of made-up figures, each other than the next one's; the last component has no regime."""
    n, place = len(chosen), np.arange(len(chosen))
    reliability = {"kind": "component", "name": [c.name for c in chosen], "half_correlation": 0.8}
    reliability |= {"reliability": 0.5 + 0.4 * place / n, "low": 0.4, "high": 0.95, "ceiling": 0.9}
    regime = {"component": [c.name for c in chosen], "n_beta": 30.0, "localization": 300.0, "n_weights": 100}
    regime |= {
        "curvature": 1.0 + place,
        "llc": 0.5 + place / 10,
        "llc_error": 0.1,
        "controlled_share": 1e-3 * (1 + place),
    }
    known = pl.DataFrame(regime)[:-1] if n > 1 else pl.DataFrame(regime)
    return component_table.component_table(chosen, [100] * n, basis, pl.DataFrame(reliability), known, n_beta=30.0)


def site(shape: Shape, texts: list[str], documents: list[str], *, folder: Path, seed: int = 0) -> Site:
    """A site of that shape, whose tables and graph lie in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    chosen = components_of(shape)
    names = [component.name for component in chosen]
    per_shard = shape.contexts_per_shard * (shape.context_length - 1)
    labels = _labels(shape, rng, per_shard * shape.n_shards)
    centres = rng.normal(size=(shape.n_clusters + 1, shape.n_pcs)).astype(np.float32)
    basis = PCABasis(
        mean=rng.normal(size=len(names)),
        scale=rng.uniform(0.5, 2, len(names)),
        components=np.linalg.qr(rng.normal(size=(len(names), shape.n_pcs)))[0].T.copy(),
        explained_variance=np.linspace(2, 1, shape.n_pcs),
        count=1000,
    )
    tables = Shards({}, {}, {}, {}, {}, {})
    members, keys = [], []
    for number in range(shape.n_shards):
        shard, one = f"shard-{number:05d}", labels[number * per_shard : (number + 1) * per_shard]
        contexts = _contexts(shape, number, texts, documents, rng)
        key = schema.token_key_frame(contexts)
        keys.append(key.select("context_id", "position").with_columns(shard=pl.lit(shard)))
        scores = centres[one] + 0.5 * rng.standard_normal((len(one), shape.n_pcs), dtype=np.float32)
        loss = pl.Series("loss", rng.exponential(2, len(one)), dtype=pl.Float32)
        frames = {
            "contexts": contexts,
            "predictions": schema.with_vectors(key.with_columns(loss), prediction=scores),
            "whitened": schema.with_vectors(key, whitened=scores),
        }
        error = 0.1 * rng.standard_normal(scores.shape, dtype=np.float32)
        frames |= {
            name: schema.with_vectors(key, prediction=scores + sign * error)
            for name, sign in (("half_a", 1), ("half_b", -1))
        }
        if number < shape.truth_shards:
            value = (scores @ basis.components * basis.scale + basis.mean).astype(np.float32)
            noisy = {
                name: value + 0.3 * rng.standard_normal(value.shape, dtype=np.float32) for name in ("half_a", "half_b")
            }
            frames["truth"] = schema.with_vectors(
                key, susceptibility=value, standard_error=np.full_like(value, 0.2), **noisy
            )
        for name, frame in frames.items():
            getattr(tables, name)[shard] = _stored(frame, folder, f"{name}-{shard}")
        rows = np.flatnonzero(one < shape.n_clusters)
        members.append(keys[-1][rows.tolist()].with_columns(cluster=pl.Series(one[rows], dtype=pl.Int32)))
    found = pl.concat(members).sort("cluster", maintain_order=True)
    found = found.with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int32).over("cluster")).select(*schema.MEMBERS)
    size = found.group_by("cluster").len().sort("cluster")["len"].to_numpy()
    clusters = pl.DataFrame(
        {
            "cluster": range(shape.n_clusters),
            "size": size,
            "volume": 10.0 * size,
            "conductance": np.linspace(0.01, 0.4, shape.n_clusters),
            "density": rng.uniform(0, 1, shape.n_clusters),
            "reproducibility": rng.uniform(0, 1, shape.n_clusters),
            "found_by_members": rng.uniform(0, 1, shape.n_clusters),
            "parent_size": np.where(np.arange(shape.n_clusters) % 2, 0, 10_000),
            "parent_conductance": np.where(np.arange(shape.n_clusters) % 2, np.nan, 0.01),
            "seed_context_id": 0,
            "seed_position": 1,
        },
        schema=schema.CLUSTERS,
    )
    shown = pl.concat(keys)
    shown = shown[np.sort(rng.choice(shown.height, min(shown.height, 500_000), replace=False)).tolist()]
    places = rng.normal(size=(shown.height, 2))
    layout = shown.with_columns(x=pl.Series(places[:, 0]), y=pl.Series(places[:, 1])).select(
        pl.col(name).cast(kind) for name, kind in schema.LAYOUT.items()
    )
    knn.save(_graph(labels, shape, rng), folder / "graph")
    return Site(
        settings=ExplorerSettings(n_neighbors=shape.n_edges),
        run=_run(names, basis, rng),
        texts=texts,
        components=table_of(chosen, basis),
        basis=basis,
        shards=tables,
        graph=knn.open_stored(folder / "graph"),
        clusters=clusters,
        members=_stored(found, folder, "members"),
        labels=_labels_in_words(found, shape, texts, rng),
        profiles=_profiles(tables, found, basis, names, shape, folder),
        layout=layout,
        comparisons=[_comparison(found, shape)],
        controls=_controls(shape.n_clusters),
        asked=_asked(names, shape, rng, tables, found) if shape.is_asked else None,
        wanted=_wanted(names, tables) if shape.has_wanted_changes else None,
    )


def _asked(names, shape, rng, shards, members):
    """Two data changes of the run's observable and of one more, and every cluster of the latter."""
    sources = {"all": "documents <b>*", "by-number": "cluster 3"}
    of_cluster = {f"cluster-{number}": f"cluster {number}" for number in range(shape.n_clusters)}
    every = [
        (change, source, place, name, 100, 7)
        for change, source in (sources | of_cluster).items()
        for place, name in enumerate(names)
    ]
    keys = pl.DataFrame(every, schema=list(schema.DATA_CHANGES)[:6], orient="row")
    numbers = {name: rng.normal(size=len(every)) for name in list(schema.DATA_CHANGES)[6:]}
    numbers |= {name: np.abs(values) for name, values in numbers.items() if name != "susceptibility"}
    table = keys.with_columns(pl.Series(name, values) for name, values in numbers.items())
    own = table.filter(pl.col("data_change").is_in(list(sources)))
    changes = [DataChange("all", documents="<img*"), DataChange("by-number", cluster=3)]
    entries = [
        entry
        for observable in (asked.OWN, "query")
        for entry in asked_tokens.furthest(changes, _measured(observable, names, shards, rng), members.lazy())
    ]
    return asked.section(own, table.with_columns(observable=pl.lit("query")), entries)


def _wanted(names, shards):
    """A change that holds another component still and one that holds none, for the site's documents."""
    documents = sorted({name for frame in shards.contexts.values() for name in frame.collect()["document_id"]})
    means = np.random.default_rng(7).normal(size=(len(documents), len(names)))
    of_all = wanted_changes.Documents(documents, np.full(len(documents), 9), means, means)
    changes = WantedChange("down", (names[0],), (-0.5,), (names[1],)), WantedChange("up", (names[-1],), (0.5,), ())
    found = wanted_changes.find(changes, of_all, names, n_beta=30.0)
    return wanted.section(found.predictions, found.weights)


def _measured(observable, names, shards, rng):
    tables = {}
    for shard, contexts in shards.contexts.items():
        keys = schema.token_key_frame(contexts.collect())
        halves = {name: rng.normal(size=(keys.height, len(names))) for name in ("half_a", "half_b")}
        tables[shard] = schema.with_vectors(keys, **halves).lazy()
    return asked_tokens.Measured([observable], tables)


def _profiles(tables, members, basis, names, shape, folder):
    scores = cluster_profiles.Scores(tables.predictions, tables.half_a, tables.half_b)
    how = {"n_clusters": shape.n_clusters, "folder": folder / "profiles"}
    return _stored(cluster_profiles.table(scores, members, basis, names, **how), folder, "cluster_profiles")


def _labels_in_words(members, shape, texts, rng):
    """Labels of made-up scores and hostile words; every fourth cluster has too few documents for a score."""
    names = ("precision", "recall", "f1", "token_f1")
    scores = rng.uniform(0, 1, (shape.n_clusters, len(names)))
    rows, ids = [], list(range(min(20, len(texts))))
    for cluster in range(shape.n_clusters):
        row = {
            "cluster": cluster,
            "heading": f"{texts[cluster % len(texts)]} 428 of 439",
            "label": texts[-1 - cluster % len(texts)],
        }
        row |= {
            "n_documents": 3 + cluster,
            "n_tokens": 1,
            "token_ids": ids,
            "token_members": [1] * len(ids),
            "token_occurrences": [10**6] * len(ids),
        }
        if cluster % 4 != 3:
            row |= dict(zip(names, scores[cluster])) | {
                "token_label": "<b>token</b>",
                "gain": scores[cluster, 2] - scores[cluster, 3],
            }
            row |= {
                "gain_low": row["gain"] - 0.1,
                "gain_high": row["gain"] + 0.1,
                "n_members_scored": 9,
                "n_documents_scored": 4,
            }
        rows.append(row)
    return pl.DataFrame(rows, schema=schema.LABELS)


def _labels(shape, rng, n_tokens):
    """Cluster of each token, n_clusters where none; none is empty, sizes are skewed as found ones are."""
    weights = rng.pareto(2.0, shape.n_clusters) + 0.2
    drawn = rng.choice(shape.n_clusters, n_tokens, p=weights / weights.sum())
    drawn[rng.random(n_tokens) > shape.clustered] = shape.n_clusters
    places = rng.choice(n_tokens, shape.n_clusters, replace=False)
    drawn[places] = np.arange(shape.n_clusters)
    return drawn


def _contexts(shape, number, texts, documents, rng):
    n = shape.contexts_per_shard
    first = number * n
    rank = np.arange(n) % shape.n_documents_per_shard
    names = [f"{documents[r % len(documents)]}-{number}-{r}" for r in rank]
    ids = np.minimum(rng.geometric(min(0.2, 20 / len(texts)), (n, shape.context_length)) - 1, len(texts) - 1)
    return pl.DataFrame(
        {
            "context_id": np.arange(first, first + n),
            "document_id": names,
            "start": (np.arange(n) // shape.n_documents_per_shard) * shape.context_length,
            "token_ids": ids.tolist(),
        },
        schema=schema.CONTEXTS,
    )


def _graph(labels, shape, rng):
    """Edges from each token to others that come next in its cluster, with falling weights."""
    order = np.argsort(labels, kind="stable")
    n = len(labels)
    columns = np.stack([np.roll(order, -step) for step in range(1, shape.n_edges + 1)], axis=1)
    indices = np.empty((n, shape.n_edges), dtype=np.int32)
    indices[order] = columns
    data = np.tile(np.linspace(1, 0.5, shape.n_edges, dtype=np.float32), n)
    return sparse.csr_array((data, indices.ravel(), np.arange(0, n * shape.n_edges + 1, shape.n_edges)), shape=(n, n))


def _controls(n_clusters):
    """One control that finds every second cluster, and one that finds none."""
    values = dict.fromkeys(schema.CLUSTER_CONTROLS, 0.25) | {
        "clusters": 7,
        "clustered_tokens": 70,
        "tokens": 100,
        "run_clusters": 7,
    }
    names = {"activations <i>after</i> layer 1": "activations", "half a of the chains": "susceptibilities"}
    rows = [values | {"control": name, "knows": knows} for name, knows in names.items()]
    rows[1] |= dict.fromkeys(("matched_low", "matched_high", "matched_beyond"))
    jaccard = np.where(np.arange(n_clusters) % 2, 0.0, 0.75)
    pairs = {"cluster": range(n_clusters), "partner": -1}
    frames = [pl.DataFrame({**pairs, "control": name, "jaccard": (1 - n) * jaccard}) for n, name in enumerate(names)]
    matches = pl.concat(frames).select(pl.col(name).cast(kind) for name, kind in schema.CLUSTER_CONTROL_MATCHES.items())
    return Controls(pl.DataFrame(rows, schema=schema.CLUSTER_CONTROLS), matches)


def _comparison(members, shape):
    other = members.filter(pl.col("cluster") % 3 > 0).with_columns(cluster=(pl.col("cluster") // 2))
    keys = ["cluster", "context_id", "position"]
    return comparison.compare(
        members.select(keys),
        other.select(keys),
        None,
        name="other <b>run</b>",
        meaning="Every second pair of clusters is one.",
        n_clusters=shape.n_clusters,
    )


def _run(names, basis, rng):
    n = len(names)
    columns = {
        "chains": {
            "component": names, "r_hat": [1.01] * n, "effective_share": [0.5] * n, "llc": [2.0] * n, "llc_error": [0.1] * n,
        },
        "reliability": {
            "kind": ["component"] * n + ["pc"],
            "name": [*names, "PC1"],
            "half_correlation": [0.8] * (n + 1),
            "reliability": [0.9] * (n + 1),
            "low": [*[0.8] * n, None],
            "high": [*[0.95] * n, None],
            "ceiling": [0.95] * (n + 1),
        },
        "aux_correlation": {
            "pc": [1, 2], "r": [0.5, 0.4], "low": [0.4, 0.3], "high": [0.6, 0.5],
            "linear_response_r": [0.8, 0.7], "linear_response_low": [0.7, 0.6], "linear_response_high": [0.9, 0.8],
            "ceiling": [0.9, 0.9], "null_95": [0.05, 0.05], "ridge_r": [0.4, 0.3],
        },
        "leakage": {
            "space": ["ground_truth", "ground_truth"], "layer": [1, 2], "cka": [0.1, 0.2], "cka_low": [0.05, 0.1],
            "cka_high": [0.15, 0.3], "cka_chance": [0.01, 0.01], "cka_chance_high": [0.02, 0.02], "jaccard": [0.1, 0.1],
            "jaccard_low": [0.05, 0.05], "jaccard_high": [0.15, 0.15], "jaccard_chance": [0.01, 0.01],
        },
        "regime": {"component": names, "n_beta": [30.0] * n, "localization": [300.0] * n, "controlled_share": [1e-4] * n},
        "negative_control": {"component": names, "disattenuated": [0.9] * n, "slope": [0.9] * n, "slope_error": [0.1] * n},
        "calibration": {"component": ["L0H0"], "verdict": ["<i>good</i>"]},
    }  # fmt: skip
    rise = 0.2 * rng.random((6, 2 * SAMPLING.n_chains))
    slopes = rng.normal(size=(SAMPLING.n_chains, 3))
    found = Diagnostics(Trace(2.0 + rise, np.full_like(rise, 2.0)), slopes, slopes, 100, 400, 0.9, 100.0, 300.0, 5.0)
    return {
        "experiment": "made-up",
        "digest": "0" * 16,
        "seed": 0,
        "settings": {"model": {"source": "<b>"}, "corpus": {"kind": "files"}, "susceptibility": {"estimator": "e"}},
        "versions": {"numpy": np.__version__},
        "seconds": {"clusters": 1.5},
        "tables": {name: run_page.table(pl.DataFrame(found)) for name, found in columns.items()},
        "source": "linear <i>response</i>",
        "meaning": "What a <b>susceptibility</b> is.",
        "traces": run_page.loss_traces(dict.fromkeys(names[:2], found), SAMPLING),
        "explainedVariance": basis.explained_variance_ratio.tolist(),
    }


def _stored(frame, folder, name):
    frame.write_parquet(folder / f"{name}.parquet")
    return pl.scan_parquet(folder / f"{name}.parquet")


def content(folder, name):
    """What a page of the site in a folder is given."""
    text = (folder / "data" / f"{name}.js").read_text(encoding="ascii")
    return json.loads(text.partition(",")[2].removesuffix(");\n"))
