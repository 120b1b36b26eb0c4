"""How right the susceptibilities are, and what that costs: the bars of the population loss, with their tables.

`make bench-truth` reads the store of `make run` and writes benchmarks/results/truth.json, part by part:

- reliability: the run's own table; its halves share no chain, no context and no draw (Spearman-Brown).
- covariance: second_order beside the plain covariance on fixed contexts, worst component (covariance.py).
- estimators: gauss_newton beside second_order, of every component (estimators.py).
- upsampling: linear response, pairs of draws and the auxiliary model beside sampled values (upsampling.py, and the table).
- time: to reliability 0.9, beside devinterp (reliable_time.py; installed by `make .venv/.peer`).
- rate: linear response of the embedded model, operations by the formula of price.py, and share of the matrix peak.

Its last lines are the figures. `gpu_hours` is arithmetic: operations of Pythia-1.4B over an assumed 400 TFLOP/s.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from transformers import GPTNeoXForCausalLM

from benchmarks import covariance, estimators, reliable_time, scale, stored, upsampling
from resources import experiment as experiments
from resources import tables
from resources.storage import Store
from susc_pipeline import price, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, pretrained, tangents
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.plan import Plan
from susc_pipeline.representation import pca
from susc_pipeline.susceptibility import reliability as reliabilities

RESULTS = Path(__file__).resolve().parent / "results" / "truth.json"
N_TIMED, N_HALVES = 4, 2
COVARIANCE_CONTEXTS = 8


class Run(NamedTuple):
    """A finished run."""

    experiment: ExperimentConfig
    store: Store
    model: Decoder

    @property
    def withheld(self) -> str:
        """Shard that no fit has seen."""
        return tokens.validation_keys(self.experiment.tokens)[0]


def reliability(run: Run, options: argparse.Namespace) -> dict:
    """Of every component of the ground truth, with its interval over chains."""
    table = tables.scan(run.store.table("reliability")).filter(pl.col("kind") == "component").collect()
    print(table.select("name", "half_correlation", "reliability", "low", "high"))
    return {"components": table.drop("kind").to_dicts()}


def against_covariance(run: Run, options: argparse.Namespace) -> dict:
    """second_order and the covariance, on the same eight contexts of the population."""
    fixed = stored.population(run.store, "draws", 1).parts[0]
    shard = stored.contexts(run.store, run.withheld)[:COVARIANCE_CONTEXTS]
    return {"rows": covariance.measure(run.model, fixed, shard, n_draws=options.draws)}


def against_second_order(run: Run, options: argparse.Namespace) -> dict:
    """gauss_newton and second_order of every component, from the same draws."""
    shard = stored.contexts(run.store, run.withheld)
    return {"rows": estimators.measure(run.store, run.experiment, run.model, shard)}


def given_tokens(run: Run, options: argparse.Namespace) -> dict:
    """Correlations of linear response, of pairs of draws and of the auxiliary model on the withheld shard."""
    table = tables.scan(run.store.table("aux_correlation")).collect()
    print(table)
    basis, training = pca.load(run.store.path("pca_basis")), tokens.training_keys(run.experiment.tokens)
    found = upsampling.measure(run.store, run.experiment, run.model, basis, training, run.withheld)
    return found | {"aux_correlation": table.to_dicts()}


def to_reliability(run: Run, options: argparse.Namespace) -> dict:
    """Seconds until the reliability is 0.9, of ours and of the reference library."""
    module = GPTNeoXForCausalLM.from_pretrained(run.store.path("language_model"), local_files_only=True).eval()
    n_chains = run.experiment.sampling.n_chains
    parts = tuple(stored.population(run.store, role, n_chains, limit=options.limit) for role in ("directions", "draws"))
    shard = stored.contexts(run.store, run.withheld)
    return {"rows": reliable_time.measure(module, run.model, run.experiment, parts, shard)}


def rate(run: Run, options: argparse.Namespace) -> dict:
    """Seconds of linear response, its operations by formula, and both as a share of the machine's matrix peak."""
    ids = torch.as_tensor(stored.contexts(run.store, run.withheld)[:N_TIMED].astype(np.int64))
    found = components.enumerate_components(run.model)
    along = {c: 1e-3 * torch.randn(N_HALVES, components.n_parameters(run.model, c)) for c in found}
    seconds = _median_seconds(lambda: tangents.slopes_at_rest(run.model, ids, along))
    a = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / _median_seconds(lambda: a @ a)
    operations = ids.numel() * price.linear_response(Plan(run.model, found, run.experiment))
    print(
        f"linear response: {seconds / ids.numel() * 1e6:.0f} us a token of {N_HALVES} halves and {len(found)} components,"
    )
    print(
        f"{operations / ids.numel() / 1e6:.0f} million operations; {operations / seconds / peak:.0%} of the matrix peak"
    )
    return {
        "seconds_a_token": seconds / ids.numel(),
        "operations_a_token": operations / ids.numel(),
        "peak_operations_a_second": peak,
        "share_of_peak": operations / seconds / peak,
        "threads": torch.get_num_threads(),
    }


def _median_seconds(work: Callable[[], object], n_repeats: int = 5) -> float:
    times = []
    for _ in range(n_repeats + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


PARTS: dict[str, Callable[[Run, argparse.Namespace], dict]] = {
    "reliability": reliability,
    "estimators": against_second_order,
    "upsampling": given_tokens,
    "rate": rate,
    "time": to_reliability,
    "covariance": against_covariance,
}


def lines(content: dict) -> list[str]:
    """The figures of the parts that were measured."""
    found = []
    if part := content.get("reliability"):
        values = [row["reliability"] for row in part["components"]]
        found += [f"population_reliability={np.mean(values):.3f}", f"least_reliability={min(values):.3f}"]
        split = reliabilities.spearman_brown(
            np.array([row["half_correlation"] for row in part["components"]]), factor=2.0
        )
        found += [f"population_reliability_of_one_split={split.mean():.3f}, least {split.min():.3f}"]
    if part := content.get("covariance"):
        used = [row[row["used"]] for row in part["rows"]]
        for name, key in (("second_order_vs_covariance", "r"), ("second_order_scale", "scale")):
            worst = max((row[key] for row in used), key=lambda value: abs(value - 1))
            found.append(f"{name}={worst:.3f}")
    if part := content.get("estimators"):
        for name in ("r", "scale"):
            values = [row[name] for row in part["rows"]]
            worst = max(values, key=lambda value: abs(value - 1))
            found.append(f"gauss_newton_{name}={np.median(values):.3f}, worst {worst:.3f}")
    if part := content.get("upsampling"):
        table = part["aux_correlation"]
        pairs = {row["pairs"]: row["mean_by_pc"] for row in part["rows"]}  # of a chain: its draws
        found.append(f"linear_response_r={np.mean([row['linear_response_r'] for row in table]):.3f}")
        found.append(f"pairs2_r={pairs[2]:.3f}")
        found.append(f"auxiliary_r={np.mean([row['r'] for row in table]):.3f}")
    if part := content.get("time"):
        found.append(f"reliability_speedup={reliable_time.median(part['rows']):.0f}")
    hours = scale.hours(sum(scale.response_operations(scale.plans()["1.4B"]).values()), scale.ASSUMED_TERAFLOPS)
    return [*found, f"gpu_hours={hours:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS), help="only these, keeping the others")
    parser.add_argument("--draws", type=int, default=40, help="of a chain and of its image, beside the covariance")
    parser.add_argument("--limit", type=int, help="contexts of a chain's part of the population, beside devinterp")
    options = parser.parse_args()
    experiment = experiments.load(options.experiment)
    store = experiments.store(experiment)
    pl.Config.set_tbl_rows(-1).set_tbl_cols(-1)
    run = Run(experiment, store, pretrained.load(store.path("language_model")).model)
    content = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in options.part:
        started = time.perf_counter()
        content[name] = PARTS[name](run, options)
        content[name]["seconds"] = round(time.perf_counter() - started, 1)
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(scale.response_table())
    print("\n".join(lines(content)))


if __name__ == "__main__":
    main()
