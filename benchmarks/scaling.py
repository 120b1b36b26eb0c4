"""Time and peak memory of sampling against tokens, draws, components and layers, each doubled while the others rest.

`make bench-scaling` runs each cell in a process of its own, three times (`--repeats`), interleaved, and prints medians; the
memory is what the sampling adds to a process that has imported everything and holds the model. JSON goes to
benchmarks/results/scaling.json.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from susc_pipeline import seeds
from susc_pipeline.model import components, families, tiny
from susc_pipeline.sampling import token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings

RESULTS = Path(__file__).parent / "results" / "scaling.json"
AT_REST = {"tokens": 2048, "draws": 32, "components": 2, "layers": 4}
DOUBLED = {"tokens": (2048, 4096, 8192), "draws": (32, 64, 128), "components": (2, 4, 8), "layers": (4, 8, 16)}
N_CHAINS, POSITIONS = 4, 128


def sample(tokens: int, draws: int, n_components: int, layers: int) -> tuple[float, float]:
    """Seconds, and MiB added to the process, of sampling the first heads of a model of random weights."""
    model = families.from_module(tiny.build_model(tiny.TinyRecipe(n_layers=layers)).requires_grad_(False))
    ids = np.random.default_rng(0).integers(0, model.vocabulary_size, size=(tokens // POSITIONS + 40, POSITIONS))
    found = [c for c in components.enumerate_components(model) if c.kind == "head"][:n_components]
    settings = SamplingSettings(n_chains=N_CHAINS, n_draws=draws // N_CHAINS, n_beta=0.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    population = Population(tuple(ids[:40].reshape(N_CHAINS, -1, POSITIONS)))
    for component in found:
        token_draws.sample(model, component, settings, ids[40:], population, seeds.sequence(0, component.name))
    return time.perf_counter() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """All cells, or one of them where its numbers are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cell", type=int, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(sample(*options.cell)))
        return
    cells = [AT_REST | {axis: value} for axis, values in DOUBLED.items() for value in values]
    found: list[list[tuple[float, float]]] = [[] for _ in cells]
    for _ in range(options.repeats):
        for cell, results in zip(cells, found, strict=True):
            command = [sys.executable, __file__, "--cell", *map(str, cell.values())]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    rows = [
        cell
        | {"seconds": statistics.median(r[0] for r in results), "mebibytes": statistics.median(r[1] for r in results)}
        for cell, results in zip(cells, found, strict=True)
    ]
    for axis, values in DOUBLED.items():
        part = [row for row in rows if all(row[other] == AT_REST[other] for other in AT_REST if other != axis)]
        part = [next(row for row in part if row[axis] == value) for value in values]
        exponents = {
            name: math.log(part[-1][name] / part[0][name]) / math.log(values[-1] / values[0])
            for name in ("seconds", "mebibytes")
        }
        line = " | ".join(f"{row[axis]}: {row['seconds']:.1f} s, {row['mebibytes']:.0f} MiB" for row in part)
        print(f"{axis:10s} {line} | exponents {exponents['seconds']:.2f}, {exponents['mebibytes']:.2f}", flush=True)
    content = {"threads": torch.get_num_threads(), "repeats": options.repeats, "cells": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
