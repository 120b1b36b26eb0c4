"""The explorer's data: nothing is lost or run on the way to the page, and every file is found by arithmetic."""

import dataclasses
import json
import re

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import adjusted_rand_score

import sites
from assets import cli
from susc_pipeline import buckets
from susc_pipeline.clustering import agreement, profiles
from susc_pipeline.explorer import (
    cards,
    comparison,
    control_rows,
    layout,
    numbering,
    payload,
    search_index,
    shard_pass,
    vectors,
)
from susc_pipeline.explorer import site as site_module

CALL = re.compile(r"explorer\.receive\((\"[^\"]*\"),(.*)\);\n", re.DOTALL)

SINGLE = 8 * np.finfo(np.float32).eps  # sums over a document are set aside in single precision


def members(made):
    return made.members.collect()


def read(folder, name):
    called, value = CALL.fullmatch((folder / "data" / f"{name}.js").read_text(encoding="ascii")).groups()
    assert json.loads(called) == name
    return json.loads(value)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return sites.site(sites.Shape(), sites.HOSTILE_TEXTS, sites.HOSTILE_DOCUMENTS, folder=folder)


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "explorer"
    site_module.save(made, folder)
    return folder


def test_any_text_comes_back_and_none_of_it_is_markup():
    texts = [*sites.HOSTILE_TEXTS, "\x00", "\ud800 half a surrogate", "]]>", "<!--"]
    script = payload.script("a/b", texts)
    assert json.loads(CALL.fullmatch(script).group(2)) == texts
    assert script.isascii() and not set("<>&") & set(script)


def test_packed_integers_come_back_exactly_in_the_smallest_type():
    rng = np.random.default_rng(0)
    for low, high, kind in ((0, 255, "uint8"), (0, 65535, "uint16"), (-1, 70000, "int32"), (0, 2**32 - 1, "uint32")):
        values = np.append(rng.integers(low, high, 100), [low, high])
        assert payload.packed(values)["type"] == kind
        np.testing.assert_array_equal(payload.unpacked(payload.packed(values)), values)
    assert payload.unpacked(payload.packed(np.zeros(0, np.int64))).size == 0
    with pytest.raises(ValueError, match="must fit 32 bits"):
        payload.packed(np.array([2**32]))


def test_quantized_numbers_are_off_by_half_a_step_of_their_column_at_most():
    values = np.random.default_rng(0).normal(size=(300, 3)) * [1e-6, 1.0, 1e6]
    values[5, 1], values[7, 2] = np.nan, np.inf
    found = payload.unpacked(payload.quantized(values)).reshape(values.shape)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(np.isnan(found), ~finite)
    largest = np.abs(np.where(finite, values, 0)).max(axis=0)
    assert (np.abs(found - values)[finite] <= (0.5001 * np.tile(largest / 32767, (300, 1)))[finite]).all()
    assert payload.unpacked(payload.quantized(np.zeros((4, 1)))).tolist() == [0] * 4


def sums(values, cluster, document, *, n_clusters, parts=()):
    found = profiles.empty(n_clusters, values.shape[1])
    for part in parts or [np.full(len(values), True)]:
        rows = profiles.grouped(cluster[part], document[part], values[part])
        profiles.add(found, rows["cluster"], rows["count"], rows["total"].astype(np.float64))
    return found


def grouped(n=400, n_clusters=5):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 3)), rng.integers(0, n_clusters, n), rng.integers(0, 40, n)


def test_profiles_equal_the_obvious_loop():
    values, cluster, document = grouped()
    found = profiles.profile(sums(values, cluster, document, n_clusters=6))
    for number in range(5):
        own, of = values[cluster == number], document[cluster == number]
        mean = own.mean(axis=0)
        residuals = np.array([(own[of == d] - mean).sum(axis=0) for d in np.unique(of)])
        count = len(residuals)
        error = np.sqrt(count / (count - 1) * (residuals**2).sum(axis=0)) / len(own)
        np.testing.assert_allclose(found.mean[number], mean, atol=SINGLE)
        np.testing.assert_allclose(found.standard_error[number], error, rtol=SINGLE)
    assert np.isnan(found.mean[5]).all() and np.isnan(found.standard_error[5]).all()


def test_profiles_do_not_depend_on_how_documents_are_sharded():
    values, cluster, document = grouped()
    whole = sums(values, cluster, document, n_clusters=5)
    parts = sums(values, cluster, document, n_clusters=5, parts=[document < 13, document >= 13, document > 99])
    for one, other in zip(parts, whole):
        np.testing.assert_allclose(one, other, rtol=SINGLE)


def test_with_one_token_a_document_the_error_is_the_usual_one():
    values, _, _ = grouped()
    found = profiles.profile(sums(values, np.zeros(400, int), np.arange(400), n_clusters=1))
    np.testing.assert_allclose(found.standard_error[0], values.std(axis=0, ddof=1) / np.sqrt(400), rtol=SINGLE)


def test_intervals_of_profiles_cover_the_truth_where_tokens_of_a_document_are_alike():
    rng, inside = np.random.default_rng(2), 0
    for _ in range(300):
        document = np.repeat(np.arange(40), 5)
        values = (rng.normal(size=40)[document] + 0.3 * rng.normal(size=200))[:, None]
        found = profiles.profile(sums(values, np.zeros(200, int), document, n_clusters=1))
        inside += abs(found.mean[0, 0]) < 1.96 * found.standard_error[0, 0]
    assert 0.90 <= inside / 300 <= 0.98


def test_intervals_over_few_documents_cover_the_truth_too():
    rng, inside, document = np.random.default_rng(3), 0, np.repeat(np.arange(4), 5)
    for _ in range(600):
        values = (rng.normal(size=4)[document] + 0.3 * rng.normal(size=20))[:, None]
        found = profiles.profile(sums(values, np.zeros(20, int), document, n_clusters=1))
        inside += abs(found.mean[0, 0]) < found.half_width[0, 0]
    assert 0.92 <= inside / 600 <= 0.98


@pytest.mark.parametrize("size_of_chains", [0.0, 0.5])
def test_intervals_hold_the_error_of_the_chains_which_all_documents_share(size_of_chains):
    """Each repetition: 30 clusters of 20 documents, whose means by half a and half b are off by errors of their own."""
    rng, inside, over_documents = np.random.default_rng(4), [], []
    cluster = np.repeat(np.arange(30), 60)
    document = np.tile(np.repeat(np.arange(20), 3), 30)
    for _ in range(40):
        off_a, off_b = size_of_chains * np.sqrt(2) * rng.normal(size=(2, 30, 1))
        values = (rng.normal(size=(30, 20))[cluster, document] + 0.3 * rng.normal(size=len(cluster)))[:, None]
        found = profiles.profile(sums(values + ((off_a + off_b) / 2)[cluster], cluster, document, n_clusters=30))
        wide = profiles.widened(found, (off_a - off_b) / 2)
        inside.append(np.abs(found.mean) < wide.half_width)
        over_documents.append(np.abs(found.mean) < found.half_width)
    assert 0.93 <= np.mean(inside) <= 0.97
    assert size_of_chains == 0 or np.mean(over_documents) < 0.7  # the power


def test_list_and_card_show_the_reproducibility_of_a_cluster(written, made):
    table = made.clusters.sort("cluster")
    shown = payload.unpacked(read(written, "clusters")["reproducibility"])
    np.testing.assert_allclose(shown, table["reproducibility"].to_numpy(), atol=1e-3)
    cards = read(written, "cards/00000")["cards"]
    assert [card["reproducibility"] for card in cards] == table["reproducibility"].head(len(cards)).to_list()
    assert [card["parent"] is None for card in cards] == (table["parent_size"].head(len(cards)) == 0).to_list()


def test_the_controls_are_told_with_a_conclusion_and_each_card_names_those_that_find_its_cluster(written, made):
    told, cards = read(written, "controls"), read(written, "cards/00000")["cards"]
    assert [row["knows"] for row in told["rows"]] == ["activations", "susceptibilities"]
    assert told["conclusion"].startswith(
        f"Of {made.clusters.height} clusters {-(-made.clusters.height // 2)} are also found"
    )
    name = made.controls.table["control"][0]
    assert [card["controls"] for card in cards[:3]] == [[[name, 0.75]], [], [[name, 0.75]]]
    assert control_rows.section(None) == {}


def test_every_member_lies_in_the_file_that_its_number_says(written, made, monkeypatch):
    clusters, summary = read(written, "clusters"), read(written, "site")
    size = payload.unpacked(clusters["size"])
    first = np.concatenate([[0], np.cumsum(size)])
    rows = [
        np.stack([payload.unpacked(found[name]) for name in ("context", "position")])
        for found in (read(written, f"members/{n:05d}") for n in range(-(-first[-1] // summary["perFile"]["members"])))
    ]
    flat = np.concatenate(rows, axis=1)
    for cluster in range(summary["clusters"]):
        expected = members(made).filter(cluster=cluster).sort("rank")
        np.testing.assert_array_equal(flat[1, first[cluster] : first[cluster + 1]], expected["position"])
        np.testing.assert_array_equal(flat[0, first[cluster] : first[cluster + 1]], expected["context_id"])


def test_texts_hold_every_token_with_its_cluster_and_loss(written, made):
    summary = read(written, "site")
    per, width = summary["perFile"]["texts"], summary["positions"]
    contexts = pl.concat([f.collect() for _, f in sorted(made.shards.contexts.items())])
    predictions = pl.concat([f.collect() for _, f in sorted(made.shards.predictions.items())])
    keys = ["context_id", "position"]
    labels = predictions.join(members(made), on=keys, how="left", maintain_order="left")["cluster"].fill_null(-1)
    found = [read(written, f"texts/{n:05d}") for n in range(-(-contexts.height // per))]
    join = lambda name: np.concatenate([payload.unpacked(one[name]) for one in found])  # noqa: E731
    np.testing.assert_array_equal(join("tokens").reshape(-1, width), np.array(contexts["token_ids"].to_list()))
    np.testing.assert_array_equal(join("clusters"), labels)
    np.testing.assert_allclose(join("losses"), predictions["loss"], atol=1e-3)
    assert [name for one in found for name in one["documents"]] == contexts["document_id"].to_list()


def test_a_component_follows_from_scores_and_basis_as_the_page_computes_it(written, made):
    axes = payload.unpacked(read(written, "site")["basis"]["components"]).reshape(made.basis.components.shape)
    shard = made.shards.truth["shard-00000"].collect()
    measured = (shard["susceptibility"].to_numpy() - made.basis.mean) / made.basis.scale
    scores = payload.unpacked(read(written, "scores/00000")).reshape(-1, len(axes))[: len(measured)]
    np.testing.assert_allclose(scores @ axes, measured, atol=5e-3)


def test_cards_agree_with_the_tables_behind_them(written, made):
    predictions = pl.concat([f.collect() for f in made.shards.predictions.values()])
    found = read(written, "cards/00000")
    means = payload.unpacked(found["components"]["mean"]).reshape(12, -1)
    for cluster, card in enumerate(found["cards"]):
        own = members(made).filter(cluster=cluster).join(predictions, on=["context_id", "position"])
        z = own["prediction"].to_numpy() @ made.basis.components
        np.testing.assert_allclose(means[cluster], z.mean(axis=0), atol=1e-3)
        assert sum(count for _, count in card["tokens"]) == sum(card["lossHistogram"]) == own.height
        assert card["nDocuments"] == own["document_id"].n_unique()
        assert dict(card["tokens"]) == dict(own.group_by("token_id").len().iter_rows())
        assert (card["agreement"] is None) == (card["measured"] < cards.MIN_MEASURED)
        assert card["agreement"] is None or card["agreement"] > 0.9


def test_headings_scores_and_occurrences_are_those_of_the_labels(written, made):
    labels, columns = made.labels.sort("cluster"), read(written, "clusters")
    assert read(written, "headings/00000") == labels["heading"].to_list()
    gain, expected = payload.unpacked(columns["gain"]), labels["gain"].fill_null(np.nan).to_numpy()
    np.testing.assert_allclose(gain, expected, atol=1e-4)
    assert (
        np.isnan(gain[3::4]).all()
        and payload.unpacked(columns["documents"]).tolist() == labels["n_documents"].to_list()
    )
    for card, row in zip(read(written, "cards/00000")["cards"], labels.iter_rows(named=True)):
        assert (card["label"], card["tokenLabel"]) == (row["label"], row["token_label"])
        assert dict(card["occurrences"]) == dict(zip(row["token_ids"], row["token_occurrences"]))
        assert (card["gainHalf"] is None) == (row["gain"] is None)


def gathered(made, folder):
    numbered, aside = numbering.corpus(made.shards.contexts), buckets.Buckets(folder / "members", numbering.MEMBER)
    central = site_module.write_members(folder, made, numbered, aside)
    return shard_pass.gather(made.shards, numbered, aside, central, made.basis, folder=folder)


def test_measured_reliability_is_that_of_halves(made, tmp_path):
    found = cards.measured(gathered(made, tmp_path), made.basis, 0)
    truth = pl.concat([f.collect() for f in made.shards.truth.values()])
    for cluster in range(12):
        own = members(made).filter(cluster=cluster).join(truth, on=["context_id", "position"])
        assert found.count[cluster] == own.height
        if own.height < cards.MIN_MEASURED:
            assert np.isnan(found.reliability[cluster])
            continue
        a, b = ((own[h].to_numpy() - made.basis.mean) / made.basis.scale for h in ("half_a", "half_b"))
        r = np.corrcoef(a.mean(axis=0), b.mean(axis=0))[0, 1]
        np.testing.assert_allclose(found.reliability[cluster], 2 * r / (1 + r), rtol=1e-5)


@pytest.mark.parametrize("text", ["self", " self", "the", "__proto__", "<script>document.title='run'</script>", "\n"])
def test_a_query_finds_its_token_in_the_one_file_whose_first_key_is_not_after_it(tmp_path, made, text):
    entries = [search_index.Entry(search_index.token_key(t), [n]) for n, t in enumerate(sites.HOSTILE_TEXTS)]
    firsts = search_index.write(tmp_path / "data", "tokens", entries, per_file=4)
    key = search_index.token_key(text)
    file = max(n for n, first in enumerate(firsts) if search_index.code_units(first) <= search_index.code_units(key))
    assert [key, sites.HOSTILE_TEXTS.index(text)] in read(tmp_path, f"tokens/{file:04d}")
    assert firsts == sorted(firsts, key=search_index.code_units)


def test_neighbours_are_the_strongest_edges_strongest_first(made):
    near = vectors.strongest_edges(made.graph.rows(3, 9), 2)
    dense = made.graph.rows(0, made.graph.n_vertices).toarray()
    for row, vertex in enumerate(range(3, 9)):
        assert dense[vertex, near[row]].tolist() == sorted(dense[vertex], reverse=True)[:2]
    assert (vectors.strongest_edges(made.graph.rows(0, 2), 9)[:, 4:] == -1).all()


def test_a_run_compared_with_itself_agrees_wholly_and_matches_are_the_best_of_all_pairs():
    rng = np.random.default_rng(3)
    a, b = (np.where(rng.random(500) < 0.2, -1, rng.integers(0, 7, 500)) for _ in range(2))
    found = agreement.best_match(a, b, n_clusters=8)
    for cluster in range(7):
        pairs = [np.sum((a == cluster) & (b == o)) / np.sum((a == cluster) | (b == o)) for o in range(7)]
        np.testing.assert_allclose(found.jaccard[cluster], max(pairs))
        np.testing.assert_allclose(pairs[found.partner[cluster]], max(pairs))
    assert found.jaccard[7] == 0 and found.partner[7] == -1
    frame = pl.DataFrame({"cluster": a, "token": range(500)}).filter(pl.col("cluster") >= 0)
    same = comparison.compare(frame, frame, None, name="", meaning="", n_clusters=7)
    assert same.adjusted_rand_index == 1 and (same.jaccard == 1).all() and same.n_tokens == frame.height
    other = pl.DataFrame({"cluster": b, "token": range(500)}).filter(pl.col("cluster") >= 0)
    either = (a >= 0) | (b >= 0)
    index = comparison.compare(frame, other, None, name="", meaning="", n_clusters=7).adjusted_rand_index
    np.testing.assert_allclose(index, adjusted_rand_score(a[either], b[either]))


def test_tokens_that_one_run_never_saw_do_not_count_against_it():
    ours = pl.DataFrame({"cluster": [0, 0, 1, 1, 2], "token": [1, 2, 3, 4, 5]})
    theirs = pl.DataFrame({"cluster": [5, 6], "token": [1, 3]})
    shared = pl.DataFrame({"token": [1, 3]})
    found = comparison.compare(ours, theirs, shared, name="", meaning="", n_clusters=3)
    assert found.n_tokens == 2 and found.compared.tolist() == [1, 1, 0]
    np.testing.assert_array_equal(found.jaccard, [1, 1, np.nan])
    assert found.partner.tolist() == [5, 6, -1]


@pytest.mark.slow
def test_the_map_keeps_what_is_joined_together():
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(4), 60)
    adjacency = (labels[:, None] == labels) & ~np.eye(240, dtype=bool) & (rng.random((240, 240)) < 0.3)
    from scipy import sparse

    graph = sparse.csr_array((adjacency | adjacency.T).astype(np.float32))
    places = layout.layout(graph, rng.normal(size=(240, 2)), n_epochs=200, rng=rng)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.mean(labels[distances.argmin(axis=1)] == labels) > 0.95
    assert layout.sample(50, 100, rng).tolist() == list(range(50))
    chosen = layout.sample(1000, 100, rng)
    assert len(set(chosen.tolist())) == 100 and (np.diff(chosen) > 0).all()


def test_no_file_is_large_and_no_page_asks_for_another_machine(written):
    files = [path for path in written.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 1 << 20
    for path in files:
        if path.parent == written:
            addresses = re.findall(r"https?://[^\s\"'`)]+", path.read_text(encoding="utf-8"))
            assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path.name
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (written / "index.html").read_text()).group(1)
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_a_run_without_clusters_has_a_site_too(made, tmp_path):
    none = comparison.compare(
        members(made).clear().select("cluster", "context_id", "position"),
        members(made).select("cluster", "context_id", "position"),
        None,
        name="",
        meaning="",
        n_clusters=0,
    )
    empty = dataclasses.replace(
        made,
        clusters=made.clusters.clear(),
        members=made.members.clear(),
        labels=made.labels.clear(),
        comparisons=[none],
        controls=made.controls._replace(matches=made.controls.matches.clear()),
    )
    site_module.save(empty, tmp_path / "explorer")
    assert read(tmp_path / "explorer", "site")["clusters"] == 0
    assert payload.unpacked(read(tmp_path / "explorer", "clusters")["size"]).size == 0


def test_a_missing_site_is_said_with_the_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SUSC_STORE", str(tmp_path))
    assert cli.main(["explore", "--experiment", "tiny"]) == 1
    assert "make run EXPERIMENT=tiny writes it" in capsys.readouterr().err
