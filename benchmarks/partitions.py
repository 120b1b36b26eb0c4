"""Ten thousand token shards: seconds to load the definitions, and until Dagster's pages show them, in Chromium.

A toy experiment in a store and an instance of its own, half of the shards of one asset materialized. Prints the seconds of
each of three visits by a browser that has the UI's scripts cached; `--pictures` keeps what was seen. Then a backfill of all
shards is launched, as the dialog does it, and the seconds until the daemon has started the first run are taken.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import conftest

import toys
from susc_pipeline.model import tiny

CHECKOUT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LOAD = """
import time, dagster
started = time.perf_counter(), time.process_time()
from assets import definitions
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""
RECORD = """
import dagster as dg
from assets import partitions
keys = partitions.SHARDS.get_partition_keys()
with dg.DagsterInstance.get() as instance:
    for name in ("language_model", "corpus_documents"):  # or the UI asks first whether they may be missing
        instance.report_runless_asset_event(dg.AssetMaterialization(name))
    for key in keys[: len(keys) // 2]:
        instance.report_runless_asset_event(dg.AssetMaterialization("token_shards", partition=key))
"""
BACKFILL = """mutation($shards: [String!]) { launchPartitionBackfill(backfillParams: {
  assetSelection: [{path: ["token_shards"]}], partitionNames: $shards}) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
RUNS = "query { runsOrError { ... on Runs { count results { status } } } }"
CANCEL = "mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"
LOADED = "query { workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
ASSET = "/assets/token_shards?view=partitions"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="leave out the visits")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        few, many = (environment(root / str(n), n) for n in (5, options.shards))
        for n, env in ((5, few), (options.shards, many)):
            seconds = [[round(float(text), 2) for text in python(LOAD, env).split()] for _ in range(3)]
            row = {"load definitions, shards": n, "seconds": [s for s, _ in seconds]}
            print(json.dumps(row | {"processor_seconds": [s for _, s in seconds]}), flush=True)
        python(RECORD, many)
        port, process = serve(many)
        try:
            for row in visits(f"http://127.0.0.1:{port}", options) if options.browser else ():
                print(json.dumps(row), flush=True)
        finally:
            end(process)
        print(json.dumps(launch(many, options.shards)), flush=True)


def launch(env: dict[str, str], n_shards: int) -> dict[str, float]:
    """Seconds to launch a backfill of all shards, until its first run exists, and until that run is done."""
    port, process = serve(env, "dev")
    try:
        started = time.perf_counter()
        shards = [f"shard-{number:05d}" for number in range(n_shards)]
        backfill = ask(port, BACKFILL, shards=shards)["launchPartitionBackfill"]["backfillId"]
        seconds = {"backfill accepted": time.perf_counter() - started}
        for what, statuses in (("first run made", ()), ("first run done", ("SUCCESS", "FAILURE"))):
            while not _has_run(port, statuses):
                time.sleep(0.5)
            seconds[what] = time.perf_counter() - started
        ask(port, CANCEL, id=backfill)
    finally:
        end(process)
    return {"shards": n_shards} | {what: round(value, 2) for what, value in seconds.items()}


def _has_run(port: int, statuses: tuple[str, ...]) -> bool:
    runs = ask(port, RUNS)["runsOrError"]["results"]
    return any(not statuses or run["status"] in statuses for run in runs)


def ask(port: int, query: str, **variables: object) -> dict:
    """Answer of Dagster's GraphQL server."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)["data"]


def end(process: subprocess.Popen) -> None:
    """End a server and what it started."""
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def environment(root: Path, n_shards: int, n_documents: int = 60) -> dict[str, str]:
    """A toy experiment of so many shards, a tenth of them ground truth, and the environment that names it."""
    (root / "dagster").mkdir(parents=True)
    shutil.copy(CHECKOUT / "deploy" / "dagster.yaml", root / "dagster")
    corpus = conftest.write_corpus(root / "corpus", n_documents)
    tiny.train_tokenizer([path.read_text() for path in corpus.iterdir()], vocabulary_size=300).save_pretrained(
        root / "model"
    )
    toys.toy_module(vocabulary=300, positions=32).save_pretrained(root / "model")
    toml = conftest.write_toml(root / "toy.toml", corpus, root / "model")
    text = toml.read_text().replace("n_shards = 5", f"n_shards = {n_shards}")
    toml.write_text(text.replace("n_ground_truth_shards = 3", f"n_ground_truth_shards = {max(3, n_shards // 10)}"))
    names = {"SUSC_EXPERIMENT": toml, "SUSC_STORE": root / "data", "DAGSTER_HOME": root / "dagster"}
    return os.environ | {"PYTHONPATH": str(CHECKOUT)} | {name: str(value) for name, value in names.items()}


def python(code: str, env: dict[str, str]) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=CHECKOUT, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def serve(env: dict[str, str], *daemon: str) -> tuple[int, subprocess.Popen[bytes]]:
    """The port of a web server that has loaded the definitions, and its process; with `dev`, of a daemon too."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    program = [str(BIN / "dagster"), *daemon] if daemon else [str(BIN / "dagster-webserver")]
    command = [*program, "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps({"query": LOADED}).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(240):
        time.sleep(0.5)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                if b"RepositoryLocation" in response.read():
                    return port, process
        except OSError:  # it does not listen yet
            continue
    os.killpg(process.pid, signal.SIGTERM)
    raise SystemExit("dagster-webserver did not load the definitions within two minutes")


def visits(address: str, options: argparse.Namespace):
    """Seconds until the page of a partitioned asset shows its shards, and then until the dialog that launches them does."""
    from playwright.sync_api import sync_playwright

    count = f"{options.shards:,}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        for number in range(4):  # the first fills the browser's cache
            page = context.new_page()
            started = time.perf_counter()
            page.goto(address + ASSET)
            page.wait_for_selector("text=shard-00000", timeout=60_000)
            shown = time.perf_counter()
            picture(page, options, f"asset-{number}")
            clicked = time.perf_counter()
            page.click("button:has-text('Materialize')")
            page.wait_for_selector("text=Partition selection", timeout=60_000)
            opened = time.perf_counter()
            page.click('text="All"')
            page.wait_for_selector(f"text=/({count}|{options.shards}) partitions/", timeout=60_000)
            chosen = time.perf_counter()
            picture(page, options, f"dialog-{number}")
            seconds = {"asset page": round(shown - started, 2), "launch dialog": round(opened - clicked, 2)}
            seconds["all chosen in it"] = round(chosen - opened, 2)
            yield {"visit": "first" if number == 0 else number, **seconds}
            page.close()
        browser.close()


def picture(page, options: argparse.Namespace, name: str) -> None:
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1500)
        page.screenshot(path=options.pictures / f"{name}.png")


if __name__ == "__main__":
    main()
