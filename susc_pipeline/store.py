"""A finished run as tables, for a notebook: `Store.open("data/tiny").clusters()`. It needs neither Dagster nor DuckDB.

It reads a run's own folder and what `susc-pipeline export` made of it alike.
Every method returns a polars frame; `.to_pandas()` makes a pandas frame of it. What a column means stands in docs/columns.md.
A store may be copied, moved or mounted read-only: nothing in it is found by where it once lay.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float
from matplotlib.figure import Figure

from susc_pipeline import schema
from susc_pipeline.clustering import profile_plot
from susc_pipeline.messages import shown
from susc_pipeline.representation import pca

TABLE, MANIFEST = ".parquet", ".manifest.json"
EXPORT, FORMAT = "export.json", 1  # file that says what an export holds; version of its layout
N_BEFORE, N_AFTER = 15, 5  # tokens of context around a token that is shown
KEYS = ["context_id", "position"]


SOURCES = {  # asset and column of each way in which the vectors of tokens over components are had
    "linear_response": ("linear_response", "linear_response"),  # measured at w*, of every token
    "half_a": ("linear_response", "half_a"),  # the same by half of the chains; the halves share nothing
    "half_b": ("linear_response", "half_b"),
    "measured": ("ground_truth_susceptibilities", "susceptibility"),  # sampled, of ground-truth tokens
    "predicted": ("predicted_susceptibilities", "prediction"),  # from the scores that are clustered, of every token
}


class StoreNotFoundError(ValueError):
    """The folder is no store, or lacks the table that is asked for."""


@dataclass(frozen=True)
class Store:
    """The folder of an experiment's artifacts, to be read."""

    root: Path

    @classmethod
    def open(cls, folder: str | Path) -> "Store":
        """The store in a folder, such as data/tiny, or an export of it.

        Raises:
            StoreNotFoundError: it holds no finished artifact, or an export of another layout.
        """
        root = Path(folder).expanduser()
        if (root / EXPORT).is_file():
            content = json.loads((root / EXPORT).read_bytes())
            found = content.get("format") if isinstance(content, dict) else content
            if found != FORMAT:
                raise StoreNotFoundError(f"{root} is an export of format {shown(found)}; this version reads {FORMAT}")
        elif not any(root.glob(f"*{MANIFEST}")):
            raise StoreNotFoundError(
                f"{root.absolute()} holds no finished run; give the folder of an experiment, such as data/tiny, or an export"
            )
        return cls(root)

    def components(self) -> pl.DataFrame:
        """What is shaken: a row for each component, in the order of vectors; reliability, LLC, share of variance."""
        return self._table("component_table").collect()

    def clusters(self) -> pl.DataFrame:
        """The clusters, by rising conductance."""
        return self._table("clusters").collect()

    def labels(self) -> pl.DataFrame:
        """What each cluster is in words: its rule, how well the rule holds, and its commonest tokens."""
        return self._table("cluster_labels").collect()

    def members(self, cluster: int | None = None) -> pl.DataFrame:
        """The tokens of a cluster in their context, most central first.

        Args:
            cluster: its number; every cluster, one after another, if none is given.

        Raises:
            ValueError: there is no such cluster.
        """
        found = self._table("cluster_members").select("cluster", "rank", "shard", *KEYS)
        chosen = pl.lit(True) if cluster is None else pl.col("cluster") == cluster
        found = found.filter(chosen).sort("cluster", "rank").collect()
        if cluster is not None and not found.height:
            raise self._no_cluster(cluster)
        return self._in_context(found).select(
            "cluster", "rank", "token", "before", "after", "document_id", *KEYS, "shard"
        )

    def cluster_profiles(self, cluster: int | None = None) -> pl.DataFrame:
        """The response of clusters to components, a row for each pair: mean, standard error and half of the 95 % interval.

        In standard deviations over tokens, from the mean token.

        Args:
            cluster: number of the only cluster to be read; all, if none is given.

        Raises:
            ValueError: there is no such cluster.
        """
        found = self._table("cluster_profiles")
        if cluster is None:
            return found.collect()
        rows = found.filter(pl.col("cluster") == cluster).collect()
        if not rows.height:
            raise self._no_cluster(cluster)
        return rows

    def plot_profile(self, cluster: int) -> Figure:
        """The response of a cluster to every component, with 95 % intervals: a panel for each layer, a point for each head.

        Raises:
            ValueError: there is no such cluster.
        """
        columns = ("component", "kind", "layer", "head")
        places = self.components().select(*columns)
        return profile_plot.figure(self.cluster_profiles(cluster).join(places, on="component", how="left"))

    def chain_diagnostics(self) -> pl.DataFrame:
        """Whether the chains of each component can be believed: R-hat, effective sample size, LLC; by shard and of directions."""
        return self._table("chain_diagnostics").collect()

    def data_changes(self) -> pl.DataFrame:
        """The response of components to each data change that the experiment names: value, errors and interval.

        Raises:
            StoreNotFoundError: the experiment names none, or its run was not finished.
        """
        return self._table("data_change_susceptibilities").collect()

    def observables(self) -> pl.DataFrame:
        """The response of each observable that the experiment names to data changes and clusters, by component.

        Raises:
            StoreNotFoundError: the experiment names none, or its run was not finished.
        """
        return self._table("observable_susceptibilities").collect()

    def wanted_changes(self) -> pl.DataFrame:
        """What each wanted change asks of every component's loss, and what the weights are predicted to do, in nats.

        Raises:
            StoreNotFoundError: the experiment wants none, or its run was not finished.
        """
        return self._table("wanted_changes").collect()

    def document_weights(self) -> pl.DataFrame:
        """The weight of every document for each wanted change, with its error; patterning/weighted_corpus.py writes the texts.

        Raises:
            StoreNotFoundError: the experiment wants none, or its run was not finished.
        """
        return self._table("document_weights").collect()

    def documents(self) -> pl.DataFrame:
        """The documents that the shards are cut from: their contexts and predicted tokens."""
        contexts = self._shards("token_shards").with_columns(n_tokens=pl.col("token_ids").list.len() - 1)
        counted = contexts.group_by("document_id").agg(n_contexts=pl.len(), n_tokens=pl.col("n_tokens").sum())
        return counted.sort("document_id").collect()

    def tokens(self, document: str | None = None) -> pl.DataFrame:
        """Every predicted token: key, text, loss in nats and cluster (missing where it is in none).

        Args:
            document: name of the only document to be read; all, if none is given.

        Raises:
            ValueError: there is no such document.
        """
        found = self._shards("linear_response").select(*schema.TOKEN_KEY, "loss")
        if document is not None:
            found = found.filter(pl.col("document_id") == document)
        members = self._table("cluster_members").select(*KEYS, "cluster")
        joined = self._with_text(found.join(members, on=KEYS, how="left")).sort(KEYS).collect()
        if document is not None and not joined.height:
            raise ValueError(f"there is no document {shown(document)}; documents() lists them")
        return joined.select(*schema.TOKEN_KEY, "token", "loss", "cluster")

    def vectors(
        self, components: Sequence[str] = (), *, source: str = "linear_response", standardized: bool = False
    ) -> pl.DataFrame:
        """The response of tokens to components: key and text of each token, and a column for each component.

        Args:
            components: their names; all, if none is given.
            source: linear_response, half_a or half_b of it, measured, or predicted (SOURCES); an export has no predicted one.
            standardized: in standard deviations from the mean of the sampled susceptibilities; nats squared otherwise.

        Raises:
            ValueError: there is no such component or source.
        """
        if source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {shown(source)}")
        table = self.components()
        numbers = self._numbers(table, components)
        asset, column = SOURCES[source]
        keys = self._shards(asset).select(*schema.TOKEN_KEY, column).collect()
        values = schema.matrix(keys[column]).astype(np.float64)
        if source == "predicted":
            values = pca.inverse_transform(values, pca.load(self.root / "pca_basis"))
        values = values[:, numbers]
        if standardized:
            mean, deviation = (table[name].to_numpy()[numbers] for name in ("mean", "standard_deviation"))
            values = (values - mean) / deviation
        columns = {table["name"][number]: pl.Series(values[:, place]) for place, number in enumerate(numbers)}
        found = self._with_text(keys.drop(column).with_columns(**columns).lazy()).sort(KEYS).collect()
        return found.select(*schema.TOKEN_KEY, "token", *columns)

    def nearest(self, context_id: int, position: int, *, n: int = 10) -> pl.DataFrame:
        """The tokens that respond most like a token, in their context: nearest in the whitened space that is clustered.

        Args:
            context_id: of the token's context.
            position: of the token in it, from 1.
            n: how many others, fewer where there are fewer.

        Raises:
            ValueError: there is no such token.
        """
        shards, own = self._shards("whitened_susceptibilities"), pl.col("context_id") == context_id
        here = shards.filter(own & (pl.col("position") == position)).collect()
        if not here.height:
            raise ValueError(f"there is no predicted token {position} in context {context_id}; tokens() lists them")
        point, nearest = schema.matrix(here["whitened"])[0], []
        for path in self._paths("whitened_susceptibilities"):
            part = pl.scan_parquet(path, glob=False).select(*KEYS, "whitened").collect()
            distance = _distances(schema.matrix(part["whitened"]), point)
            nearest.append(part.drop("whitened").with_columns(distance=pl.Series(distance)))
        others = pl.concat(nearest).filter(~(own & (pl.col("position") == position)))
        found = others.bottom_k(n, by="distance").sort("distance", *KEYS)
        return self._in_context(found).select("distance", "token", "before", "after", "document_id", *KEYS)

    def _no_cluster(self, cluster: int) -> ValueError:
        n_clusters = self._table("clusters").select(pl.len()).collect().item()
        return ValueError(f"there is no cluster {cluster}: clusters are numbered from 0 to {n_clusters - 1}")

    def _numbers(self, table: pl.DataFrame, wanted: Sequence[str]) -> list[int]:
        places = {name: number for number, name in enumerate(table["name"])}
        if unknown := [name for name in wanted if name not in places]:
            raise ValueError(f"there is no component {', '.join(map(shown, unknown))}; components() lists them")
        return [places[name] for name in wanted] or list(places.values())

    def _in_context(self, tokens: pl.DataFrame) -> pl.DataFrame:
        """Tokens, in their order, with their own text and that around them."""
        contexts = self._shards("token_shards").select("context_id", "document_id", "token_ids")
        contexts = contexts.join(tokens.lazy().select("context_id").unique(), on="context_id", how="semi")
        rows = tokens.join(contexts.collect(), on="context_id", how="left", maintain_order="left")
        texts = self._table("vocabulary").collect()["text"].to_list()
        shown_parts: dict[str, list[str]] = {"before": [], "token": [], "after": []}
        for ids, place in rows.select("token_ids", "position").iter_rows():
            words = [texts[token] for token in ids]
            shown_parts["before"].append("".join(words[max(0, place - N_BEFORE) : place]))
            shown_parts["token"].append(words[place])
            shown_parts["after"].append("".join(words[place + 1 : place + 1 + N_AFTER]))
        return rows.drop("token_ids").with_columns(**{name: pl.Series(part) for name, part in shown_parts.items()})

    def _with_text(self, tokens: pl.LazyFrame) -> pl.LazyFrame:
        """Tokens, in any order, with their own text."""
        return tokens.join(self._table("vocabulary").rename({"text": "token"}), on="token_id", how="left")

    def _table(self, asset: str) -> pl.LazyFrame:
        path = self.root / f"{asset}{TABLE}"
        if not path.is_file():
            raise StoreNotFoundError(self._missing(path))
        return pl.scan_parquet(path, glob=False)

    def _shards(self, asset: str) -> pl.LazyFrame:
        return pl.scan_parquet(self._paths(asset), glob=False)

    def _paths(self, asset: str) -> list[Path]:
        """The shards that are there, in order; one without a manifest was never finished."""
        found = sorted((self.root / asset).glob(f"*{TABLE}"))
        is_export = (self.root / EXPORT).is_file()  # it was written whole, after the run
        finished = [path for path in found if is_export or path.with_name(path.stem + MANIFEST).is_file()]
        if not finished:
            raise StoreNotFoundError(self._missing(self.root / asset))
        return finished

    def _missing(self, place: Path) -> str:
        if (self.root / EXPORT).is_file():
            return f"{place.absolute()} is missing: an export holds no such thing, the run that it was made of does"
        return f"{place.absolute()} is missing: the run was not finished; `susc-pipeline run` goes on"


def _distances(
    points: Float[np.ndarray, "tokens width"], point: Float[np.ndarray, " width"]
) -> Float[np.ndarray, " tokens"]:
    return np.sqrt(np.square(points.astype(np.float64) - point).sum(axis=1))
