"""Rise of the loss, reliability and r of the linear response against localization: how much noise is too much?

From the gradients at w* of a run, directions and gauss_newton anew at each localization, on a few contexts of the withheld shard.
Halves share nothing. r is the correlation over tokens of the linear response with sampled values, without the noise of either:
cov(a of one, b of the other) over the root of both cov(a, b) (Spearman 1904).

`python -m benchmarks.localization --experiment tiny --components L1H2 L2MLP unembed` writes benchmarks/results/localization.json.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks import stored
from resources import experiment as experiments
from resources.storage import Store
from susc_pipeline import seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, perturbation, pretrained
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import localization, token_draws
from susc_pipeline.susceptibility import control, direction_files, direction_task, estimators, linear_response
from susc_pipeline.susceptibility.direction_task import DirectionTask, Rest

RESULTS = Path(__file__).resolve().parent / "results" / "localization.json"
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
N_CONTEXTS, N_RISE_CONTEXTS, N_PAIRS = 8, 8, 4


def measure(
    experiment: ExperimentConfig, store: Store, model: Decoder, name: str, factor: float, shard: np.ndarray
) -> dict[str, float]:
    """One component at `factor` times the localization that the run had."""
    component, digest = components.by_name(model, name), direction_files.model_digest(model)
    place = stored.folder(store, "response_directions") / f"{name}{direction_files.SUFFIX}"
    known = direction_files.load(place, model, component, digest=digest, with_rest=True)
    settings = dataclasses.replace(
        experiment.sampling, localization=factor * known.localization, target_rise=0.0, n_draws=1
    )
    parts = [stored.population(store, role, settings.n_chains) for role in ("directions", "draws")]
    probe = np.concatenate([part[:2] for part in parts[1].parts])
    task = DirectionTask(model, "cpu", settings, experiment.directions, parts[0], probe, experiment.seed, [component])
    rest = Rest(known.at_rest.numpy(), np.zeros((0, 0), np.float32), 1)
    found, diagnostics = direction_task.finder(task)(component, rest)
    seed = seeds.sequence(experiment.seed, "localization", name)
    drawn = {"direction": found.directions, "slopes": False, "responses": True}
    traces = token_draws.sample(model, component, settings, shard, parts[1], seed, **drawn)
    by_chain = estimators.by_chain(traces, kind="gauss_newton")
    sampled = np.stack([by_chain[::2].mean(axis=0), by_chain[1::2].mean(axis=0)])
    means = torch.stack([found.directions[rank::2].mean(dim=0) for rank in (0, 1)])
    response = linear_response.estimate(model, shard, {component: found._replace(directions=means)})
    agreed = control.agreement(sampled, np.stack([response.half_a[:, 0], response.half_b[:, 0]]))
    ids = torch.as_tensor(probe[:N_RISE_CONTEXTS].astype(np.int64))
    noise = torch.randn(N_PAIRS, found.directions.shape[1], generator=torch.Generator().manual_seed(0))
    inputs = perturbation.prepare_tokens(model, component, ids)
    return {
        "localization": settings.localization,
        "rise": localization.rise(model, component, inputs, noise / settings.localization**0.5),
        "reliability_of_sampled": agreed.reliability,
        "reliability_of_linear_response": agreed.other_reliability,
        "r": agreed.disattenuated,
        "r_as_measured": agreed.correlation,
        "contexts": diagnostics.n_contexts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    parser.add_argument("--components", nargs="+", default=["L1H2", "L2MLP", "unembed"])
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS, help="times the run's localization")
    options = parser.parse_args()
    experiment = experiments.load(options.experiment)
    store = experiments.store(experiment)
    model = pretrained.load(store.path("language_model"), device="cpu").model
    validation = experiment.tokens.n_ground_truth_shards - 1
    shard = stored.contexts(store, f"shard-{validation:05d}")[:N_CONTEXTS]
    rows = []
    for name in options.components:
        for factor in options.factors:
            rows.append({"component": name, **measure(experiment, store, model, name, factor, shard)})
            print(" ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()), flush=True)
    content = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(content | {experiment.name: rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
