"""An estimator, a sampler, an observable and a family of models are one new file each, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import conftest
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from susc_pipeline import registry
from susc_pipeline.sampling import samplers

CHECKOUT = Path(__file__).resolve().parent.parent
ESTIMATOR = """
from susc_pipeline.susceptibility.estimators import first_order
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility


def estimate(traces, all_weights=None):
    found = first_order.estimate(traces)
    return Susceptibility(2 * found.value, 2 * found.standard_error)


ESTIMATORS = {"twice_first_order": Estimator(estimate, needs_direction=True, needs_slopes=True)}
"""
SAMPLER = """
from susc_pipeline.sampling.samplers import exponential
from susc_pipeline.sampling.samplers.state import Sampler, State


def step(state, gradient, noise, *, step_size, n_beta, localization):
    return State(noise / localization**0.5, state.second_moment, state.n_steps + 1)


SAMPLERS = {"independent_prior": Sampler(exponential.init, step, exponential.largest_step)}
"""
FAMILY = """
import dataclasses

from susc_pipeline.model.families import gpt_neox

FAMILIES = {"toy_blocks": dataclasses.replace(gpt_neox.FAMILIES["gpt_neox"], layers="blocks")}
"""
OBSERVABLE = """
from susc_pipeline.sampling.observables import Population


class FixedContexts(Population):
    def fresh(self, first, n_contexts):
        return super().fresh(0, n_contexts)
"""
FILES = {
    "susceptibility/estimators/twice.py": ESTIMATOR,
    "sampling/samplers/independent.py": SAMPLER,
    "model/families/toy_blocks.py": FAMILY,
    "sampling/fixed_contexts.py": OBSERVABLE,
}
MADE = "language_model corpus_documents token_shards population_contexts response_directions sgld_samples".split()


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A checkout with the new files and no other change."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("susc_pipeline", "resources", "assets"):
        left_out = shutil.ignore_patterns("__pycache__", "static")
        shutil.copytree(CHECKOUT / package, root / package, ignore=left_out)
    shutil.copytree(CHECKOUT / "deploy", root / "deploy")
    for name, text in FILES.items():
        (root / "susc_pipeline" / name).write_text(text, encoding="utf-8")
    return root


def ran(root, *arguments):
    """What a Python process in the checkout prints."""
    environment = os.environ | {"PYTHONPATH": str(root), "DAGSTER_HOME": str(root / "home")}
    environment.pop("SUSC_STORE", None)
    found = subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def in_blocks(folder, place):
    """The same model under another model_type, with its layers under another name."""
    shutil.copytree(folder, place)
    content = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(content | {"model_type": "toy_blocks"}))
    tensors = load_file(place / "model.safetensors")
    renamed = {name.replace(".layers.", ".blocks."): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, place / "model.safetensors")
    return place


def susceptibilities(root, name, folders, estimator, sampler):
    """The susceptibilities of a run of the pipeline."""
    toml = root / f"{name}.toml"
    conftest.write_toml(toml, *folders)
    text = toml.read_text().replace('name = "toy"', f'name = "{name}"')
    text = text.replace("[sampling]", f'[susceptibility]\nestimator = "{estimator}"\n[sampling]\nsampler = "{sampler}"')
    toml.write_text(text, encoding="utf-8")
    ran(root, "-m", "assets.cli", "run", "--experiment", str(toml), "--select", *MADE, "ground_truth_susceptibilities")
    (found,) = {path.parent for path in root.glob(f"data/{name}/ground_truth_susceptibilities/*.parquet")}
    return pl.concat([pl.read_parquet(path) for path in sorted(found.glob("*.parquet"))])


@pytest.mark.slow
def test_a_new_estimator_sampler_and_family_go_through_the_pipeline(extended, tmp_path, toy_folders):
    corpus, model = toy_folders
    blocks = in_blocks(model, tmp_path / "model")
    new = susceptibilities(extended, "new", (corpus, blocks), "twice_first_order", "independent_prior")
    old = susceptibilities(extended, "old", (corpus, model), "first_order", "independent_prior")
    assert new.select("context_id", "position", "token_id").equals(old.select("context_id", "position", "token_id"))
    twice, once = (frame["susceptibility"].to_numpy() for frame in (new, old))
    assert abs(twice).max() > 0 and abs(twice - 2 * once).max() <= 1e-6 * abs(twice).max()


def test_a_new_observable_is_read_by_the_chains(extended):
    script = """
import numpy as np, torch
from susc_pipeline import seeds
from susc_pipeline.model import components, pretrained
from susc_pipeline.sampling import token_draws
from susc_pipeline.sampling.fixed_contexts import FixedContexts
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings

model = pretrained.load(pretrained.EMBEDDED).model
component = components.by_name(model, "L1H0")
settings = SamplingSettings(n_chains=4, n_draws=2, n_burn_in=1, batch_size=2, n_reference_contexts=1)
rng = np.random.default_rng(0)
parts, shard = rng.integers(0, 500, (4, 9, 8)), rng.integers(0, 500, (2, 8))
for kind in (FixedContexts, Population):
    run = lambda p: token_draws.sample(model, component, settings, shard, kind(tuple(p)), seeds.sequence(0, "x"))
    rest = run(parts).rest_loss.reshape(4, -1)  # loss at w* of the contexts of each draw, a chain a row
    print(int((np.ptp(rest, axis=1) < 1e-6).all()))
"""
    assert ran(extended, "-c", script).split() == ["1", "0"]


def test_two_files_of_one_name_are_refused(tmp_path, monkeypatch):
    (tmp_path / "again.py").write_text('SAMPLERS = {"sgld": None}\n')
    monkeypatch.setattr(samplers, "__path__", [*samplers.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="'sgld'"):
        registry.collected(samplers, "SAMPLERS")
