"""Wanted changes: weights of documents from stored responses, what they are predicted to do, and their page."""

import numpy as np
import polars as pl
import pytest
from test_browser import Watched, above_minor

import sites
from susc_pipeline import schema
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.explorer import site as site_module
from susc_pipeline.explorer import wanted
from susc_pipeline.patterning import document_responses, wanted_changes
from susc_pipeline.patterning.wanted_changes import WantedChange

NAMES = ["L0H0", "L0MLP", "L1H0", "L1MLP"]
N_BETA = 30.0
ONE = 'components = ["L1H0"]\nchanges = [1.0]'


def tokens(noise, seed=0, n_documents=40, n_tokens=1000, first=0):
    """Tokens of documents with responses of their own, and noise of either half."""
    rng = np.random.default_rng(seed)
    number = np.sort(np.concatenate([np.arange(n_documents), rng.integers(0, n_documents, n_tokens - n_documents)]))
    means = np.random.default_rng(100 + first).normal(size=(n_documents, len(NAMES)))[number]
    halves = {half: means + noise * rng.normal(size=means.shape) for half in ("half_a", "half_b")}
    keys = pl.DataFrame({"document_id": [f"d{first + n:03d}" for n in number]})
    return schema.with_vectors(keys, **halves)


def found_for(*changes, noise=0.0):
    documents = wanted_changes.of_shard(tokens(noise))
    return documents, wanted_changes.find(changes, documents, NAMES, n_beta=N_BETA)


def test_without_noise_the_weights_make_the_change_and_hold_the_others_still():
    documents, found = found_for(WantedChange("down", ("L1H0", "L0MLP"), (-0.02, 0.01)))
    predicted = found.predictions["predicted"].to_numpy()
    np.testing.assert_allclose(predicted, [0, 0.01, -0.02, 0], atol=1e-9)
    assert found.predictions["role"].to_list() == ["kept", "asked", "asked", "kept"]
    assert found.predictions["wanted"].to_list() == [0, 0.01, -0.02, 0]
    weights = found.weights["weight"].to_numpy()
    assert found.weights["document_id"].to_list() == documents.names and weights.min() > 0
    np.testing.assert_allclose(weights.mean(), 1)
    # d<phi_c> = n_beta times the mean over documents of (weight - 1) times the mean response.
    mean = N_BETA * ((weights - 1)[:, None] * (documents.half_a + documents.half_b) / 2).mean(axis=0)
    np.testing.assert_allclose(mean, predicted, atol=1e-9)


def test_a_free_component_may_move_and_its_change_is_told():
    documents, found = found_for(WantedChange("down", ("L1H0",), (-0.02,), keep=("L0*",)), noise=0.3)
    assert found.predictions["role"].to_list() == ["kept", "kept", "asked", "free"]
    assert found.predictions["wanted"].to_list() == [0, 0, -0.02, None]
    free = found.predictions.filter(role="free")
    excess = found.weights["weight"].to_numpy() - 1
    response = N_BETA * (documents.half_a[:, 3] + documents.half_b[:, 3]) / 2 / len(excess)
    np.testing.assert_allclose(free["predicted"][0], response @ excess)
    assert free["standard_error"][0] > 0
    held = found_for(WantedChange("down", ("L1H0",), (-0.02,)), noise=0.3)[1]
    assert np.var(held.weights["weight"].to_numpy()) > np.var(excess)  # what is held still costs weights


def test_an_error_that_all_documents_share_is_in_the_error_of_the_predicted_change():
    """Half a responds a tenth more than half b, whatever the document: errors of documents alone are nearly averaged out."""
    true = np.random.default_rng(0).normal(size=(2000, len(NAMES)))
    documents = wanted_changes.Documents([f"d{n:04d}" for n in range(2000)], np.full(2000, 9), 1.05 * true, 0.95 * true)
    found = wanted_changes.find([WantedChange("down", ("L1H0",), (-0.5,))], documents, NAMES, n_beta=N_BETA)
    excess = found.weights["weight"].to_numpy() - 1
    by_halves = [N_BETA * (excess[:, None] * half).mean(axis=0) for half in (documents.half_a, documents.half_b)]
    asked = NAMES.index("L1H0")
    apart = abs(by_halves[0][asked] - by_halves[1][asked]) / 2
    assert found.predictions["standard_error"][asked] == pytest.approx(apart)
    assert apart == pytest.approx(0.05 * 0.5, rel=0.1)


def test_shards_are_joined_to_what_all_their_tokens_give_together():
    parts = [tokens(0.5, seed, first=first) for seed, first in ((1, 0), (2, 40))]
    joined = wanted_changes.joined([wanted_changes.of_shard(part) for part in parts])
    whole = pl.concat(parts)
    number = whole["document_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    halves = [schema.matrix(whole[half]) for half in ("half_a", "half_b")]
    expected = document_responses.of_components(*halves, number, n_beta=N_BETA)
    mine = document_responses.of_document_means(joined.half_a, joined.half_b, n_beta=N_BETA)
    np.testing.assert_allclose(mine.value, expected.value, rtol=1e-6)
    np.testing.assert_allclose(mine.standard_errors, expected.standard_errors, rtol=1e-6)
    assert joined.names == sorted(set(whole["document_id"])) and joined.n_tokens.sum() == whole.height


def test_what_no_direction_reaches_is_refused_by_its_name():
    noise = np.random.default_rng(0).normal(size=(2, 40, len(NAMES)))
    documents = wanted_changes.Documents([f"d{n}" for n in range(40)], np.full(40, 9), *noise)
    with pytest.raises(ValueError, match=r"wanted change 'down': .* directions rise above the noise .* more contexts"):
        wanted_changes.find([WantedChange("down", ("L1H0",), (-1.0,))], documents, NAMES, n_beta=N_BETA)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('components = ["L1H0"]', "a number for each of the 1 components"),
        ("changes = [1.0]", "at least one component"),
        ('components = ["L1H0"]\nchanges = [0.0]', "finite and not zero"),
        ('components = ["L1H0", "L1H0"]\nchanges = [1.0, 2.0]', "each named once"),
        (f"{ONE}\n[sampling]\nn_beta = 0.0", "above zero where changes are wanted"),
        (f'{ONE}\n[[wanted_changes]]\nname = "down"\n{ONE}', "given once"),
    ],
)
def test_a_change_that_says_too_little_or_too_much_is_refused_in_a_line(tmp_path, text, said):
    toml = tmp_path / "wrong.toml"
    toml.write_text(f'name = "wrong"\n[[wanted_changes]]\nname = "down"\n{text}\n')
    with pytest.raises(ValueError, match=r"wrong\.toml") as raised:
        ExperimentConfig.from_toml(toml)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_component_that_is_not_measured_is_named_with_those_that_are():
    with pytest.raises(ValueError, match=r"'down'.*one of .* measured: L0H0, L0MLP.*'L9H9'"):
        wanted_changes.require_known([WantedChange("down", ("L9H9",), (1.0,))], NAMES)


def test_a_pattern_that_keeps_no_measured_component_is_named_with_those_that_are():
    wanted_changes.require_known([WantedChange("down", ("L1H0",), (1.0,), keep=("L0*", "*MLP"))], NAMES)
    with pytest.raises(ValueError, match=r"'down': keep .* measured: L0H0, L0MLP.*'L9\*'"):
        wanted_changes.require_known([WantedChange("down", ("L1H0",), (1.0,), keep=("L0*", "L9*"))], NAMES)


def test_an_experiment_that_wants_nothing_keeps_its_artifacts():
    plain = ExperimentConfig(name="toy")
    asked = ExperimentConfig(name="toy", wanted_changes=(WantedChange("down", ("L1H0",), (1.0,)),))
    assert plain.digest("sampling") == asked.digest("sampling") and plain.digest() != asked.digest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wanted") / "explorer"
    shape = sites.Shape(n_clusters=4, has_wanted_changes=True)
    made = sites.site(shape, sites.HOSTILE_TEXTS, sites.HOSTILE_DOCUMENTS, folder=folder.parent / "tables")
    site_module.save(made, folder)
    return folder


def content(folder):
    return sites.content(folder, "wanted")


def test_the_page_lists_the_documents_of_largest_and_of_smallest_weight(folder):
    changes = WantedChange("down", ("L1H0",), (-0.5,)), WantedChange("up", ("L1H0",), (0.5,))
    documents, found = found_for(*changes, noise=0.1)
    entries = wanted.section(found.predictions, found.weights)
    assert [entry["name"] for entry in entries] == ["down", "up"]
    by_weight = found.weights.filter(wanted_change="down").sort("weight", "document_id")
    below = [name for name, weight in by_weight.select("document_id", "weight").iter_rows() if weight < 1]
    assert 0 < len(below) < len(documents.names)
    assert [row["document_id"] for row in entries[0]["less"]] == below[: wanted.N_DOCUMENTS]
    above = by_weight["document_id"].to_list()[len(below) :]
    assert [row["document_id"] for row in entries[0]["more"]] == above[::-1][: wanted.N_DOCUMENTS]
    assert entries[0]["components"][2]["wanted"] == -0.5 and entries[0]["n_documents"] == 40
    assert wanted.section(None, None) is None
    assert (folder / "view-wanted.js").is_file() and '<a href="#/wanted">' in (folder / "index.html").read_text()


@pytest.mark.browser
def test_the_page_says_what_is_asked_and_links_documents_and_components(browser, folder):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    watched = Watched(page, folder)
    watched.open("#/wanted")
    found = content(folder)
    assert page.locator("main figure.table").count() == 3
    assert (
        "keep that of one other" in page.inner_text("main") and page.locator("main a[href^='#/document/']").count() >= 2
    )
    page.select_option("select[aria-label='Wanted change']", found[1]["name"])
    assert page.evaluate("location.hash") == f"#/wanted?change={found[1]['name']}"
    assert "may do what they will" in page.inner_text("main")
    assert page.get_attribute("nav a[aria-current]", "href") == "#/wanted"
    assert page.evaluate("document.querySelector('main b') === null")  # a document's name is text
    watched.check()
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.browser
def test_axe_finds_no_violation_above_minor_and_nothing_overflows(browser, folder, theme):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=theme, bypass_csp=True)
    Watched(page, folder).open("#/wanted")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert above_minor(page) == []
    page.close()
