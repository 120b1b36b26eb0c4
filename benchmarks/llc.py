"""Local learning coefficients of components, with errors: this project's default chains beside the published convention.

`make bench-llc` prints, for a component of each kind, n_beta (E[L] - L(w*)) on fresh population contexts at every draw from the
exponential sampler (step 2, localization 300) and from SGLD as published for refined LLCs (step 1e-3, localization 200,
batch 32, 4 chains of 200 draws, one step from draw to draw, no burn-in: Wang et al. 2024), n_beta 30 in both. A third line
has the default sampler at localization 200: what differs from the second is the sampler, from the first the posterior.
JSON goes to benchmarks/results/llc.json. The published convention takes minutes for a component, nearly all of the time.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import standard_library

from susc_pipeline import seeds
from susc_pipeline.model import components, pretrained
from susc_pipeline.sampling import diagnostics, token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.tokens import TokenSettings

RESULTS = Path(__file__).parent / "results" / "llc.json"
NAMES = ("embed", "L0H0", "L1H2", "L2MLP", "unembed")
OURS = SamplingSettings(step_size=2.0, n_steps_between_draws=1, n_burn_in=2, n_chains=8, n_draws=8)
PUBLISHED = SamplingSettings(
    sampler="sgld",
    step_size=1e-3,
    localization=200.0,
    batch_size=32,
    n_chains=4,
    n_draws=200,
    n_burn_in=0,
    n_steps_between_draws=1,
)
CONVENTIONS = {"default": OURS, "published": PUBLISHED, "default at 200": replace(OURS, localization=200.0)}


def main() -> None:
    """One line for each component and convention."""
    model, tokenizer = pretrained.load(pretrained.EMBEDDED)
    shard, population = standard_library.contexts(
        tokenizer, TokenSettings(contexts_per_shard=1), n_chains=OURS.n_chains
    )
    rows = []
    for name in NAMES:
        for convention, sampling in CONVENTIONS.items():
            started = time.perf_counter()
            traces = token_draws.sample(
                model,
                components.by_name(model, name),
                sampling,
                shard,
                Population(population.parts[: sampling.n_chains]),
                seeds.sequence(1, "llc", name),
            )
            trace = (traces.mean_loss - traces.rest_loss).reshape(sampling.n_chains, -1)
            found = diagnostics.local_learning_coefficient(trace, init_loss=0.0, n_beta=sampling.n_beta)
            row = {"component": name, "convention": convention, "llc": found.value, "error": found.standard_error}
            row |= {"r_hat": diagnostics.r_hat(trace), "seconds": time.perf_counter() - started}
            rows.append(row)
            print(
                "{component:8s} {convention:15s} LLC {llc:7.2f} +- {error:.2f} | R-hat {r_hat:.2f} | "
                "{seconds:5.1f} s".format(**row),
                flush=True,
            )
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
