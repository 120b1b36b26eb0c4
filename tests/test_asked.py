"""The page of observables and data changes: its entries are those of the tables, and a site without any lacks it."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from test_browser import Watched, above_minor

import sites
from susc_pipeline import schema
from susc_pipeline.explorer import asked, asked_tokens, extremes, payload
from susc_pipeline.explorer import site as site_module
from susc_pipeline.susceptibility.data_changes import DataChange

SHAPE = sites.Shape(n_clusters=12, is_asked=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked") / "explorer"
    made = sites.site(SHAPE, sites.HOSTILE_TEXTS, sites.HOSTILE_DOCUMENTS, folder=folder.parent / "tables")
    site_module.save(made, folder)
    return folder


def content(folder, name="observables"):
    return sites.content(folder, name)


def test_a_site_on_which_nothing_is_asked_has_no_trace_of_the_page(tmp_path):
    made = sites.site(sites.Shape(), ["a", "b"], ["d"], folder=tmp_path / "tables")
    site_module.save(made, tmp_path / "explorer")
    for path in site_module.STATIC.iterdir():
        assert (tmp_path / "explorer" / path.name).read_bytes() == path.read_bytes()
    assert not (tmp_path / "explorer" / "data" / "observables.js").exists()
    assert asked.section(None, None) is None


def empty_section():
    """Of an experiment with observables but without data changes, whose run has no cluster."""
    return asked.section(None, pl.DataFrame(schema=schema.OBSERVABLES))


def test_observables_without_data_changes_and_clusters_have_no_entry():
    assert empty_section() == {"rows": [], "clusters": [], "tokens": ()}


def test_entries_are_of_named_data_changes_and_clusters_are_those_furthest_from_zero(folder):
    found = content(folder)
    n_components = len(sites.components_of(SHAPE))
    named = {(row["observable"], row["data_change"]) for row in found["rows"]}
    assert named == {(o, c) for o in (asked.OWN, "query") for c in ("all", "by-number")}
    assert len(found["rows"]) == 4 * n_components
    assert all(row["half_width"] > 0 for row in found["rows"] + found["clusters"])
    assert len(found["clusters"]) == asked.N_CLUSTERS * n_components
    for name in {row["name"] for row in found["clusters"]}:
        sizes = [abs(row["susceptibility"]) for row in found["clusters"] if row["name"] == name]
        assert np.all(np.diff(sizes) <= 0)


def test_tokens_behind_an_entry_are_those_of_the_data_change_that_respond_most():
    rng, n_components, observables = np.random.default_rng(0), 2, ["first", "second"]
    halves, tables, members = {}, {}, []
    for shard in ("shard-00000", "shard-00001"):
        keys = pl.DataFrame(
            {
                "context_id": np.repeat(np.arange(6), 5) + 6 * len(tables),
                "position": np.tile(np.arange(1, 6), 6),
                "document_id": [f"d{number // 10}" for number in range(30)],
                "token_id": rng.integers(0, 9, 30),
            },
            schema=schema.TOKEN_KEY,
        )
        halves[shard] = rng.normal(size=(2, 30, 4)).astype(np.float32)
        tables[shard] = schema.with_vectors(keys, half_a=halves[shard][0], half_b=halves[shard][1]).lazy()
        some = keys[[1, 7, 20]].select("context_id", "position")
        members.append(some.with_columns(shard=pl.lit(shard), cluster=pl.lit(4, pl.Int32)))
    changes = [DataChange("d1", documents="d1"), DataChange("four", cluster=4), DataChange("file", file="texts.jsonl")]
    found = list(asked_tokens.furthest(changes, asked_tokens.Measured(observables, tables), pl.concat(members).lazy()))
    assert [entry[:2] for entry in found] == [(o, c) for o in observables for c in ("d1", "four")]
    rows = {"d1": [*range(10, 20), *range(40, 50)], "four": [1, 7, 20, 31, 37, 50]}
    every = np.concatenate(list(halves.values()), axis=1)
    for entry in found:
        for place in range(n_components):
            column = observables.index(entry.observable) * n_components + place
            value = every[:, rows[entry.data_change], column].mean(axis=0)
            order = np.argsort(-np.abs(value))[: asked_tokens.N_TOKENS]
            listed = extremes.listed(entry.tokens, place)
            token, values = (payload.unpacked(listed[name]) for name in ("token", "values"))
            assert token.tolist() == [rows[entry.data_change][n] for n in order]
            np.testing.assert_allclose(values.reshape(-1, 4)[:, 0], value[order], rtol=1e-3)
            half = np.abs(np.diff(every[:, token, column], axis=0))[0] / 2
            np.testing.assert_allclose(values.reshape(-1, 4)[:, 1], half, rtol=1e-3, atol=1e-3)
    assert list(asked_tokens.furthest(changes, asked_tokens.Measured(["none"], {}), pl.concat(members).lazy())) == []


@pytest.mark.browser
def test_an_entry_opens_what_is_behind_it_and_choices_stay_in_the_address(browser, folder):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    watched = Watched(page, folder)
    watched.open("#/observables")
    rows = page.locator("main table").first.locator("tbody tr")
    assert rows.count() == len(sites.components_of(SHAPE)) and rows.first.locator("td").count() == 4
    page.select_option("select[aria-label='Observable']", "query")
    page.select_option("select[aria-label='Data change']", "by-number")
    assert page.evaluate("location.hash") == "#/observables?observable=query&change=by-number"
    assert rows.first.locator("td").count() == 1
    own = next(r for r in content(folder)["rows"] if (r["observable"], r["data_change"]) == ("query", "by-number"))
    page.click("main table tbody tr:first-child td button")
    text = page.inner_text(".behind")
    assert f"query × by-number, {own['name']}" in text and "100 tokens of 7 documents (cluster 3)" in text
    interval = page.evaluate("(value) => explorer.number(value)", own["half_width"])
    assert f"± {interval}" in text and f"± {interval}" in rows.first.locator("td").inner_text()
    assert page.locator(".behind table tbody tr").count() == asked.N_CLUSTERS
    assert page.locator(".behind a[href='#/cluster/3']").count() >= 1
    page.wait_for_selector(".behind ol.lines li")
    listed = content(folder, f"asked/{content(folder)['tokens'].index(['query', 'by-number']):04d}")[0]
    assert page.locator(".behind ol.lines li").count() == len(payload.unpacked(listed["token"])) > 0
    assert all("±" in line for line in page.locator(".behind ol.lines li .value").all_inner_texts())
    assert page.get_attribute("nav a[aria-current]", "href") == "#/observables"
    watched.open("#/observables?observable=query")
    assert rows.first.locator("td").count() == 2
    page.select_option("select[aria-label='Data change']", index=1)  # the name of a data change, not the choice of all
    assert page.evaluate("location.hash") == "#/observables?observable=query&change=all"
    assert rows.first.locator("td").count() == 1
    page.select_option("select[aria-label='Data change']", index=0)
    assert rows.first.locator("td").count() == 2
    assert page.evaluate("document.querySelector('main b') === null")  # a pattern is text
    watched.check()
    page.close()


@pytest.mark.browser
def test_the_page_without_an_entry_says_why(browser, tmp_path):
    made = sites.site(sites.Shape(n_clusters=4), ["a", "b"], ["d"], folder=tmp_path / "tables")
    site_module.save(dataclasses.replace(made, asked=empty_section()), tmp_path / "explorer")
    page = browser.new_page()
    watched = Watched(page, tmp_path / "explorer")
    watched.open("#/observables")
    assert "names no data change" in page.inner_text("main") and page.locator("main table").count() == 0
    watched.check()
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.browser
def test_axe_finds_no_violation_above_minor_and_nothing_overflows(browser, folder, theme):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=theme, bypass_csp=True)
    Watched(page, folder).open("#/observables")
    page.click("main table tbody tr:first-child td button")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert above_minor(page) == []
    page.close()
