"""A run written as a folder for others: the store reads the same frames from it, and what could mislead is refused."""

import json

import numpy as np
import polars as pl
import pytest
import yaml

from assets import cli
from resources import bundle, bundle_card, manifest, tables
from resources import experiment as experiments
from resources.manifest import Manifest
from resources.storage import Store as Artifacts
from susc_pipeline import schema, store, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.store import Store

N_COMPONENTS, N_CONTEXTS, LENGTH, N_WORDS = 3, 4, 6, 8
TOML = """name = "toy"
[model]
source = "{model}"
[corpus]
kind = "files"
path = "{corpus}"
{license}
[tokens]
context_length = 6
contexts_per_shard = 4
n_shards = 3
n_ground_truth_shards = 2
n_validation_shards = 1
"""
KEYS = ["context_id", "position"]


def finish(artifacts, asset, shard, frame, **inputs):
    path = artifacts.table(asset, shard)
    tables.write(frame, path)
    found = manifest.record(path, path.name)
    Manifest(asset, shard, "1", "a", inputs, found, frame.height).write(artifacts.manifest_path(asset, shard))


def token_frame(rng, shard, *names):
    contexts = np.repeat(np.arange(N_CONTEXTS) + shard * N_CONTEXTS, LENGTH - 1)
    keys = {
        "context_id": pl.Series(contexts, dtype=pl.Int64),
        "position": pl.Series(np.tile(np.arange(1, LENGTH), N_CONTEXTS), dtype=pl.Int32),
        "document_id": [f"document {context % 5}" for context in contexts],
        "token_id": pl.Series(rng.integers(0, N_WORDS, len(contexts)), dtype=pl.Int32),
    }
    vectors = {name: rng.normal(size=(len(contexts), N_COMPONENTS)).astype(np.float32) for name in names}
    return schema.with_vectors(pl.DataFrame(keys), **vectors)


def fill(artifacts, experiment):
    """Tables as a run writes them, of random numbers."""
    rng = np.random.default_rng(0)
    finish(artifacts, "language_model", None, pl.DataFrame({"weight": [1.0]}))
    finish(artifacts, "corpus_documents", None, pl.DataFrame({"document_id": [f"document {n}" for n in range(5)]}))
    texts = [f"w{number}⏎" for number in range(N_WORDS - 1)] + ["<script>|`"]
    vocabulary = pl.DataFrame({"token_id": pl.Series(range(N_WORDS), dtype=pl.Int32), "text": texts})
    finish(artifacts, "warehouse", None, pl.DataFrame({"nothing": [0]}))
    tables.write(vocabulary, artifacts.table("vocabulary"))
    names, deviations = [f"L0H{number}" for number in range(N_COMPONENTS)], rng.uniform(1, 2, N_COMPONENTS)
    finish(
        artifacts,
        "component_table",
        None,
        pl.DataFrame({"name": names, "mean": [0.5] * N_COMPONENTS, "standard_deviation": deviations}),
    )
    measured = tokens.ground_truth_keys(experiment.tokens)
    for number, shard in enumerate(tokens.shard_keys(experiment.tokens)):
        every = token_frame(rng, number, "linear_response", "half_a", "half_b")
        finish(artifacts, "linear_response", shard, every.with_columns(loss=pl.lit(1.5, pl.Float32)))
        finish(artifacts, "whitened_susceptibilities", shard, token_frame(rng, number, "whitened"))
        if shard in measured:
            finish(artifacts, "ground_truth_susceptibilities", shard, token_frame(rng, number, "susceptibility"))
        contexts = every.group_by("context_id", "document_id", maintain_order=True).agg(pl.col("token_id"))
        ids = contexts.select("context_id", "document_id", token_ids=pl.concat_list(pl.lit(0, pl.Int32), "token_id"))
        finish(artifacts, "token_shards", shard, ids)
    keys = every.select(KEYS).with_columns(shard=pl.lit(shard), rank=pl.int_range(pl.len(), dtype=pl.Int32))
    members = keys.with_columns(cluster=pl.when(pl.col("rank") < 7).then(0).otherwise(1).cast(pl.Int32)).head(12)
    finish(artifacts, "cluster_members", None, members)
    clusters = pl.DataFrame({"cluster": [0, 1], "size": [7, 5], "conductance": [0.1, 0.2]})
    made_from = artifacts.checksum("cluster_members")
    finish(artifacts, "clusters", None, clusters, cluster_members=made_from)
    finish(artifacts, "cluster_labels", None, pl.DataFrame({"cluster": [0, 1], "label": ["a", "<b>"]}))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The TOML file and the artifacts of a run."""
    monkeypatch.setenv("SUSC_STORE", str(tmp_path / "data"))
    (tmp_path / "private" / "llama`|x").mkdir(parents=True)
    places = {"model": tmp_path / "private" / "llama`|x", "corpus": tmp_path / "private" / "diary.txt"}
    toml = tmp_path / "toy.toml"
    toml.write_text(TOML.format(**places, license='license = "CC-BY-4.0"'))
    artifacts = Artifacts(tmp_path / "data" / "toy")
    fill(artifacts, ExperimentConfig.from_toml(toml))
    return toml, artifacts


def frames(found):
    """Every frame that an export has, by the call that gives it."""
    sources = [name for name in store.SOURCES if name != "predicted"]
    return {
        **{name: getattr(found, name)() for name in ("clusters", "labels", "components", "documents", "tokens")},
        **{f"members {cluster}": found.members(cluster) for cluster in (None, 0, 1)},
        **{source: found.vectors(source=source) for source in sources},
        **{f"{source}, in deviations": found.vectors(["L0H1"], source=source, standardized=True) for source in sources},
        "tokens of a document": found.tokens("document 2"),
        "nearest": found.nearest(1, 2, n=9),
    }


def test_the_frames_of_a_store_and_of_its_export_are_equal(run, tmp_path, capsys):
    toml, artifacts = run
    assert cli.main(["export", "--experiment", str(toml), str(tmp_path / "out")]) == 0
    assert "2 clusters, 60 tokens" in capsys.readouterr().out
    ours, theirs = frames(Store.open(artifacts.root)), frames(Store.open(tmp_path / "out"))
    assert all(frame.height for frame in ours.values())
    assert [name for name in ours if not ours[name].equals(theirs[name])] == []
    with pytest.raises(store.StoreNotFoundError, match="an export holds no such thing"):
        Store.open(tmp_path / "out").vectors(source="predicted")


def test_half_precision_rounds_by_no_more_than_the_card_says(run, tmp_path):
    toml, artifacts = run
    assert cli.main(["export", "--experiment", str(toml), str(tmp_path / "out"), "--float16"]) == 0
    content = json.loads((tmp_path / "out" / store.EXPORT).read_text())
    ours, theirs = Store.open(artifacts.root).vectors(), Store.open(tmp_path / "out").vectors()
    deviations = dict(zip(*(Store.open(artifacts.root).components()[name] for name in ("name", "standard_deviation"))))
    change = {name: (ours[name] - theirs[name]).abs().max() / deviations[name] for name in deviations}
    assert content["precision"] == "float16" and 0 < max(change.values()) <= np.finfo(np.float16).eps * 8
    assert max(change.values()) == pytest.approx(content["largest_rounding_error"], rel=1e-5)
    frame = artifacts.table("linear_response", "shard-00000")
    large = pl.read_parquet(frame)
    values = np.full((large.height, N_COMPONENTS), 1e6, np.float32)
    finish(artifacts, "linear_response", "shard-00000", schema.with_vectors(large.drop("half_b"), half_b=values))
    with pytest.raises(ValueError, match="half_b must be finite as float16"):
        bundle.export(str(toml), tmp_path / "large", half_precision=True)
    assert not (tmp_path / "large").exists()


def test_every_file_is_parquet_json_or_the_card_and_the_card_names_every_table_and_column(run, tmp_path):
    toml, _ = run
    bundle.export(str(toml), tmp_path / "out", half_precision=False)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".parquet", ".json", ".md"}
    card = (tmp_path / "out" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    read = yaml.safe_load(front)
    assert read["license"] == "cc-by-4.0" and [one["config_name"] for one in read["configs"]] == [*bundle_card.TABLES]
    matched = {path for one in read["configs"] for path in (tmp_path / "out").glob(one["data_files"])}
    assert matched == {path for path in files if path.suffix == ".parquet"}
    assert all(f"| `{name}` |" in body for path in matched for name in pl.read_parquet_schema(path))
    content = json.loads((tmp_path / "out" / store.EXPORT).read_text())
    assert content["model_sha256"] in body and content["corpus_sha256"] in body and "under CC-BY-4.0" in body


def test_places_on_the_machine_and_what_markdown_obeys_stay_out(run, tmp_path):
    toml, _ = run
    bundle.export(str(toml), tmp_path / "out", half_precision=False)
    said = (tmp_path / "out" / "README.md").read_text() + (tmp_path / "out" / store.EXPORT).read_text()
    assert str(tmp_path) not in said and "private" not in said
    assert "| model | `llama'/x` |" in said and "| text | `diary.txt`, 5 documents |" in said
    assert "<script>" not in said


@pytest.mark.parametrize(("license", "read"), [("PSF-2.0", ("other", "PSF-2.0")), ("", (None, None))])
def test_a_licence_that_hubs_do_not_know_is_named_and_one_that_nobody_stated_is_missed(run, tmp_path, license, read):
    toml, _ = run
    toml.write_text(toml.read_text().replace('license = "CC-BY-4.0"', f'license = "{license}"'))
    bundle.export(str(toml), tmp_path / "out", half_precision=False)
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front.get("license"), front.get("license_name")) == read
    assert ("does not state its licence" in card) == (not license)


def test_a_licence_decides_no_number():
    toys = [ExperimentConfig(name="a", corpus=tokens_of) for tokens_of in map(licensed, ("", "MIT"))]
    assert toys[0].digest() == toys[1].digest() and toys[0].digest("corpus") == toys[1].digest("corpus")
    with pytest.raises(ValueError, match=r"corpus\.license must be a licence as SPDX names it"):
        licensed("a licence\nof mine")


def licensed(license):
    return experiments.load("tiny").corpus.__class__(license=license)


def test_what_would_mislead_is_refused_and_nothing_is_left(run, tmp_path, capsys):
    toml, artifacts = run
    out = tmp_path / "out"

    def refused(said):
        assert cli.main(["export", "--experiment", str(toml), str(out)]) == 1
        assert said in capsys.readouterr().err and [*tmp_path.glob("*out*")] in ([], [out])

    out.mkdir()
    (out / "thesis.tex").write_text("years")
    refused("is no empty folder; give a new one")
    assert (out / "thesis.tex").read_text() == "years"
    (out / "thesis.tex").unlink()
    members = pl.read_parquet(artifacts.table("cluster_members"))
    finish(artifacts, "cluster_members", None, members.head(11))
    refused("clusters was made from another cluster_members than the store holds; `susc-pipeline run` makes it again")
    finish(artifacts, "cluster_members", None, members)
    path = artifacts.table("linear_response", "shard-00001")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    refused("has other content than was written")
    path.write_bytes(content)
    artifacts.manifest_path("cluster_labels").unlink()
    refused("cluster_labels has not been made; `susc-pipeline run` makes it")
    assert not any(out.iterdir())


def test_an_export_of_another_layout_is_refused(run, tmp_path):
    toml, _ = run
    bundle.export(str(toml), tmp_path / "out", half_precision=False)
    path = tmp_path / "out" / store.EXPORT
    path.write_text(path.read_text().replace(f'"format": {store.FORMAT}', '"format": 99'))
    with pytest.raises(store.StoreNotFoundError, match="export of format 99; this version reads 1"):
        Store.open(tmp_path / "out")
