"""Fixtures: a toy model with its tokenizer and a toy corpus on disk, and the experiment that uses them."""

import shutil
import signal

import numpy as np
import pytest

import toys
from susc_pipeline.model import tiny

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SOFTWARE_GRAPHICS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WORDS = "if else for while return def class import self value index count token loss model layer head chain".split()

NEEDED = """name = "toy"
seed = 3
[model]
source = "{model}"
[corpus]
kind = "files"
path = "{corpus}"
[tokens]
context_length = 16
contexts_per_shard = 10
n_shards = 5
n_ground_truth_shards = 3
n_validation_shards = 1
[sampling]
step_size = 0.5
n_chains = 4
n_draws = 2
n_burn_in = 1
batch_size = 2
localization = 50.0
negative_control = {thorough}
[directions]
max_contexts = 64
n_probe_contexts = 8
[representation]
min_reliability = -1.0
layers = [1, 2, 3]
[aux]
hidden_multiplier = 2
max_epochs = 3
[knn]
n_neighbors = 10
[clustering]
tolerance = 1e-6
min_size = 5
main_body_fraction = 0.5
max_conductance = 0.9
[explorer]
compare_with = ["toy"]
max_map_points = 300
n_layout_epochs = 20
[leakage]
n_neighbors = 5
n_permutations = 5
"""
BESIDE = """[regime]
components = ["L0H1"]
n_betas = [5.0]
max_contexts = 64
[calibration]
enabled = true
step_sizes = [0.5, 50.0]
n_betas = [5.0]
localizations = [50.0]
components = ["L0H1"]
n_draws = 4
[[data_changes]]
name = "documents-0"
documents = "document-0[0-4]*"
[[data_changes]]
name = "first-cluster"
cluster = 0
[[data_changes]]
name = "one-text"
file = "{corpus}/document-000.txt"
[[observables]]
name = "population"
kind = "corpus"
documents = "*"
[[observables]]
name = "query"
kind = "text"
text = "if else for"
[[observables]]
name = "largest"
kind = "function"
text = "def class"
function = "largest.py"
[[observables]]
name = "pairs"
kind = "pairs"
file = "pairs.jsonl"
"""


def write_corpus(folder, n_documents=60):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(n_documents):
        lines = [" ".join(rng.choice(WORDS, size=8)) + "(" + rng.choice(WORDS) + "):" for _ in range(30)]
        (folder / f"document-{number:03d}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def toy_folders(tmp_path_factory):
    """Folders of a corpus and of a Hugging Face model with its tokenizer."""
    root = tmp_path_factory.mktemp("toy")
    corpus = write_corpus(root / "corpus")
    texts = [path.read_text() for path in sorted(corpus.iterdir())]
    tokenizer = tiny.train_tokenizer(texts, vocabulary_size=300)
    module = toys.toy_module(vocabulary=300, positions=32)
    module.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    return corpus, root / "model"


def write_toml(path, corpus, model, *, thorough=True):
    """TOML file of an experiment that runs in seconds, with the files that its observables name beside it.

    One that is not `thorough` leaves out what can be left out: control, regime, calibration, observables, data changes.
    """
    path.with_name("largest.py").write_text(
        "import torch\n\n\ndef largest(losses):\n    return torch.cat(losses).max()\n"
    )
    path.with_name("pairs.jsonl").write_text('{"prompt": "return ", "good": "self", "bad": "loss"}\n')
    needed = NEEDED.format(corpus=corpus, model=model, thorough=str(thorough).lower())
    path.write_text(needed + (BESIDE.format(corpus=corpus) if thorough else ""))
    return path


def hear_interrupts():
    """In a new process: ctrl-C ends it, also where the tests run in the background of a shell, which has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def browser():
    """One for all files: a second Playwright in a process cannot be started while the first runs."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.fail("chromium is not installed; make test-browser installs it")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_GRAPHICS)
        yield launched
        launched.close()
