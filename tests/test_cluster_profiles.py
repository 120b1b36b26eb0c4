"""The table of cluster profiles: the obvious loop, and that neither shards nor their order change it."""

import numpy as np
import polars as pl
import pytest

from susc_pipeline import schema
from susc_pipeline.clustering import cluster_profiles, profile_plot
from susc_pipeline.clustering.cluster_profiles import Scores
from susc_pipeline.representation.pca import PCABasis

N_TOKENS, N_PCS, NAMES, N_CLUSTERS = 600, 2, ["L0H0", "L0H1", "L1MLP"], 4
SINGLE = 1e-5  # scores and sums over a document are in single precision


def made_up():
    """Keys, cluster (N_CLUSTERS where none) and scores of tokens, by all chains and by either half, and a basis."""
    rng = np.random.default_rng(0)
    keys = pl.DataFrame(
        {
            "context_id": np.arange(N_TOKENS) // 10,
            "position": np.arange(N_TOKENS, dtype=np.int32) % 10 + 1,
            "document_id": [f"d{token // 30}" for token in range(N_TOKENS)],
            "token_id": np.zeros(N_TOKENS, np.int32),
        }
    )
    cluster = rng.integers(0, N_CLUSTERS + 1, N_TOKENS)
    cluster[cluster == 3] = N_CLUSTERS
    cluster[:5] = 3  # all of one document
    scores = rng.normal(size=(N_TOKENS, N_PCS)).astype(np.float32)
    error = 0.5 * rng.normal(size=scores.shape).astype(np.float32)
    axes = np.linalg.qr(rng.normal(size=(len(NAMES), N_PCS)))[0].T.copy()
    basis = PCABasis(np.zeros(3), np.ones(3), axes, np.ones(N_PCS), 100)
    return keys, cluster, (scores, scores + error, scores - error), basis


def table(folder, shards):
    """The table where the tokens are cut into shards at these places, given in order of name."""
    keys, cluster, scores, basis = made_up()
    parts, members = [{}, {}, {}], []
    for number, rows in enumerate(shards):
        own, name = keys[rows.tolist()], f"shard-{number:05d}"
        for part, values in zip(parts, scores, strict=True):
            part[name] = schema.with_vectors(own, prediction=values[rows]).lazy()
        found = own.with_columns(cluster=pl.Series(cluster[rows], dtype=pl.Int32), shard=pl.lit(name), rank=0)
        members.append(found.filter(pl.col("cluster") < N_CLUSTERS).cast({"rank": pl.Int32}).select(*schema.MEMBERS))
    return cluster_profiles.table(
        Scores(*parts), pl.concat(members), basis, NAMES, n_clusters=N_CLUSTERS, folder=folder / "aside"
    )


def test_means_and_errors_are_those_of_the_obvious_loop(tmp_path):
    keys, cluster, (scores, half_a, half_b), basis = made_up()
    found = table(tmp_path, [np.arange(N_TOKENS)])
    assert dict(found.schema) == schema.CLUSTER_PROFILES and found.height == N_CLUSTERS * len(NAMES)
    response, difference = scores @ basis.components, (half_a - half_b) / 2 @ basis.components
    document = keys["document_id"].to_numpy()
    of_chains = np.sqrt(np.mean([difference[cluster == c].mean(axis=0) ** 2 for c in range(N_CLUSTERS)], axis=0))
    for number in range(N_CLUSTERS - 1):
        own, of = response[cluster == number], document[cluster == number]
        mean = own.mean(axis=0)
        residuals = np.array([(own[of == d] - mean).sum(axis=0) for d in np.unique(of)])
        count = len(residuals)
        over_documents = np.sqrt(count / (count - 1) * (residuals**2).sum(axis=0)) / len(own)
        rows = found.filter(cluster=number)
        assert rows["name"].to_list() == NAMES and rows["component"].to_list() == [0, 1, 2]
        assert set(rows["n_members"]) == {len(own)} and set(rows["n_documents"]) == {count}
        np.testing.assert_allclose(rows["mean"], mean, atol=SINGLE)
        np.testing.assert_allclose(rows["standard_error"], np.hypot(over_documents, of_chains), rtol=SINGLE)
        assert (rows["half_width"] > 1.95 * rows["standard_error"]).all()


def test_a_cluster_of_one_document_has_a_mean_and_no_error(tmp_path):
    rows = table(tmp_path, [np.arange(N_TOKENS)]).filter(cluster=3)
    assert rows["mean"].null_count() == 0 and set(rows["n_documents"]) == {1}
    assert rows["standard_error"].null_count() == rows["half_width"].null_count() == len(NAMES)


def test_the_table_does_not_depend_on_how_documents_are_sharded(tmp_path):
    whole, tokens = table(tmp_path / "whole", [np.arange(N_TOKENS)]), np.arange(N_TOKENS)
    apart = table(tmp_path / "apart", [tokens[300:], tokens[:90], tokens[90:300]])
    for name in whole.columns:
        if whole[name].dtype.is_float():
            np.testing.assert_allclose(apart[name], whole[name], rtol=SINGLE, atol=SINGLE)
        else:
            assert apart[name].equals(whole[name])


def test_the_figure_has_a_panel_a_layer_and_a_point_with_its_interval_a_component(tmp_path):
    kinds = pl.DataFrame(
        {"component": [0, 1, 2], "kind": ["head", "head", "mlp"], "layer": [0, 0, 1], "head": [0, 1, None]}
    )
    every = table(tmp_path, [np.arange(N_TOKENS)]).join(kinds.cast({"component": pl.Int32}), on="component")
    for cluster in (0, 3):
        rows = every.filter(cluster=cluster)
        panels = profile_plot.figure(rows).axes
        assert [panel.get_title() for panel in panels] == ["layer 0", "layer 1"]
        assert [label.get_text() for label in panels[0].get_xticklabels()] == ["head 0", "head 1"]
        points = np.concatenate([panel.containers[0].lines[0].get_ydata() for panel in panels])
        np.testing.assert_allclose(points, rows["mean"])
        ends = np.concatenate(
            [segment[:, 1] for panel in panels for segment in panel.containers[0].lines[2][0].get_segments()]
        )
        half = rows["half_width"].fill_null(0)
        np.testing.assert_allclose(ends, np.stack([points - half, points + half], axis=1).ravel())


def test_a_member_without_a_score_is_refused(tmp_path):
    keys, _, (scores, *_), basis = made_up()
    frame = schema.with_vectors(keys, prediction=scores)
    members = keys.with_columns(cluster=pl.lit(0, pl.Int32), rank=pl.lit(0, pl.Int32), shard=pl.lit("s"))
    halves = {"s": frame.lazy()}, {"s": frame.head(-2).lazy()}
    with pytest.raises(ValueError, match="2 members of clusters in s have no score"):
        scored = Scores({"s": frame.lazy()}, *halves)
        cluster_profiles.table(
            scored, members.select(*schema.MEMBERS), basis, NAMES, n_clusters=1, folder=tmp_path / "aside"
        )
