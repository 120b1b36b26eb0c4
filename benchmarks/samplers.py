"""Samplers side by side: what a gradient step and a second buy, and what it costs in bias.

`make bench-samplers` runs, for each component, each (n_beta, localization) and each sampler and step size, chains of
equal numbers of draws, and prints a table; JSON goes to benchmarks/results/samplers.json. What chains find does not depend
on what else the machine does; seconds do: `--times` measures those anew.

A step size is given as h = the share of the way back to w* that the pull alone goes in one step, so that the samplers
compare: step_size h for exponential, 2h/localization for SGLD, a tenth of that for RMSprop, whose preconditioner at rest
is 1/0.1. A draw is taken every ceil(1/h) steps after ceil(3/h) of burn-in.

Columns: the effective share of the draws for the observable and for token losses (median over tokens); E, the error
variance over tokens of one draw's worth of the plain covariance, as the two halves of the chains say; the cost E x (steps x
seconds of a step + seconds of an evaluation), beside that of the exponential sampler with h = 1, to which the time to any
given reliability is proportional (Spearman-Brown: benchmarks/sampling.py); and as the sign of bias the mean rise of the
observable beside that of the reference, five times as many draws of the exponential sampler with h = 1 and minibatches twice
as large. The columns themselves cannot show a bias: at these prices the plain covariance is nearly all noise. Steps are
divided where the curvature asks for it, as everywhere (stability.py): `splits` says into how many.
"""

import argparse
import json
import math
import statistics
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import standard_library
import torch

from susc_pipeline import corpus, seeds
from susc_pipeline.config import SamplingSettings, TokenSettings
from susc_pipeline.model import components, perturbation, pretrained, tiny
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.sampling import chains, diagnostics, stability
from susc_pipeline.sampling.chains import SamplingContexts
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility import estimators

RESULTS = Path(__file__).parent / "results" / "samplers.json"
MILD, STRONG = (30.0, 300.0), (300.0, 300.0)  # n_beta, localization
CANDIDATES = (
    ("sgld", 0.2),
    ("sgld", 0.5),
    ("rmsprop_sgld_paper", 0.2),
    ("rmsprop_sgld_paper", 0.5),
    ("rmsprop_sgld_devinterp", 0.2),
    ("rmsprop_sgld_devinterp", 0.5),
    ("exponential", 0.25),
    ("exponential", 1.0),
    ("exponential", 2.0),
)
BASELINE = ("exponential", 1.0)
TOKENS = TokenSettings(contexts_per_shard=8, n_observable_contexts=4)
COMMON = SamplingSettings(n_chains=8, n_draws=16, batch_size=4, slopes=False)
REFERENCE = ("exponential", 1.0)
N_REFERENCE_DRAWS = 80


@dataclass(frozen=True)
class Subject:
    """A model and the contexts that are measured."""

    name: str
    model: GPTNeoX
    contexts: SamplingContexts
    cells: tuple[tuple[str, tuple[float, float]], ...]
    """Components with n_beta and localization."""


def embedded() -> Subject:
    """The embedded model."""
    model, tokenizer = pretrained.load(pretrained.EMBEDDED)
    both = tuple((name, posterior) for name in ("L1H2", "L2MLP", "unembed") for posterior in (MILD, STRONG))
    return Subject(
        "embedded", model, standard_library.sampling_contexts(model, tokenizer, TOKENS), (("embed", MILD), *both)
    )


def six_layers() -> Subject:
    """Pythia-14M's layers (6 x 4 heads, width 128) with the embedded vocabulary, trained for a few minutes."""
    recipe = tiny.TinyRecipe(n_layers=6, n_steps=300, n_warmup_steps=50)
    tokenizer = pretrained.load(pretrained.EMBEDDED).tokenizer
    texts = [document.text for document in corpus.python_standard_library(Path(sysconfig.get_path("stdlib")))]
    module = tiny.build_model(recipe)
    tiny.train(module, tiny.token_stream(texts, tokenizer), recipe)
    model = GPTNeoX.from_module(module.eval().requires_grad_(False))
    return Subject(
        "six layers",
        model,
        standard_library.sampling_contexts(model, tokenizer, TOKENS),
        tuple((name, MILD) for name in ("L3H1", "L4MLP", "unembed")),
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {"embedded": embedded, "six-layers": six_layers}


def settings_of(sampler: str, h: float, n_beta: float, localization: float) -> SamplingSettings:
    """Settings whose pull alone goes the share h of the way back in a step."""
    scale = {"exponential": 1.0, "sgld": 2 / localization}.get(sampler, 0.2 / localization)
    return replace(
        COMMON,
        sampler=sampler,
        step_size=h * scale,
        n_beta=n_beta,
        localization=localization,
        n_burn_in=math.ceil(3 / h),
        n_steps_between_draws=math.ceil(1 / h),
    )


def seconds_of(subject: Subject, component: Component) -> tuple[float, float]:
    """Medians of one gradient step and one evaluation, of all chains together, divided by the chains."""
    model, contexts = subject.model, subject.contexts
    pool = perturbation.prepare(model, component, contexts.minibatch_tokens, contexts.minibatch_stream)
    measured = perturbation.prepare(model, component, contexts.tokens, contexts.stream)
    delta = torch.zeros(COMMON.n_chains, components.n_parameters(model, component), device=model.device)
    rows = torch.arange(COMMON.n_chains * COMMON.batch_size).view(COMMON.n_chains, -1) % len(pool.token_ids)
    steps, evaluations = [], []
    for _ in range(5):
        started = time.perf_counter()
        perturbation.gradients(model, component, pool.take(rows), delta)
        between = time.perf_counter()
        with torch.no_grad():
            perturbation.losses(model, component, measured, delta)
        steps.append(between - started)
        evaluations.append(time.perf_counter() - between)
    return statistics.median(steps) / COMMON.n_chains, statistics.median(evaluations) / COMMON.n_chains


def rise(traces: LossTraces) -> float:
    """Mean loss of the observable set above that at w*."""
    return float(traces.mean_loss.mean() - traces.init_loss)


def measure(traces: LossTraces, reference: LossTraces) -> dict[str, float]:
    """What the traces of a candidate say beside the reference's."""
    a, b = estimators.halves(traces, kind="restricted")
    by_chain = (COMMON.n_chains, -1)
    sampled = traces.token_losses[:, :: max(1, traces.token_losses.shape[1] // 64)].astype(np.float64)
    shares = [diagnostics.effective_sample_size(loss.reshape(by_chain)) / len(loss) for loss in sampled.T]
    observable = traces.mean_loss.reshape(by_chain)
    return {
        "effective_share_of_observable": diagnostics.effective_sample_size(observable) / observable.size,
        "effective_share_of_token_losses": statistics.median(shares),
        "error_variance_of_a_draw": float(len(traces.mean_loss) * (a - b).var() / 4),
        "half_correlation": float(np.corrcoef(a, b)[0, 1]),
        "rise_beside_reference": rise(traces) / rise(reference),
    }


def cells(subject: Subject, name: str, posterior: tuple[float, float]) -> list[dict]:
    """Every candidate on one component of one posterior."""
    component = components.by_name(subject.model, name)
    curvature = _curvature(subject, component)
    exact = replace(settings_of(*REFERENCE, *posterior), n_draws=N_REFERENCE_DRAWS, batch_size=8)
    known = {"model": subject.name, "component": name, "n_beta": posterior[0], "localization": posterior[1]}
    known |= {"curvature": curvature}
    try:
        reference = _sample(subject, component, exact)
    except (stability.UnstableStepError, chains.ChainDivergedError) as error:
        return [known | {"sampler": "reference", "h": REFERENCE[1], "refused": str(error)}]
    rows = []
    for sampler, h in CANDIDATES:
        candidate = settings_of(sampler, h, *posterior)
        row = known | {"sampler": sampler, "h": h, "steps_a_draw": candidate.n_steps_between_draws}
        try:
            row |= measure(_sample(subject, component, candidate), reference)
            split = stability.split_steps(curvature, component, candidate)
            row |= {"splits": split.n_steps_between_draws // candidate.n_steps_between_draws}
        except (stability.UnstableStepError, chains.ChainDivergedError) as error:
            row |= {"refused": f"{type(error).__name__}: {error}"}
        rows.append(row)
    return rows


def with_costs(subject: Subject, rows: list[dict]) -> list[dict]:
    """Rows of one component and posterior with the seconds of a step and of an evaluation as measured now, and the cost."""
    step, evaluation = seconds_of(subject, components.by_name(subject.model, rows[0]["component"]))
    timed = []
    for row in rows:
        row = row | {"seconds_of_a_step": step, "seconds_of_an_evaluation": evaluation}
        if "splits" in row:
            a_draw = step * row["splits"] * row["steps_a_draw"] + evaluation
            row |= {"cost": row["error_variance_of_a_draw"] * a_draw}
        timed.append(row)
    base = next((row.get("cost") for row in timed if (row["sampler"], row["h"]) == BASELINE), None)
    return [row | ({"cost_beside_baseline": row["cost"] / base} if base and "cost" in row else {}) for row in timed]


def _curvature(subject: Subject, component: Component) -> float:
    observable = chains.observable_inputs(subject.model, component, subject.contexts)
    return stability.largest_curvature(subject.model, component, observable)


def _sample(subject: Subject, component: Component, settings: SamplingSettings) -> LossTraces:
    seed = seeds.sequence(0, component.name, settings.sampler, f"{settings.step_size:g}", str(settings.n_draws))
    return chains.sample(subject.model, component, settings, subject.contexts, seed)


def main() -> None:
    """The table of one model or of all, added to what the file holds of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SUBJECTS, action="append")
    parser.add_argument("--times", action="store_true", help="of what is stored, only the seconds and costs anew")
    options = parser.parse_args()
    for key in options.model or SUBJECTS:
        subject = SUBJECTS[key]()
        for name, posterior in subject.cells:
            rows = stored(subject, name, posterior) if options.times else cells(subject, name, posterior)
            if not rows:
                continue
            rows = with_costs(subject, rows)
            _store(rows)
            for row in rows:
                print(
                    json.dumps({k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in row.items()}),
                    flush=True,
                )
    print(summary(json.loads(RESULTS.read_text())))


def stored(subject: Subject, name: str, posterior: tuple[float, float]) -> list[dict]:
    """What the file holds of one component and posterior."""
    return [row for row in _all_stored() if _cell(row) == (subject.name, name, *posterior)]


def _all_stored() -> list[dict]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else []


def _cell(row: dict) -> tuple[str, str, float, float]:
    return (row["model"], row["component"], row["n_beta"], row["localization"])


def _store(rows: list[dict]) -> None:
    kept = [row for row in _all_stored() if _cell(row) != _cell(rows[0])]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept + rows, indent=1) + "\n")


def summary(rows: list[dict]) -> pl.DataFrame:
    """Medians over components of each sampler, step size and posterior."""
    columns = ("effective_share_of_observable", "effective_share_of_token_losses", "rise_beside_reference")
    columns += ("cost_beside_baseline",)
    return (
        pl.DataFrame([{"refused": None} | row for row in rows], infer_schema_length=None)
        .group_by("model", "n_beta", "localization", "sampler", "h", maintain_order=True)
        .agg(*(pl.col(column).median().round(2) for column in columns), refused=pl.col("refused").is_not_null().sum())
    )


if __name__ == "__main__":
    pl.Config.set_tbl_rows(-1)
    main()
