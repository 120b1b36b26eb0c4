"""The command behind `make development`, on toy checkpoints: experiments that differ in the model alone, tables, page."""

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import write_toml
from safetensors.torch import load_file, save_file

from resources import development, development_join
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.development import development_page
from susc_pipeline.development.measured import Checkpoint
from susc_pipeline.explorer import payload
from susc_pipeline.schema import development_tables
from susc_pipeline.susceptibility import directions

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def checkpoint_folders(toy_folders, tmp_path_factory):
    """Three checkpoints: the toy model, the same again, and one whose weights are moved."""
    root, (_, model) = tmp_path_factory.mktemp("checkpoints"), toy_folders
    folders = [root / f"step-{step}" for step in (2, 4, 16)]
    for folder in folders:
        shutil.copytree(model, folder)
    place = folders[2] / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    moved = {n: w + 0.05 * torch.randn(w.shape, generator=generator) for n, w in load_file(place).items()}
    save_file(moved, place, metadata={"format": "pt"})
    return folders


@pytest.fixture(scope="module")
def base(toy_folders, tmp_path_factory):
    return write_toml(tmp_path_factory.mktemp("base") / "base.toml", *toy_folders)


@pytest.fixture(scope="module")
def made(base, checkpoint_folders, tmp_path_factory):
    """Folder of a whole run, its exit code and what it printed of equal weights is in the summary."""
    folder = tmp_path_factory.mktemp("development")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster_home")))
        arguments = ["--folder", str(folder), "--base", str(base), "--checkpoints", *map(str, checkpoint_folders)]
        assert development.main(arguments) == 0
    return folder


def test_experiments_differ_in_name_and_model_alone(base, checkpoint_folders, tmp_path):
    written = development.expanded(base, checkpoint_folders, tmp_path)
    original = ExperimentConfig.from_toml(base)
    for path, folder in zip(written, checkpoint_folders, strict=True):
        own = ExperimentConfig.from_toml(path)
        assert own.name == folder.name and own.model.source == str(folder)
        assert dataclasses.replace(own, name=original.name, model=original.model) == original


def test_checkpoints_come_by_step_and_two_of_one_step_are_refused(tmp_path):
    folders = [tmp_path / name for name in ("step-1000", "step-64", "b-512")]
    assert [folder.name for folder in development.in_order(folders)] == ["step-64", "b-512", "step-1000"]
    with pytest.raises(ValueError, match=r"must have different steps, got \[64, 512, 512, 1000\]"):
        development.in_order([*folders, tmp_path / "step-512"])


REVISIONS_OF_A_HUB = """
import sys
from pathlib import Path
from resources import development
base, destination, *asked = sys.argv[1:]
for revisions in asked:
    try:
        print(*development.revisions_of(Path(base), revisions.split(), Path(destination)), sep="\\n")
    except ValueError as error:
        print(error, file=sys.stderr)
"""


def test_revisions_of_a_hub_are_folders_named_by_their_steps(toy_folders, checkpoint_folders, tmp_path):
    """Of a hub that nobody asks: its cache holds two revisions, as the library leaves them."""
    base, cache = write_toml(tmp_path / "base.toml", *toy_folders), tmp_path / "hub" / "models--someone--small"
    base.write_text(re.sub(r"(?m)^source = .*$", 'source = "someone/small"', base.read_text(), count=1))
    (cache / "refs").mkdir(parents=True)
    for number, (revision, folder) in enumerate({"step512": 0, "stage1-step1000-tokens2B": 2}.items()):
        commit = str(number) * 40
        (cache / "refs" / revision).write_text(commit)
        shutil.copytree(checkpoint_folders[folder], cache / "snapshots" / commit)

    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", REVISIONS_OF_A_HUB, str(base), str(tmp_path / "links")]
    command += ["step512 stage1-step1000-tokens2B", "main", "step7"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    places = [Path(line) for line in found.stdout.split()]
    assert [place.name for place in places] == ["step-000512", "step-001000"], found.stderr
    digests = [development.identity_of(place).weights for place in places]
    assert digests == [development.identity_of(checkpoint_folders[number]).weights for number in (0, 2)]
    without_step, unknown = found.stderr.strip().splitlines()
    assert "must name its step, such as step512, got 'main'" in without_step
    assert "fetching it as a Hub name failed" in unknown


def test_revisions_are_refused_where_the_base_has_a_folder_or_a_step_comes_twice(base, tmp_path):
    def of_source(source):
        path = tmp_path / "base.toml"
        path.write_text(re.sub(r"(?m)^source = .*$", f'source = "{source}"', base.read_text(), count=1))
        return path

    with pytest.raises(
        ValueError, match=r"model\.source of base\.toml is .*, a folder without revisions; set model\.source"
    ):
        development.revisions_of(base, ["step512"], tmp_path / "links")
    with pytest.raises(
        ValueError, match=r"is 'embedded', a folder without revisions; .* name folders by --checkpoints"
    ):
        development.revisions_of(of_source("embedded"), ["step512"], tmp_path / "links")
    for again in ("step512", "stage2-step512"):
        with pytest.raises(ValueError, match=f"must name different steps, got 'step512' and '{again}'; leave one out"):
            development.revisions_of(of_source("someone/small"), ["step512", again], tmp_path / "links")
    assert not (tmp_path / "links").exists()


def test_the_base_of_make_development_is_an_experiment(checkpoint_folders, tmp_path):
    (written,) = development.expanded(development.BASE, checkpoint_folders[:1], tmp_path)
    experiment = ExperimentConfig.from_toml(written)
    assert experiment.sampling.n_chains >= 3  # an interval of a reliability needs three
    n_at_least = directions.LEAST_STEPS * experiment.sampling.n_chains * experiment.sampling.batch_size
    assert experiment.directions.max_contexts <= n_at_least  # so all chains are of one length


def test_a_base_that_fits_noise_to_each_checkpoint_is_refused_before_anything_is_made(base, tmp_path, capsys):
    fitted, out = tmp_path / "base.toml", tmp_path / "out"
    fitted.write_text(base.read_text().replace("[sampling]", "[sampling]\ntarget_rise = 0.05"))
    assert development.main(["--folder", str(out), "--base", str(fitted)]) == 1
    said = capsys.readouterr().err
    assert "sampling.target_rise of base.toml must be 0, got 0.05" in said and "one value for all checkpoints" in said
    assert not out.exists()
    development.check_base(development.BASE)


@pytest.mark.slow
def test_equal_weights_are_measured_once_and_the_tables_are_whole(made):
    summary = json.loads((made / "development.json").read_text())
    assert [row["step"] for row in summary["checkpoints"]] == [2, 16]
    assert summary["left_out"] == ["step-4 has the weights of step-2: it is not measured again."]
    assert not (made / "step-4").exists() and set(summary["seconds"]) == {"train", "measure", "join"}
    for name in ("components", "changes", "heads", "separations", "axes", "clusters", "matches", "tokens"):
        table = pl.read_parquet(made / f"development.{name}.parquet")
        assert table.schema == pl.Schema(getattr(development_tables, f"DEVELOPMENT_{name.upper()}")), name
    components = pl.read_parquet(made / "development.components.parquet")
    assert components.height == 2 * 11  # three layers of two heads and an MLP, the embedding and the unembedding
    assert np.isfinite(components["llc"].to_numpy()).all()


@pytest.mark.slow
def test_checkpoints_have_the_same_tokens_contexts_and_noise(made):
    for name in ("population_contexts", "token_shards/shard-00000"):
        first, second = (pl.read_parquet(made / step / f"{name}.parquet") for step in ("step-2", "step-16"))
        assert first.equals(second), name


@pytest.mark.slow
def test_checkpoints_of_another_tokenizer_end_in_a_sentence(checkpoint_folders, tmp_path, capsys):
    other = tmp_path / "step-32"
    shutil.copytree(checkpoint_folders[2], other)
    content = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(content, indent=3))
    folders = [str(checkpoint_folders[0]), str(other)]
    assert development.main(["--folder", str(tmp_path / "out"), "--checkpoints", *folders]) == 1
    assert "step-32 has another tokenizer than step-2" in capsys.readouterr().err
    unnamed = tmp_path / "last"
    shutil.copytree(checkpoint_folders[2], unnamed)
    assert development.main(["--folder", str(tmp_path / "out"), "--checkpoints", str(unnamed), folders[0]]) == 1
    assert "must end in its step" in capsys.readouterr().err


# The join, of planted measurements.


def planted(step, _, store, model, *, chosen, noise):
    """Equal responses at all steps, with the noise of the step in either half; and the keys of the tokens."""
    rng, truth = np.random.default_rng(step), np.random.default_rng(0).normal(size=(400, len(chosen)))
    halves = [(truth + noise[step] * rng.normal(size=truth.shape)).astype(np.float32) for _ in range(2)]
    chains, probe = rng.normal(size=(4, len(chosen))), rng.normal(size=(len(chosen), 4, 50))
    losses, localization = np.full(400, 2.0, np.float32), np.full(len(chosen), 300.0)
    one = Checkpoint(step, losses, *halves, chain_llc=chains, probe=probe, localization=localization)
    ids, first = np.arange(400, dtype=np.int32), np.ones(400, np.int32)
    return one, pl.DataFrame({"context_id": ids.astype(np.int64), "position": first, "token_id": ids % 5})


@pytest.mark.parametrize("chosen", [["embed", "L0MLP", "L1MLP"], ["L0H0", "L1MLP"], ["L0H0", "L0H1", "L0MLP"]])
def test_a_join_ends_with_few_heads_and_with_a_checkpoint_of_noise(
    chosen, base, checkpoint_folders, tmp_path, monkeypatch
):
    own, noise = tmp_path / "base.toml", {2: 0.1, 4: 100.0, 16: 0.1}
    content = base.read_text().replace("min_reliability = -1.0", "min_reliability = 0.5")
    own.write_text(content.replace("[model]", f"[model]\ncomponents = {json.dumps(chosen)}"))
    for folder in checkpoint_folders:
        (tmp_path / folder.name).mkdir()
        (tmp_path / folder.name / "language_model").symlink_to(folder)
    monkeypatch.setattr(development_join, "read", functools.partial(planted, chosen=chosen, noise=noise))
    written = development.expanded(own, checkpoint_folders, tmp_path / "experiments")
    summary = development_join.write(dict(zip(noise, written)), tmp_path, sentences=["One."])
    assert summary["left_out"][0] == "One." and "At step 4 no principal axis reaches" in summary["left_out"][1]
    assert [row["pcs"] > 0 for row in summary["checkpoints"]] == [True, False, True]
    first, second, third, pair = development_join.lines(json.loads(json.dumps(summary)))
    has_two = "L0H1" in chosen
    assert all(("fewer than two" in line) != has_two for line in (first, second, third))
    assert "no reliable axis, so no clusters" in second and pair.startswith("2->16: ")
    assert (tmp_path / "page" / "index.html").is_file()


# The page.


def page_of(folder):
    """A page of three checkpoints whose corpus is hostile; the second has no reliable axis, and so no clusters."""
    components = [
        ("L0H0", "head", 0, 0),
        ("L0H1", "head", 0, 1),
        ("L0MLP", "mlp", 0, None),
        ("embed", "embed", None, None),
    ]
    rows = [(step, *one, 1.0 * step, 0.1, 0.9, 0.8, 0.95, 0.01, 0.25) for step in (8, 12, 16) for one in components]
    tables = {
        "components": pl.DataFrame(rows, schema=development_tables.DEVELOPMENT_COMPONENTS, orient="row"),
        "clusters": pl.DataFrame(
            [
                (8, 0, 0, 30, None, None, None, None, True, 0.7, HOSTILE),
                (16, 0, 1, 25, None, None, None, True, None, 0.6, HOSTILE),
            ],
            schema=development_tables.DEVELOPMENT_CLUSTERS,
            orient="row",
        ),
        "matches": pl.DataFrame(
            [(8, 16, 1, 1, 0, 0.2, 1.0)], schema=development_tables.DEVELOPMENT_MATCHES, orient="row"
        ),
        "tokens": pl.DataFrame(
            [(8, 16, 3, 7, HOSTILE, HOSTILE, 5.0, 2.0, 1.0)], schema=development_tables.DEVELOPMENT_TOKENS, orient="row"
        ),
    }
    heads = {"mean_llc": 1.0, "spread": 0.5, "noise": 0.1, "statistic": 9.0, "p_value": 0.001, "p_adjusted": 0.002}
    checkpoints = [
        {"step": step, "mean_loss": 3.0, "mean_reliability": 0.9, "least_reliability": 0.8, "clusters": n_clusters}
        | {"clusters_both_halves_find": n_clusters, "heads": {"all": heads, "layer": heads}}
        for step, n_clusters in ((8, 1), (12, None), (16, 1))
    ]
    summary = {"checkpoints": checkpoints, "left_out": ["step-4 has the weights of step-2."], "level": 0.05}
    described = [dict(zip(("name", "kind", "layer", "head"), one, strict=True)) for one in components]
    development_page.save(folder, tables, summary, described, n_chains=8)
    return folder


def test_text_of_the_corpus_is_no_markup_in_the_page(tmp_path):
    folder = page_of(tmp_path / "page")
    content = (folder / "data" / "development.js").read_text()
    assert "<" not in content and ">" not in content and "\\u003c/script" in content
    value = json.loads(content.removeprefix('explorer.receive("development",').removesuffix(");\n"))
    assert value["tokens"][0]["before"] == HOSTILE and value["quantile"] == pytest.approx(2.3646, abs=1e-4)
    assert content == payload.script("development", value)


def test_the_page_asks_no_network_and_runs_no_script_but_its_own(tmp_path):
    page = (page_of(tmp_path / "page") / "index.html").read_text()
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in page
    for name in page.split('script src="')[1:]:
        assert (tmp_path / "page" / name.partition('"')[0]).is_file()
    assert "http" not in page.replace("http-equiv", "") and "onclick" not in page


@pytest.mark.browser
def test_the_slider_shows_each_checkpoint_and_no_text_runs(browser, tmp_path):
    folder, problems = page_of(tmp_path / "page"), []
    page = browser.new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append("a dialog"))
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    text = page.inner_text("main")
    assert "Step 16" in text and "Born: 1" in text and "Dead since step 8: 1" in text and HOSTILE in text
    assert page.locator("main img").count() == 0
    labels = page.locator('svg[aria-label^="L0 heads"] text').all_text_contents()
    assert {"8", "12", "16"} <= set(labels)  # steps, not their logarithms
    page.focus("#step")
    page.keyboard.press("ArrowLeft")
    text = page.inner_text("main")
    assert "Step 12" in text and "No axis is reliable" in text and "Dead" not in text and "null" not in text
    page.keyboard.press("ArrowLeft")
    text = page.inner_text("main")
    assert "Step 8" in text and "Clusters of the first checkpoint: 1" in text and "Born" not in text
    page.select_option("main select", "reliability")
    assert (
        page.locator("figure:not(.table) svg").first.get_attribute("aria-label")
        == "Reliability of linear responses at step 8"
    )
    page.click("#theme")
    assert problems == []
    page.close()
