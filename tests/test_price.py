"""Prices: operations by counting those that torch does, stated prices of the presets, and what is refused."""

import dataclasses
import json
import re
from pathlib import Path

import public_models
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import variants
from assets import cli
from resources import experiment as experiments
from resources import experiment_files
from resources import price_table as reports
from susc_pipeline import price
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, decoder, families, operations, perturbation
from susc_pipeline.susceptibility.readouts import Observable
from susc_pipeline.tokens import TokenSettings

VARIANTS = ("gpt_neox", "llama, grouped, tied", "gpt2", "qwen3")


@pytest.fixture(scope="module")
def tiny():
    return reports.plan_of(experiments.load("tiny"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_operations_of_a_forward_pass_are_those_that_torch_does(variant):
    model = families.from_module(variants.module(variant))
    ids = torch.randint(0, variants.VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        decoder.differentiable_losses(model, ids)
    # Torch counts no attention on a CPU, and the last token has no loss.
    attended = model.n_layers * 2 * model.n_heads * model.head_size * 16
    expected = operations.forward(model, 16) - attended - operations.unembedding(model) / 16
    assert counted.get_total_flops() / ids.numel() == pytest.approx(expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["embed", "head", "key_value", "mlp"])
def test_operations_above_a_component_are_those_that_torch_does(variant, kind):
    model = families.from_module(variants.module(variant))
    found = [c for c in components.enumerate_components(model) if c.kind == kind and c.layer < 1]
    if not found or (kind == "embed" and model.description.tied):
        pytest.skip("the family has no such component, or it moves both ends")
    ids = torch.randint(0, variants.VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(0))
    inputs = perturbation.prepare_tokens(model, found[0], ids)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        perturbation.losses(model, found[0], inputs, torch.zeros(1, components.n_parameters(model, found[0])))
    per_head = 2 * model.head_size * 16
    own = {"head": 1, "key_value": model.description.n_queries}.get(kind, 0)
    attended = per_head * (own + (model.n_layers - 1 - found[0].layer) * model.n_heads)
    expected = operations.above(model, found[0], 16) - attended - operations.unembedding(model) / 16
    assert counted.get_total_flops() / ids.numel() == pytest.approx(expected)


@pytest.mark.parametrize("name", public_models.MODELS)
def test_a_preset_states_its_price(name):
    text = (experiment_files.EXPERIMENTS / f"{name}.toml").read_text()
    experiment = experiments.load(name)
    model = price.shaped(public_models.MODELS[name], Path(name))
    plan = price.Plan(model, components.chosen(model, experiment.model.components), experiment)
    whole = price.total(price.prices(plan))
    stated = re.search(r"(\S+) operations .*, (\S+ \S+) of disk, (\S+ \S+) of memory", text)
    assert stated is not None
    assert stated.groups() == (f"{whole.operations:.1e}", reports.size(whole.disk), reports.size(whole.memory))
    defaults = ExperimentConfig(name="x")
    assert experiment.susceptibility == defaults.susceptibility
    assert experiment.sampling.sampler == defaults.sampling.sampler
    reports.refuse_what_cannot_fit(plan, 80e9)


def test_sizes_are_known_without_weights_and_equal_those_of_the_weights(tiny):
    real = families.from_module(variants.module("llama, grouped, tied"))
    shaped = price.shaped(variants.module("llama, grouped, tied").config.to_dict(), Path("here"))
    assert shaped.embedding.device.type == "meta" and shaped.description == real.description
    assert [components.n_parameters(shaped, c) for c in components.enumerate_components(shaped)] == [
        components.n_parameters(real, c) for c in components.enumerate_components(real)
    ]
    assert len(tiny.chosen) == 22 and tiny.n_tokens == 100_584


def test_twice_the_tokens_cost_twice_the_linear_response_and_no_more_directions(tiny):
    more = dataclasses.replace(tiny.experiment, tokens=dataclasses.replace(tiny.experiment.tokens, n_shards=44))
    one, two = price.prices(tiny), price.prices(tiny._replace(experiment=more))
    assert two["linear_response"].operations == 2 * one["linear_response"].operations
    assert two["linear_response"].memory == one["linear_response"].memory
    assert two["response_directions"] == one["response_directions"]


def test_what_cannot_fit_is_refused_with_the_asset_and_the_keys(tiny):
    with pytest.raises(ValueError, match=r"response_directions needs about .* GB .* lower sampling\.n_chains"):
        reports.refuse_what_cannot_fit(tiny, 1e9)
    reports.refuse_what_cannot_fit(tiny, 8e9)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("representation", "layers", (1, 9), r"representation\.layers must be numbers of at most 4, .* got \[1, 9\]"),
        ("representation", "n_components", 23, r"representation\.n_components must be at most 22, .* got 23"),
        ("knn", "n_neighbors", 100_584, r"knn\.n_neighbors must be less than the 100,584 tokens .* got 100584"),
        ("regime", "components", ("L9H9",), r"regime\.components must be components of the model, .* got \['L9H9'\]"),
    ],
)
def test_a_setting_that_a_late_asset_cannot_obey_is_refused_before_anything_is_made(tiny, section, key, value, said):
    changed = dataclasses.replace(getattr(tiny.experiment, section), **{key: value})
    with pytest.raises(ValueError, match=said):
        reports.refuse_what_cannot_fit(
            tiny._replace(experiment=dataclasses.replace(tiny.experiment, **{section: changed})), 1e12
        )


def test_a_component_of_a_calibration_that_is_off_is_not_asked_for(tiny):
    off = dataclasses.replace(tiny.experiment.calibration, enabled=False, components=("L9H9",))
    reports.refuse_what_cannot_fit(
        tiny._replace(experiment=dataclasses.replace(tiny.experiment, calibration=off)), 1e12
    )
    swept = dataclasses.replace(tiny.experiment, calibration=dataclasses.replace(off, enabled=True))
    with pytest.raises(ValueError, match=r"calibration\.components must be components of the model"):
        reports.refuse_what_cannot_fit(tiny._replace(experiment=swept), 1e12)


def test_the_command_prices_a_model_of_which_only_the_sizes_are_here(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(public_models.MODELS["pythia-160m"]))
    arguments = ["price", "pythia-160m", "--config", str(config), "--teraflops", "100"]
    assert cli.main([*arguments, "--memory", "80"]) == 0
    said = capsys.readouterr().out
    assert "158 components" in said and "together" in said and "100 TFLOP/s (given)" in said
    assert cli.main([*arguments, "--memory", "8"]) == 1
    assert "lower sampling.n_chains" in capsys.readouterr().err
    config.write_text('{"model_type": "mixtral"}')
    assert cli.main(arguments) == 2 and "mixtral" in capsys.readouterr().err


def test_a_population_without_bound_is_taken_for_a_stated_number(tiny):
    bounded = dataclasses.replace(tiny.experiment, tokens=TokenSettings(max_population_contexts=600))
    assert tiny._replace(experiment=bounded).rest_contexts == 500 and tiny.rest_contexts == price.POPULATION


def test_observables_cost_the_chains_again_a_gradient_each_and_a_response_of_every_token(tiny):
    named = tuple(Observable(name=f"text-{number}", kind="text", text="for x in y:") for number in range(3))
    asked = tiny._replace(experiment=dataclasses.replace(tiny.experiment, observables=named))
    found, without = price.prices(asked), price.prices(tiny)
    assert set(found) - set(without) == {"observable_directions", "observable_responses"}
    assert {name: found[name] for name in without} == without
    assert found["observable_directions"].operations == 4 * price.by_chains(tiny)
    assert found["observable_responses"].operations == 3 * without["linear_response"].operations
