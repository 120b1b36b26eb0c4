"""An experiment whose store is in S3: a real server on loopback, busy at times, and machines that share nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import conftest
import pytest

from resources import experiment as experiments
from resources import warehouse
from resources.remote import Remote

pytest.importorskip("s3fs", reason="install the extra `engines` to test a store in S3")
pytest.importorskip("moto", reason="install the extra `engines` to test a store in S3")
import boto3
import s3_server

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).resolve().parent.parent
SECRET = "wJalrXUtnFEMI-not-a-real-one"
CLUSTERS = ["clusters", "cluster_members"]


@pytest.fixture(scope="module")
def server():
    """A server that answers 503 to one request in ten, and the environment of machines that use it."""
    with s3_server.served(share_refused=0.1) as (application, url):
        yield (
            application,
            {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "AKIA-not-a-real-one",
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )


@pytest.fixture(scope="module")
def bucket(server):
    """A client of the server, with a bucket `lab`."""
    _, environment = server
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="lab")
        yield client


class Machine:
    """A folder of its own for the cache and Dagster's history."""

    def __init__(self, root, toml, environment, store):
        self.root, self.toml, self.store = root, toml, store
        root.mkdir(exist_ok=True)
        self.environment = os.environ | environment
        self.environment |= {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "DAGSTER_HOME": str(root / "dagster")}
        self.environment |= {"SUSC_STORE": store, "SUSC_CACHE": str(root / "cache")}

    def start(self, *arguments):
        command = [sys.executable, "-m", "assets.cli", "run", "--experiment", str(self.toml), *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=CHECKOUT, env=self.environment, **streams)

    def run(self, *arguments, seconds=1500):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err

    @property
    def folder(self):
        return next((self.root / "cache").glob("*/toy"))

    def files(self, asset):
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(f"{asset}/**/*.parquet"))


def manifests(folder):
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in folder.rglob("*.manifest.json")
    }


def objects(client, prefix):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="lab", Prefix=prefix)
    found = [item for page in pages for item in page.get("Contents", [])]
    return {item["Key"].removeprefix(prefix): item["LastModified"] for item in found}


@pytest.fixture(scope="module")
def toml(toy_folders, tmp_path_factory):
    return conftest.write_toml(tmp_path_factory.mktemp("toml") / "toy.toml", *toy_folders, thorough=False)


@pytest.fixture(scope="module")
def local(toml, tmp_path_factory):
    """A finished run with its store on disk."""
    root = tmp_path_factory.mktemp("local")
    machine = Machine(root, toml, {}, str(root / "data"))
    code, out, err = machine.run()
    assert code == 0, out[-2000:] + err[-3000:]
    return machine, root / "data" / "toy"


@pytest.fixture(scope="module")
def first(server, bucket, toml, tmp_path_factory):
    """A finished run with its store in S3, by the first machine, with what it said."""
    machine = Machine(tmp_path_factory.mktemp("first"), toml, server[1], "s3://lab/susc")
    code, out, err = machine.run()
    assert code == 0, out[-2000:] + err[-3000:]
    return machine, out + err


def test_the_store_is_that_on_a_disk_though_one_request_in_ten_is_refused(server, bucket, first, local):
    application, _ = server
    assert application.n_refused > 50 and 0.05 < application.n_refused / application.n_requests < 0.2
    mine, theirs = manifests(local[1]), manifests(first[0].folder)
    timed = {"explorer.manifest.json", "warehouse.manifest.json"}  # they say how long it took, and where tables lie
    assert mine.keys() == theirs.keys()
    assert {name for name in mine.keys() - timed if mine[name]["files"] != theirs[name]["files"]} == set()
    tree = {path.relative_to(local[1]).as_posix() for path in local[1].rglob("*") if path.is_file()}
    tree = {name for name in tree if not name.startswith(".locks")} - {"seconds.json"}
    assert objects(bucket, "susc/toy/").keys() == tree


def test_a_second_run_does_nothing_and_uploads_nothing(bucket, first):
    before = objects(bucket, "susc/toy/")
    code, out, err = first[0].run()
    assert code == 0 and "up to date" in out, out + err
    assert objects(bucket, "susc/toy/") == before


def test_no_credential_is_in_what_was_said_or_stored(first):
    machine, said = first
    assert SECRET not in said
    for path in machine.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_second_machine_makes_what_is_downstream_and_fetches_what_that_needs(server, bucket, first, local, tmp_path):
    toml = tmp_path / "toy.toml"
    toml.write_text(first[0].toml.read_text().replace("max_conductance = 0.9", "max_conductance = 0.8"))
    copy = shutil.copytree(local[1].parent, tmp_path / "data")
    assert Machine(tmp_path / "disk", toml, {}, str(copy)).run("--select", *CLUSTERS)[0] == 0
    second = Machine(tmp_path / "second", toml, server[1], "s3://lab/susc")
    code, out, err = second.run("--select", *CLUSTERS)
    assert code == 0 and "sgld_samples" not in out, out + err
    assert not second.files("sgld_samples") and not second.files("activations")
    assert len(second.files("whitened_susceptibilities")) == 5
    expected = manifests(copy / "toy")
    for name in CLUSTERS:
        body = bucket.get_object(Bucket="lab", Key=f"susc/toy/{name}.manifest.json")["Body"].read()
        assert (
            json.loads(body) == expected[f"{name}.manifest.json"] == manifests(second.folder)[f"{name}.manifest.json"]
        )


def test_the_warehouse_reads_the_tables_where_they_are(bucket, first, tmp_path, monkeypatch):
    monkeypatch.setenv("SUSC_STORE", "s3://lab/susc")
    monkeypatch.setenv("SUSC_CACHE", str(tmp_path / "cache"))
    store = experiments.store(experiments.load(str(first[0].toml)))
    store.refresh()
    with warehouse.connect(store) as connection:
        assert connection.sql("select count(*) from predictions").fetchall() == [(5 * 10 * 15,)]
        same = connection.sql(
            "select count(*) > 0, bool_and(m.token = v.text) from member_contexts m "
            "join predictions p using (context_id, position) join vocabulary v on v.token_id = p.token_id"
        ).fetchall()
        assert same == [(True, True)]
    assert not list(store.root.glob("predicted_susceptibilities/*.parquet"))


def test_what_a_lost_machine_had_sampled_is_not_sampled_again(server, bucket, first, tmp_path):
    toml = tmp_path / "toy.toml"
    toml.write_text(first[0].toml.read_text().replace("n_draws = 2", "n_draws = 16", 1))
    arguments = ["--select", "sgld_samples", "--shard", "shard-00001"]
    lost = Machine(tmp_path / "lost", toml, server[1], "s3://lab/susc")
    process, deadline = lost.start(*arguments), time.monotonic() + 120
    traces = lambda: {k: t for k, t in objects(bucket, "susc/toy/sgld_samples/shard-00001/").items() if k not in old}  # noqa: E731
    old = objects(bucket, "susc/toy/sgld_samples/shard-00001/")
    while len(traces()) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    shutil.rmtree(lost.root)
    kept = traces()
    assert 6 <= len(kept) < 22
    code, out, err = Machine(tmp_path / "other", toml, server[1], "s3://lab/susc").run(*arguments)
    assert code == 0, out + err
    now = traces()
    # Of the last one, its file may have been uploaded without its record.
    pairs = {name.partition(".")[0] for name in kept if name.partition(".")[0] + ".sha256.json" in kept}
    whole = {name for name in kept if name.partition(".")[0] in pairs and name.partition(".")[0] + ".parquet" in kept}
    assert len(now) == 22 and whole and all(now[name] == kept[name] for name in whole)


@pytest.mark.parametrize(
    ("store", "dropped", "said"),
    [
        ("s3://nobody-has-it/susc", (), "The specified bucket does not exist"),
        ("s3://lab/susc", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "Unable to locate credentials"),
        (f"s3://me:{SECRET}@lab/susc", (), "holds a user or password"),
    ],
)
def test_a_store_that_cannot_be_had_is_an_error_in_a_line(server, bucket, toml, tmp_path, store, dropped, said):
    machine = Machine(tmp_path / "machine", toml, server[1], store)
    for name in dropped:
        del machine.environment[name]
    code, out, err = machine.run("--select", "language_model")
    assert code == 1 and said in err and "Traceback" not in err, out + err
    assert SECRET not in out + err and len(err.strip().splitlines()) == 1


def test_who_has_a_store_on_disk_imports_no_engine(toml, tmp_path):
    code = "import sys, assets.run, assets.definitions, assets.runner; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "SUSC_STORE": str(tmp_path), "SUSC_EXPERIMENT": str(toml)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    engines = {"ray", "dagster_ray", "s3fs", "boto3", "botocore", "psycopg2", "dagster_postgres"}
    assert not engines & set(done.stdout.split())


def test_another_experiment_is_beside_it():
    assert Remote("s3://lab/susc/toy").sibling("tiny") == Remote("s3://lab/susc/tiny")
