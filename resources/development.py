"""Command that measures how components develop: `python -m resources.development`, behind `make development`.

Three parts, each of which goes on where it was ended: the checkpoints of one training run (checkpoints.py), one experiment a
checkpoint with the same tokens and the same source of contexts and noise, and the join of all (development_join.py) into tables
and a page.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resources import checkpoints, development_join, files, language_model
from resources import experiment as experiments
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.development import identity
from susc_pipeline.development.identity import Identity
from susc_pipeline.model import pretrained
from susc_pipeline.susceptibility import direction_files

BASE = experiments.CHECKOUT / "benchmarks" / "development.toml"
FOLDER = experiments.CHECKOUT / "data" / "development"
MEASURED = ("token_shards", "response_directions", "linear_response")
AT_ONCE = 2  # experiments
NEEDED = ("language_model", "corpus_documents", "population_contexts", *MEASURED)


def check_base(base: Path) -> None:
    """Refuse a base by which each checkpoint would have noise of another size.

    Raises:
        ValueError: sampling.target_rise is above zero: an LLC would be n_beta times the rise that its localization was fitted to.
    """
    rise = ExperimentConfig.from_toml(base).sampling.target_rise
    if rise:
        raise ValueError(
            f"sampling.target_rise of {base.name} must be 0, got {rise:g}: it fits noise to each checkpoint, so LLCs would "
            f"measure the fit; set it to 0, and sampling.localization to one value for all checkpoints, such as one that a "
            f"calibration at the last checkpoint found"
        )


def expanded(base: Path, checkpoint_folders: Sequence[Path], destination: Path) -> list[Path]:
    """An experiment a checkpoint: the base file with another name and another model, and nothing else.

    The seed is the base's. So tokens are the same, and each chain draws contexts and noise in one order; it may stop at another
    length.
    """
    content = tomllib.loads(base.read_text(encoding="utf-8"))
    destination.mkdir(parents=True, exist_ok=True)
    written = []
    for folder in checkpoint_folders:
        own = {**content, "name": folder.name, "model": {**content.get("model", {}), "source": str(folder)}}
        path = destination / f"{folder.name}.toml"
        path.write_text(_toml(own), encoding="utf-8")
        ExperimentConfig.from_toml(path)
        written.append(path)
    return written


def _toml(content: dict) -> str:
    """Plain values first, then sections and lists of sections; a string, number or list of JSON is one of TOML."""
    plain, sections = [], []
    for key, value in content.items():
        if isinstance(value, dict):
            sections.append(f"\n[{key}]\n{_toml(value)}")
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            sections += [f"\n[[{key}]]\n{_toml(each)}" for each in value]
        else:
            plain.append(f"{key} = {json.dumps(value)}")
    return "\n".join([*plain, *sections]) + ("\n" if plain else "")


def revisions_of(base: Path, revisions: Sequence[str], destination: Path) -> list[Path]:
    """A folder for each revision of the base's model, named by the step that the revision names: links to what the hub has.

    Raises:
        ValueError: the base's model is a folder of this machine; a revision without a step in its name, two of one step, or one
            that the hub does not give.
    """
    settings = ExperimentConfig.from_toml(base).model
    if language_model.folder_of(settings).is_dir():
        raise ValueError(
            f"--revisions needs a model of a hub, but model.source of {base.name} is {settings.source!r}, a folder without "
            f"revisions; set model.source to a hub's name, or name folders by --checkpoints"
        )
    revision_of: dict[int, str] = {}
    for revision in revisions:
        named = re.search(r"step[-_]?(\d+)", revision)
        if named is None:
            raise ValueError(f"a revision must name its step, such as step512, got {revision!r}; name another")
        step = int(named[1])
        if step in revision_of:
            raise ValueError(
                f"revisions must name different steps, got {revision_of[step]!r} and {revision!r}; leave one out"
            )
        revision_of[step] = revision
    destination.mkdir(parents=True, exist_ok=True)
    found = []
    for step, revision in revision_of.items():
        place = destination / f"step-{step:06d}"
        snapshot = language_model.locate(dataclasses.replace(settings, revision=revision))
        place.unlink(missing_ok=True)
        place.symlink_to(snapshot.absolute(), target_is_directory=True)
        found.append(place)
    return found


def identity_of(folder: Path) -> Identity:
    """Digests of a checkpoint's weights and tokenizer, and its shape."""
    model = pretrained.load(folder, device="cpu").model
    shape = (
        f"{model.n_layers} layers, {model.n_heads} heads, width {model.hidden_size}, vocabulary {model.vocabulary_size}"
    )
    tokenizer = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    return Identity(folder.name, direction_files.model_digest(model), tokenizer, shape)


def measure(written: Sequence[Path], folder: Path) -> None:
    """Make the tables of the experiments below the folder: on a GPU one after another, on CPUs two at a time, of one thread each.

    Two at a time took four fifths of the time of one after another with two threads: small sums gain little from a second
    thread. Each has a history of Dagster of its own: one for all would let a single one compute.

    Raises:
        ValueError: a run failed; its log, which is named, says why.
    """
    is_on_cpus = pretrained.torch_device(ExperimentConfig.from_toml(written[0]).model.device) == "cpu"
    threads = {"OMP_NUM_THREADS": "1"} if is_on_cpus else {}
    pool = ThreadPoolExecutor(AT_ONCE if is_on_cpus else 1)
    try:
        for line in pool.map(lambda path: _measured(path, folder, threads), written):
            print(line, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # else Ctrl-C or a failure would begin the next ones


def _measured(experiment: Path, folder: Path, threads: Mapping[str, str]) -> str:
    started, log = time.monotonic(), folder / "logs" / f"{experiment.stem}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "assets.cli", "run", "--experiment", str(experiment), *NEEDED]
    home = folder / "dagster" / experiment.stem
    settings = {**os.environ, "SUSC_STORE": str(folder), "DAGSTER_HOME": str(home), **threads}
    with log.open("wb") as file:
        found = subprocess.run(command, cwd=experiments.CHECKOUT, env=settings, stdout=file, stderr=subprocess.STDOUT)
    if found.returncode:
        raise ValueError(
            f"{experiment.name} was not measured (exit code {found.returncode}): {log} says why; run make development again"
        )
    return f"{experiment.stem} measured in {time.monotonic() - started:.0f} s"


def _step_of(folder: Path) -> int:
    digits = folder.name.rpartition("-")[2]
    if not digits.isdecimal():
        raise ValueError(
            f"a checkpoint's folder must end in its step, such as step-000512, got {folder.name!r}; rename it"
        )
    return int(digits)


def in_order(folders: Sequence[Path]) -> list[Path]:
    """The checkpoints' folders by rising step.

    Raises:
        ValueError: a folder whose name does not end in a step, or two of one step.
    """
    steps = [_step_of(folder) for folder in folders]
    if len(set(steps)) < len(steps):
        raise ValueError(f"checkpoints must have different steps, got {sorted(steps)}; rename or leave out")
    return sorted(folders, key=_step_of)


def _reported(step: int, loss: float) -> None:
    if step % 64 == 0:
        print(f"step {step}/{checkpoints.RECIPE.n_steps}  loss {loss:.3f} nats", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure, join; the last lines are the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where everything is written")
    own = parser.add_mutually_exclusive_group()
    own.add_argument("--checkpoints", type=Path, nargs="+", help="folders of your own, named by step, such as step-512")
    own.add_argument(
        "--revisions", nargs="+", help="of the base's model on a hub, named by step, such as step512 step1000"
    )
    parser.add_argument("--base", type=Path, default=BASE, help="the experiment that every checkpoint is measured by")
    options = parser.parse_args(arguments)
    folder, seconds, started = options.folder.absolute(), {}, time.monotonic()

    def timed(part: str) -> None:
        nonlocal started
        seconds[part], started = time.monotonic() - started, time.monotonic()

    try:
        check_base(options.base)
        if options.revisions:
            kept = revisions_of(options.base, options.revisions, folder / "revisions")
        else:
            kept = options.checkpoints or checkpoints.train(folder / "checkpoints", progress=_reported)
        kept = in_order([one.absolute() for one in kept])
        timed("train")
        chosen = identity.distinct([identity_of(one) for one in kept])
        print(*chosen.sentences, sep="\n", end="\n" if chosen.sentences else "")
        written = expanded(options.base, [kept[number] for number in chosen.numbers], folder / "experiments")
        measure(written, folder)
        timed("measure")
        stores = {_step_of(path.with_suffix("")): path for path in written}
        summary = development_join.write(stores, folder, sentences=chosen.sentences)
        timed("join")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    summary["seconds"] = {part: round(value, 1) for part, value in seconds.items()}
    with files.replacing(folder / "development.json") as place:
        place.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print("\n".join(development_join.lines(summary)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
