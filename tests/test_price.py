"""Prices: operations by counting those that torch does, stated prices of the presets, and what is refused."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import public_models
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import toys
import variants
from assets import cli
from resources import experiment as experiments
from resources import experiment_files
from resources import price_table as reports
from susc_pipeline import plan as plans
from susc_pipeline import price, seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import checkpoint, components, decoder, families, operations, perturbation
from susc_pipeline.sampling import token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import direction_task, directions
from susc_pipeline.susceptibility.direction_task import DirectionTask, Rest
from susc_pipeline.susceptibility.directions import DirectionSettings
from susc_pipeline.susceptibility.readouts import Observable
from susc_pipeline.tokens import ROLE_WEIGHTS, TokenSettings

LEAST_COUNTED = 0.75  # by torch, which counts no attention on a CPU; and the last token of a context has no loss
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


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["embed", "unembed", "head", "key_value", "mlp"])
def test_operations_below_a_component_are_those_that_torch_does(variant, kind):
    model = families.from_module(variants.module(variant))
    found = [c for c in components.enumerate_components(model) if c.kind == kind and c.layer < 2]
    if not found:
        pytest.skip("the family has no such component")
    component = found[-1]
    ids = torch.randint(0, variants.VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        perturbation.prepare_tokens(model, component, ids)
    passed = {"embed": 0, "unembed": model.n_layers, "mlp": component.layer + 1}.get(kind, component.layer + 1)
    own = {"head": 1, "key_value": model.description.n_queries}.get(kind, 0)
    attended = 2 * model.head_size * 16 * (own + passed * model.n_heads)
    assert counted.get_total_flops() / ids.numel() == pytest.approx(operations.below(model, component, 16) - attended)


@pytest.mark.parametrize("names", [["L1MLP"], ["L0H1", "L1H0"], ["embed", "L0H0", "L0H1", "L0MLP", "unembed"]])
def test_operations_of_gradients_at_the_trained_weights_are_those_that_torch_does(names):
    model = families.from_module(toys.toy_module())
    chosen = [components.by_name(model, name) for name in names]
    contexts = toys.toy_tokens(24).astype(np.int32)
    with FlopCounterMode(display=False) as counted:
        directions.at_rest(model, Population((contexts,)), 0, chosen=chosen)
    bound = -(-len(contexts) * sum(ROLE_WEIGHTS.values()) // ROLE_WEIGHTS["directions"])
    tokens = TokenSettings(context_length=contexts.shape[1], max_population_contexts=bound)
    plan = plans.Plan(model, chosen, ExperimentConfig(name="x", tokens=tokens))
    assert plan.rest_contexts == len(contexts)
    assert LEAST_COUNTED < counted.get_total_flops() / price.at_rest(plan) < 1.05


@pytest.mark.parametrize("name", ["L1MLP", "L0H1", "embed"])
def test_operations_of_the_draws_of_a_component_are_those_that_torch_does(name):
    model = families.from_module(toys.toy_module())
    component = components.by_name(model, name)
    shard, contexts = toys.toy_tokens(6).astype(np.int32), toys.toy_tokens(24).astype(np.int32)
    settings = SamplingSettings(n_chains=4, n_draws=2)
    direction = 1e-3 * torch.randn(4, components.n_parameters(model, component))
    options = {"direction": direction, "slopes": False, "responses": True, "largest": 1.0}
    with FlopCounterMode(display=False) as counted:
        draws = Population((contexts,) * 4)
        token_draws.sample(model, component, settings, shard, draws, seeds.sequence(0), **options)
    tokens = TokenSettings(context_length=contexts.shape[1], contexts_per_shard=len(shard))
    plan = plans.Plan(model, [component], ExperimentConfig(name="x", tokens=tokens, sampling=settings))
    assert LEAST_COUNTED < counted.get_total_flops() / sum(price.sampling_operations(plan)) < 1.05


@pytest.mark.parametrize("name", ["L1MLP", "L0H1", "embed"])
def test_operations_of_a_component_s_directions_are_those_that_torch_does(name):
    model = families.from_module(toys.toy_module())
    component = components.by_name(model, name)
    contexts = toys.toy_tokens(24).astype(np.int32)
    settings = SamplingSettings(n_chains=4, n_beta=1.0, localization=300.0, target_rise=0.01, batch_size=2)
    wanted = DirectionSettings(reliability=0.999999, max_contexts=128, n_probe_contexts=8)
    task = DirectionTask(model, "cpu", settings, wanted, Population((contexts,) * 4), contexts[:8], 0, [component])
    # Without noise at w* the chains go on to the end of their budget.
    rest = Rest(np.zeros((4, components.n_parameters(model, component)), np.float32), np.zeros((0, 0)), 96)
    with FlopCounterMode(display=False) as counted:
        direction_task.finder(task)(component, rest)
    experiment = ExperimentConfig(
        name="x", tokens=TokenSettings(context_length=contexts.shape[1]), sampling=settings, directions=wanted
    )
    plan = plans.Plan(model, [component], experiment)
    assert LEAST_COUNTED < counted.get_total_flops() / (price.before_chains(plan) + price.by_chains(plan)) < 1.05


@pytest.mark.parametrize("name", public_models.MODELS)
def test_a_preset_states_its_price(name):
    text = (experiment_files.EXPERIMENTS / f"{name}.toml").read_text()
    experiment = experiments.load(name)
    model = checkpoint.shaped(public_models.MODELS[name], Path(name))
    plan = plans.Plan(model, components.chosen(model, experiment.model.components), experiment)
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
    shaped = checkpoint.shaped(variants.module("llama, grouped, tied").config.to_dict(), Path("here"))
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
        ("tokens", "context_length", 4096, r"tokens\.context_length must be at most 256, the positions .* got 4096"),
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
    assert "158 components" in said and "together" in said and "at 30 TFLOP/s (30% of the 100 given)" in said
    assert cli.main([*arguments, "--memory", "8"]) == 1
    assert "lower sampling.n_chains" in capsys.readouterr().err
    config.write_text('{"model_type": "mixtral"}')
    assert cli.main(arguments) == 2 and "mixtral" in capsys.readouterr().err
    config.write_text("<html>not found</html>")
    assert cli.main(arguments) == 2 and f"{config} is not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("variant", sorted(variants.VARIANTS))
def test_a_rate_is_measured_with_a_layer_of_the_model_of_which_only_sizes_are_known(variant, tiny, tmp_path):
    variants.module(variant).save_pretrained(tmp_path)
    plan = tiny._replace(model=checkpoint.outline(tmp_path))
    own = reports._layer(plan.model, "cpu", torch.float32)
    assert own.n_layers == 1 and own.device.type == "cpu"
    assert own.layers[0].query_key_value.shape == plan.model.layers[0].query_key_value.shape
    short = dataclasses.replace(plan.experiment, tokens=dataclasses.replace(plan.experiment.tokens, context_length=8))
    assert 0 < reports.measured_rate(plan._replace(experiment=short)) < 1e15


def test_a_population_without_bound_is_taken_for_a_stated_number(tiny):
    bounded = dataclasses.replace(tiny.experiment, tokens=TokenSettings(max_population_contexts=600))
    assert tiny._replace(experiment=bounded).rest_contexts == 500 and tiny.rest_contexts == plans.POPULATION


def test_observables_cost_the_chains_again_a_gradient_each_and_a_response_of_every_token(tiny):
    named = tuple(Observable(name=f"text-{number}", kind="text", text="for x in y:") for number in range(3))
    asked = tiny._replace(experiment=dataclasses.replace(tiny.experiment, observables=named))
    found, without = price.prices(asked), price.prices(tiny)
    assert set(found) - set(without) == {"observable_directions", "observable_responses"}
    assert {name: found[name] for name in without} == without
    assert found["observable_directions"].operations == 4 * price.by_chains(tiny)
    assert found["observable_responses"].operations == 3 * without["linear_response"].operations
