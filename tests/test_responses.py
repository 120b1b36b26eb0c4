"""What the site says of components equals the obvious loop over all tokens, however they are cut into shards and blocks."""

import json
import re

import numpy as np
import polars as pl
import pytest

import sites
from susc_pipeline import schema
from susc_pipeline.explorer import component_table, extremes, numbering, payload, responses
from susc_pipeline.explorer import site as site_module
from susc_pipeline.explorer.responses import Products
from susc_pipeline.model.components import Component
from susc_pipeline.representation.pca import PCABasis

CALL = re.compile(r"explorer\.receive\((\"[^\"]*\"),(.*)\);\n", re.DOTALL)
SHAPE = sites.Shape(n_documents_per_shard=5)
DOCUMENTS = [f"{kind}/{name}" for kind in ("a", "<b>") for name in ("x", "y", "z")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return sites.site(SHAPE, sites.HOSTILE_TEXTS, DOCUMENTS, folder=tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def read(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "explorer"
    site_module.save(made, folder)
    return lambda name: json.loads(CALL.fullmatch((folder / "data" / f"{name}.js").read_text()).group(2))


@pytest.fixture(scope="module")
def tokens(made):
    """All tokens of the corpus in order: keys, response, its halves, what was sampled; in standard deviations."""

    def stacked(tables):
        return pl.concat([table.collect() for _, table in sorted(tables.items())])

    keys = stacked(made.shards.predictions)
    of = {
        name: stacked(getattr(made.shards, name))["prediction"].to_numpy().astype(float) @ made.basis.components
        for name in ("predictions", "half_a", "half_b")
    }
    truth = keys.join(stacked(made.shards.truth), on=["context_id", "position"], how="left", maintain_order="left")
    measured = [
        np.array([np.full(len(made.basis.mean), np.nan) if row is None else row for row in truth[name].to_list()])
        for name in ("susceptibility", "standard_error")
    ]
    of |= {
        "measured": (measured[0] - made.basis.mean) / made.basis.scale,
        "measured_error": measured[1] / made.basis.scale,
    }
    return keys, of


def test_the_extreme_tokens_are_those_of_a_sort_of_all_tokens(read, tokens, made):
    keys, of = tokens
    for number in range(made.components.height):
        found = read(f"responses/{number:04d}")
        for name, key in zip(
            responses.LISTS, (-of["predictions"], of["predictions"], -of["measured"], of["measured"]), strict=True
        ):
            column = np.where(np.isnan(key[:, number]), -np.inf, key[:, number])
            expected = np.argsort(-column, kind="stable")[: responses.N_EXTREME]
            token, values = payload.unpacked(found[name]["token"]), payload.unpacked(found[name]["values"])
            np.testing.assert_allclose(column[token], column[expected], atol=1e-5)
            shown = np.stack(
                [
                    of["predictions"][token, number],
                    np.abs(of["half_a"] - of["half_b"])[token, number] / 2,
                    of["measured"][token, number],
                    of["measured_error"][token, number],
                ],
                axis=1,
            )
            np.testing.assert_allclose(values.reshape(-1, 4), shown, atol=2e-3)
            counts = dict(keys["token_id"].gather(token.tolist()).value_counts().iter_rows())
            assert all(counts[token_id] == count for token_id, count in found[name]["commonest"])
            assert found[name]["commonest"][0][1] == max(counts.values())


def test_means_by_position_and_by_kind_are_those_of_the_tokens(read, tokens, made):
    keys, of = tokens
    position, kind = keys["position"].to_numpy(), keys["document_id"].str.split("/").list.first().to_numpy()
    for number in (0, 3, made.components.height - 1):
        found, own = read(f"responses/{number:04d}"), of["predictions"][:, number]
        places = found["positions"]
        assert places["first"][0] == 1 and places["last"][-1] == SHAPE.context_length - 1
        assert places["first"][1:] == [last + 1 for last in places["last"][:-1]]
        for mean, first, last in zip(payload.unpacked(places["mean"]), places["first"], places["last"], strict=True):
            np.testing.assert_allclose(mean, own[(first <= position) & (position <= last)].mean(), atol=1e-3)
        assert set(found["kinds"]["names"]) == {"a", "<b>"}
        documents = keys.with_columns(kind=pl.Series(kind)).group_by("kind").agg(pl.col("document_id").n_unique())
        expected = dict(documents.iter_rows())
        assert found["kinds"]["documents"] == [expected[name] for name in found["kinds"]["names"]]
        for mean, name in zip(payload.unpacked(found["kinds"]["mean"]), found["kinds"]["names"], strict=True):
            np.testing.assert_allclose(mean, own[kind == name].mean(), atol=1e-3)
        error = np.sqrt(np.mean((of["half_a"] - of["half_b"])[:, number] ** 2)) / 2
        np.testing.assert_allclose(found["error"], error, rtol=1e-3)


def test_agreement_is_the_correlation_over_sampled_tokens(read, tokens, made):
    _, of = tokens
    known = ~np.isnan(of["measured"][:, 0])
    for number in (0, 2):
        found = read(f"responses/{number:04d}")
        assert found["sampled"] == known.sum() > 0
        r = np.corrcoef(of["measured"][known, number], of["predictions"][known, number])[0, 1]
        np.testing.assert_allclose(found["agreement"], r, rtol=1e-3)


def test_companions_are_correlations_of_halves_that_share_nothing(read, tokens, made):
    _, of = tokens
    for number in (1, 4):
        found = read(f"responses/{number:04d}")["companions"]
        assert number not in found["component"]
        for other, (r, first, second) in zip(
            found["component"], payload.unpacked(found["r"]).reshape(-1, 3), strict=True
        ):
            cross = np.cov(np.concatenate([of["half_a"], of["half_b"]], axis=1).T, ddof=0)
            n = made.components.height
            scale = np.sqrt(cross[number, n + number] * cross[other, n + other])
            np.testing.assert_allclose(
                [first, second], [cross[number, n + other] / scale, cross[other, n + number] / scale], atol=1e-3
            )
            np.testing.assert_allclose(r, (first + second) / 2, atol=1e-3)


def test_correlations_have_no_noise_of_the_chains_in_them():
    """Two components share half of their variance; the noise of each half is as large as the signal."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(40_000, 1)), rng.normal(size=(40_000, 2))
    signal = (shared + own) / np.sqrt(2)
    even, odd = (signal + rng.normal(size=signal.shape) for _ in range(2))
    basis = PCABasis(np.zeros(2), np.ones(2), np.eye(2), np.ones(2), 1)
    products = Products(np.array(len(even)), even.sum(axis=0), odd.sum(axis=0), even.T @ odd)
    noiseless, first, second = responses.companions(products, basis)
    assert abs(noiseless[0, 1] - 0.5) < 0.02 and abs(np.corrcoef(even.T)[0, 1] - 0.5) > 0.2  # the power
    assert first[0, 1] == second[1, 0]


def test_a_component_on_which_the_halves_disagree_has_no_correlation():
    both = np.array([[1.0, 0.0], [0.0, -1.0]])
    products = Products(np.array(10), np.zeros(2), np.zeros(2), both)
    noiseless, _, _ = responses.companions(products, PCABasis(np.zeros(2), np.ones(2), np.eye(2), np.ones(2), 1))
    assert np.isnan(noiseless[:, 1]).all() and noiseless[0, 0] > 0


def test_extreme_tokens_do_not_depend_on_how_the_blocks_are_cut():
    rng = np.random.default_rng(1)
    key = rng.integers(0, 9, (500, 3)).astype(float)  # many are equal
    key[rng.random(key.shape) < 0.1] = np.nan
    values = rng.normal(size=(500, 3, 4))
    found = []
    for size in (500, 7):
        kept = extremes.empty(3, 20)
        for start in range(0, 500, size):
            rows = slice(start, start + size)
            extremes.add(kept, key[rows], np.arange(500)[rows], np.arange(500)[rows] % 11, values[rows])
        found.append([extremes.listed(kept, number) for number in range(3)])
    assert found[0] == found[1]


def test_the_site_does_not_depend_on_how_many_tokens_are_held_at_once(made, monkeypatch):
    numbered = numbering.corpus(made.shards.contexts)
    whole = responses.respond(made.shards, numbered, made.basis)
    monkeypatch.setattr(responses, "TOKENS_AT_ONCE", 13)
    parts = responses.respond(made.shards, numbered, made.basis)
    for one, other in zip(whole.lists, parts.lists, strict=True):
        np.testing.assert_array_equal(one.token, other.token)
    np.testing.assert_allclose(whole.squared_error, parts.squared_error)


def test_means_of_clusters_by_component_are_those_of_the_cards(read, made):
    cards = read("cards/00000")["components"]
    shape = made.clusters.height, made.components.height
    mean, half = (payload.unpacked(cards[name]).reshape(shape) for name in ("mean", "half"))
    for number in range(made.components.height):
        found = read(f"means/{number:04d}")
        np.testing.assert_allclose(payload.unpacked(found["mean"]), mean[:, number], atol=1e-3)
        np.testing.assert_allclose(payload.unpacked(found["half"]), half[:, number], atol=1e-2)


def test_the_map_by_a_component_shows_the_responses_of_its_tokens(read, tokens):
    _, of = tokens
    token = payload.unpacked(read("map/tokens"))
    for number in (0, 5):
        np.testing.assert_allclose(
            payload.unpacked(read(f"map/component-{number:04d}")), of["predictions"][token, number], atol=2e-3
        )


def test_the_page_is_told_what_each_component_is_and_need_not_read_it_off_the_name(read, made):
    found = read("site")["components"]
    assert [list(row) for row in found] == [list(set_aside(schema.COMPONENTS))] * made.components.height
    assert {row["kind"] for row in found} == {"embed", "head", "key_value", "mlp", "unembed"}
    for row, component in zip(found, sites.components_of(SHAPE), strict=True):
        assert (row["name"], row["kind"]) == (component.name, component.kind)
        assert (row["layer"], row["head"]) == tuple(n if n >= 0 else None for n in component[1:])


def set_aside(columns):
    return [name for name in columns if name != "loadings"]


def test_the_table_takes_the_regime_of_its_own_n_beta_and_says_nothing_where_nothing_is_known():
    chosen = [Component("embed"), Component("head", 0, 1), Component("key_value", 0, 0)]
    basis = PCABasis(np.arange(3.0), np.array([1.0, 2.0, 2.0]), np.eye(3)[:2], np.ones(2), 5)
    reliability = pl.DataFrame(
        {
            "kind": ["component", "pc", "component"],
            "name": ["L0H1", "embed", "embed"],
            "half_correlation": 0.5,
            "reliability": [0.7, 0.1, 0.8],
            "low": [0.6, None, 0.75],
            "high": [0.8, None, 0.85],
            "ceiling": 0.9,
        },
        schema=schema.RELIABILITY,
    )
    rows = [("embed", 30.0, 2.0), ("L0H1", 30.0, 3.0), ("L0H1", 300.0, 9.0)]
    regime = pl.DataFrame(
        [
            dict.fromkeys(schema.REGIME, 1.0) | {"component": name, "n_beta": n_beta, "llc": llc, "localization": 60.0}
            for name, n_beta, llc in rows
        ]
    )
    found = component_table.component_table(chosen, [8, 9, 10], basis, reliability, regime, n_beta=30.0)
    assert dict(found.schema) == schema.COMPONENTS
    assert found["llc"].to_list() == [2.0, 3.0, None] and found["loss_pull"].to_list() == [0.5, 0.5, None]
    assert found["reliability"].to_list() == [0.8, 0.7, None] and found["head"].to_list() == [None, 1, 0]
    np.testing.assert_allclose(found["share_of_variance"], [1 / 9, 4 / 9, 4 / 9])
    assert found["loadings"].to_list() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    at_rest = regime.with_columns(n_beta=pl.lit(0.0))
    without = component_table.component_table(chosen, [8, 9, 10], basis, reliability, at_rest, n_beta=0.0)
    assert without["llc"].to_list() == [None] * 3 and without["loss_pull"][0] == 0
    with pytest.raises(ValueError, match="the basis is of 3 components, the model has 2"):
        component_table.component_table(chosen[:2], [8, 9], basis, reliability, regime, n_beta=30.0)


def test_a_model_of_one_component_and_a_corpus_of_one_kind_have_pages_too(tmp_path):
    shape = sites.Shape(n_layers=0, n_heads=0, n_groups=0, tied=True, n_pcs=1, context_length=2)
    made = sites.site(shape, sites.HOSTILE_TEXTS, ["one document"], folder=tmp_path / "tables")
    site_module.save(made, tmp_path / "explorer")
    text = (tmp_path / "explorer" / "data" / "responses" / "0000.js").read_text()
    found = json.loads(CALL.fullmatch(text).group(2))
    assert found["companions"]["component"] == [] and found["positions"]["first"] == [1]
    assert found["kinds"]["names"] == []
