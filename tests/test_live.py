"""A text of one's own, measured by the real server of a finished run: `susc-pipeline explore --live`."""

import http.client
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import conftest
import numpy as np
import polars as pl
import pytest

from assets import cli
from resources import experiment as experiments
from resources import serve
from susc_pipeline import schema
from susc_pipeline.explorer import payload
from susc_pipeline.model import pretrained

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).resolve().parent.parent
SHARDS = [f"shard-{number:05d}" for number in range(5)]
N_COMPONENTS, LENGTH = 11, 16


@pytest.fixture(scope="module")
def finished(toy_folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("live")
    toml = conftest.write_toml(root / "toy.toml", *toy_folders, thorough=False)
    environment = {"PYTHONPATH": str(CHECKOUT), "SUSC_STORE": str(root / "data"), "DAGSTER_HOME": str(root / "dagster")}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "assets.cli", "run", "--experiment", str(toml)]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return root, toml, environment


class Served:
    """A server of one's own; `asked` sends a text to it as its page does."""

    def __init__(self, finished, *arguments):
        root, toml, environment = finished
        command = [sys.executable, "-u", "-m", "assets.cli", "explore", "--experiment", str(toml), *arguments]
        self.log = root / "server.log"
        self.process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
        )
        self.said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", self.said)):
            line = self.process.stdout.readline()
            assert line, self.said + self.log.read_text()
            self.said += line
        self.port = int(found[1])

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(
            method, path, body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read().decode()
        connection.close()
        return found

    def post(self, body, **headers):
        own = {"Origin": f"http://127.0.0.1:{self.port}", "Content_Type": "application/json"}
        return self.request("POST", "/live", body, **{k: v for k, v in (own | headers).items() if v is not None})

    def asked(self, *texts):
        status, _, content = self.post(json.dumps({"texts": texts}))
        assert status == 200, content
        return [json.loads(line) for line in content.splitlines()]

    def end(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def live(finished):
    served = Served(finished, "--live")
    yield served
    served.end()


@pytest.fixture(scope="module")
def tables(finished):
    store = finished[0] / "data" / "toy"

    def read(name):
        return pl.concat([pl.read_parquet(store / name / f"{shard}.parquet") for shard in SHARDS])

    names = ("token_shards", "linear_response", "predicted_susceptibilities", "whitened_susceptibilities")
    return {name: read(name) for name in names} | {"members": pl.read_parquet(store / "cluster_members.parquet")}


def matrix(packed, width):
    return payload.unpacked(packed).reshape(-1, width)


def corpus_texts(tables, toy_folders, n_texts=6):
    """Contexts whose text has the same tokens again, with their number; a word that a context cuts may have others."""
    tokenizer = pretrained.load(toy_folders[1]).tokenizer
    found = []
    for number, ids in enumerate(tables["token_shards"]["token_ids"].to_list()):
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if tokenizer(text, add_special_tokens=False)["input_ids"] == ids:
            found.append((number, text))
    assert len(found) >= n_texts
    return found[:: len(found) // n_texts]


def test_a_text_that_is_a_context_of_the_corpus_has_what_the_run_stored_of_it(live, tables, toy_folders, finished):
    from susc_pipeline.representation import pca

    basis = pca.load(finished[0] / "data" / "toy" / "pca_basis")
    whitened, members = tables["whitened_susceptibilities"], tables["members"]
    vectors = schema.matrix(whitened["whitened"]).astype(np.float64)
    joined = whitened.join(members, on=["context_id", "position"], how="left", maintain_order="left")
    labels = joined["cluster"].fill_null(-1).to_numpy()
    present = np.unique(labels[labels >= 0])
    centres = np.stack([vectors[labels == cluster].mean(axis=0) for cluster in present])
    n_clustered = 0
    for number, text in corpus_texts(tables, toy_folders):
        (found,) = live.asked(text)[-1]["result"]["texts"]
        rows = slice(number * (LENGTH - 1), (number + 1) * (LENGTH - 1))
        stored = tables["linear_response"][rows]
        halves = [schema.matrix(stored[name]).astype(np.float64) for name in ("half_a", "half_b")]
        response = matrix(found["responses"]["value"], N_COMPONENTS) * basis.scale + basis.mean
        scale = np.abs(halves[0]).max()
        np.testing.assert_allclose(payload.unpacked(found["losses"]), stored["loss"], atol=1e-5)
        np.testing.assert_allclose(response, schema.matrix(stored["linear_response"]), atol=1e-5 * scale)
        half = matrix(found["responses"]["half_difference"], N_COMPONENTS) * basis.scale
        np.testing.assert_allclose(np.abs(half), np.abs(halves[0] - halves[1]) / 2, atol=1e-5 * scale)
        scores = schema.matrix(tables["predicted_susceptibilities"]["prediction"][rows])
        np.testing.assert_allclose(
            matrix(found["scores"]["value"], scores.shape[1]), scores, atol=1e-4 * np.abs(scores).max()
        )
        near = np.array(found["near"]["tokens"])
        own = np.arange(rows.start, rows.stop)
        distance = matrix(found["near"]["distances"], near.shape[1])
        assert np.all((near == own[:, None]).any(axis=1)) and np.all(distance[:, 0] < 1e-2)
        to_centres = np.linalg.norm(vectors[rows][:, None] - centres, axis=2)
        np.testing.assert_array_equal(np.array(found["clusters"]["numbers"])[:, 0], present[to_centres.argmin(axis=1)])
        n_clustered += np.sum(labels[rows] >= 0)
    assert n_clustered > 0  # else no cluster was compared


def test_a_long_text_is_measured_in_windows_as_the_library_measures_each(live, tables, toy_folders):
    (_, text), *_ = corpus_texts(tables, toy_folders)
    long = text * 4
    answers = live.asked(long)
    total = answers[0]["total"]
    assert [answer["done"] for answer in answers[:-1]] == list(range(1, total + 1)) and total > 2
    (found,) = answers[-1]["result"]["texts"]
    ids = found["tokens"]
    assert len(payload.unpacked(found["losses"])) == len(ids) - 1
    (first,) = live.asked(text)[-1]["result"]["texts"]
    assert ids[:LENGTH] == first["tokens"]
    np.testing.assert_allclose(
        payload.unpacked(found["losses"])[: LENGTH - 1], payload.unpacked(first["losses"]), atol=1e-5
    )
    # The last window stands at the end of the text and its second half is all that is new in it or the one before.
    tokenizer = pretrained.load(toy_folders[1]).tokenizer
    end = tokenizer.decode(ids[-LENGTH:], clean_up_tokenization_spaces=False)
    (last,) = live.asked(end)[-1]["result"]["texts"]
    if last["tokens"] == ids[-LENGTH:]:
        np.testing.assert_allclose(
            payload.unpacked(found["losses"])[-1], payload.unpacked(last["losses"])[-1], atol=1e-5
        )


def test_two_texts_are_measured_as_each_alone_and_paired_by_token(live):
    one, two = "if else for while return", "if else for while class"
    result = live.asked(one, two)[-1]["result"]
    for text, found in zip((one, two), result["texts"]):
        (alone,) = live.asked(text)[-1]["result"]["texts"]
        assert alone["tokens"] == found["tokens"]
        np.testing.assert_allclose(payload.unpacked(alone["losses"]), payload.unpacked(found["losses"]), atol=1e-5)
    lengths = [len(found["tokens"]) for found in result["texts"]]
    assert result["pairs"]["byPosition"] == (lengths[0] == lengths[1])
    longer = live.asked(one, one + "\nif")[-1]["result"]
    n_tokens = len(longer["texts"][0]["tokens"])
    assert longer["pairs"] == {"byPosition": False, "first": list(range(n_tokens)), "second": list(range(n_tokens))}


HOSTILE = [
    "<script>alert(1)</script>",
    "\u202eright to left\u202c",
    "😀👩‍👩‍👧",
    "nul \x00\x00 here",
    "\ufeff\r\n\u2028",
    "' or 1=1; --",
    "{{7*7}}",
    "\x1b[31m",
    "a" * 20_000,
    " " * 900,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_data_or_a_sentence(live, text):
    status, headers, content = live.post(json.dumps({"texts": [text]}))
    last = json.loads(content.splitlines()[-1])
    if status == 200:
        assert len(last["result"]["texts"][0]["tokens"]) >= 2 and headers["content-type"].startswith(
            "application/x-ndjson"
        )
    else:
        assert status == 400 and last["error"].startswith("A text must have 2 to 1,024 tokens")


@pytest.mark.parametrize(
    "body, status, sentence",
    [
        ('{"texts": ["\\ud83d"]}', 400, "half of a surrogate pair"),
        ('{"texts": [""]}', 400, "A text must have 2"),
        (json.dumps({"texts": ["x" * 30_000]}), 400, "may have 20,000 characters; this one has 30,000"),
        (json.dumps({"texts": ["x" * 1_000_000]}), 413, "more than 524,288 bytes"),
        ('{"texts": ["a", "b", "c"]}', 400, "one or two strings"),
        ('{"texts": []}', 400, "one or two strings"),
        ('{"texts": [1]}', 400, "one or two strings"),
        ('{"texts": "ab"}', 400, "one or two strings"),
        ("[]", 400, "one or two strings"),
        ("", 400, "one or two strings"),
        ("{", 400, "one or two strings"),
        ("[" * 100_000, 400, "one or two strings"),
        (b"\xff\xfe\x00", 400, "one or two strings"),
        ("9" * 5000, 400, "one or two strings"),
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_answered_by_a_sentence(live, body, status, sentence):
    found, headers, content = live.post(body)
    assert found == status and sentence in json.loads(content)["error"]
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Host": "evil.example"}, 400),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": None}, 415),
    ],
)
def test_no_page_of_another_origin_can_ask(live, headers, status):
    assert live.post('{"texts": ["if else"]}', **headers)[0] == status
    assert live.post('{"texts": ["if else"]}')[0] == 200


def test_files_are_for_pages_of_this_server_alone_and_never_stale(live):
    for path in ("/", "/index.html", "/app.js", "/data/site.js", "/live.js"):
        status, headers, _ = live.request("GET", path)
        assert status == 200, path
        assert headers["cross-origin-resource-policy"] == "same-origin" and headers["cache-control"] == "no-cache"
        assert live.request("GET", path, Host="evil.example")[0] == 400
    assert live.request("GET", "/../toy.toml")[0] == 404 and live.request("GET", "/%2e%2e/%2e%2e/toy.toml")[0] == 404
    assert live.request("GET", "/live")[0] in (404, 405)


def test_the_policy_differs_from_that_of_the_file_by_the_server_itself_alone(live, finished):
    page = (finished[0] / "data" / "toy" / "explorer" / "index.html").read_text()
    served = live.request("GET", "/")[2]
    assert "connect-src" not in page
    assert served.replace("connect-src 'self'; ", "", 1) == page


def test_the_server_says_nothing_of_a_text(live, finished):
    secret = "if else swordfish return"
    live.asked(secret)
    live.post(json.dumps({"texts": [secret, "\ud800"]}))
    live.post("swordfish")
    assert "swordfish" not in live.log.read_text() and live.log.read_text() == ""
    assert not list(Path(finished[0]).rglob("*swordfish*"))


def test_the_port_stays_and_a_taken_one_is_said(live, finished, capsys):
    page = experiments.Store(finished[0] / "data" / "toy").page()
    assert live.port == serve.PORTS.start + serve.zlib.crc32(os.fsencode(page.resolve())) % len(serve.PORTS)
    second = Served(finished)
    try:
        assert second.port == live.port + 1 and f"port {live.port} is taken" in second.said
        assert (
            second.request("POST", "/live")[0] in (404, 405)
            and "explorer.live = null" in second.request("GET", "/live.js")[2]
        )
    finally:
        second.end()
    with pytest.raises(ValueError, match=f"port {live.port} is taken; give another: --port {live.port + 1}"):
        serve.bound(live.port, page)


def test_what_cannot_be_served_is_said_with_the_remedy(finished, tmp_path, monkeypatch, capsys):
    _, toml, _ = finished
    monkeypatch.setenv("SUSC_STORE", str(tmp_path))
    assert cli.main(["explore", "--experiment", str(toml)]) == 1
    assert f"make run EXPERIMENT={toml} writes it" in capsys.readouterr().err
    assert cli.main(["explore", "--experiment", "nonesuch"]) == 2
    assert "unknown experiment 'nonesuch'; known are" in capsys.readouterr().err


def test_a_page_of_other_clusters_is_not_served_live(finished, tmp_path, monkeypatch, capsys):
    import shutil

    root, toml, _ = finished
    shutil.copytree(root / "data", tmp_path / "data")
    (tmp_path / "data" / "toy" / "cluster_members.manifest.json").unlink()
    monkeypatch.setenv("SUSC_STORE", str(tmp_path / "data"))
    assert cli.main(["explore", "--experiment", str(toml), "--live"]) == 1
    assert "not made of the clusters in the store; make run" in capsys.readouterr().err
