"""A text in one call: the README's example runs, numbers are the pipeline's own, and other texts change none of them."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from susc_pipeline import config, quickstart, seeds
from susc_pipeline.model import components, pretrained
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.sampling import token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import direction_files, directions, estimators, linear_response, regime
from susc_pipeline.susceptibility.direction_files import Diagnostics, StoredDirections
from susc_pipeline.susceptibility.directions import DirectionSettings

QUICK = SamplingSettings(n_chains=4, n_draws=1, n_burn_in=1, batch_size=1, n_reference_contexts=1, step_size=2.0)
DIRECTIONS = DirectionSettings(max_contexts=32, n_probe_contexts=2)
LENGTH = 32
BACKGROUND = Path(config.__file__).read_text()[:9000]
SUBJECT = Path(seeds.__file__).read_text()
NAMES = ["L1H2", "unembed"]


@pytest.fixture(scope="module")
def loaded():
    return pretrained.load(pretrained.EMBEDDED)


def measure(loaded, text=SUBJECT, **changes):
    options = {"background": BACKGROUND, "component_names": ["L2H1"], "settings": QUICK, "directions": DIRECTIONS}
    return quickstart.susceptibilities(loaded, text, **options | {"context_length": LENGTH} | changes)


def ids_of(loaded, text):
    return np.asarray(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def texts(loaded):
    """Two texts of whole contexts whose tokens are those of both together."""
    token_ids = ids_of(loaded, SUBJECT)
    for first in range(len(token_ids) - 3 * LENGTH):
        one, other = (loaded.tokenizer.decode(token_ids[first + a : first + b]) for a, b in ((0, 32), (32, 96)))
        if [*map(len, (ids_of(loaded, one), ids_of(loaded, other), ids_of(loaded, one + other)))] == [32, 64, 96]:
            return one, other
    raise AssertionError("the subject has no such texts")


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory):
    """Response directions of two components, from no chain."""
    made = tmp_path_factory.mktemp("directions")
    digest = direction_files.model_digest(loaded.model)
    trace = directions.Trace(np.zeros((8, 4), np.float32), np.zeros((8, 4), np.float32))
    slopes = np.zeros((4, 3), np.float32)
    diagnostics = Diagnostics(trace, slopes, slopes, 8, 8, 0.9, 9.0, 300.0, 1.0)
    for number, name in enumerate(NAMES):
        component = components.by_name(loaded.model, name)
        n_weights = components.n_parameters(loaded.model, component)
        along = 1e-3 * torch.randn(4, n_weights, generator=torch.Generator().manual_seed(number))
        found = StoredDirections(along, np.array([0.1, 0.2], np.float32), 300.0)
        path = made / f"{name}.safetensors"
        direction_files.save(path, loaded.model, component, found, diagnostics, digest=digest)
    return made


@pytest.mark.slow
def test_the_readme_example_runs(capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    block = re.search(r"## As a library.*?```python\n(.*?)```", readme, re.DOTALL)[1]
    assert len(block.strip().splitlines()) <= 10
    exec(block, {})  # the documented example itself, not a copy
    assert "susceptibility" in capsys.readouterr().out


def test_susceptibilities_are_those_of_the_pipelines_own_steps(loaded):
    found = measure(loaded)
    token_ids = ids_of(loaded, SUBJECT)
    whole = len(token_ids) // LENGTH * LENGTH
    assert "".join(found["token"].head(LENGTH - 1)) == loaded.tokenizer.decode(token_ids[1:LENGTH])
    assert set(range(whole)) - set(found["position"]) == set(range(0, whole, LENGTH))
    background = ids_of(loaded, BACKGROUND)
    rows = background[: len(background) // LENGTH * LENGTH].reshape(-1, LENGTH)
    n_each = len(rows) // 4
    rng = np.random.default_rng(seeds.sequence(0, "population"))
    own = [rng.permutation(rows[c * n_each : (c + 1) * n_each]) for c in range(4)]
    for_directions, for_draws = (
        Population(tuple(part[cut] for part in own)) for cut in (slice(n_each // 4, None), slice(n_each // 4))
    )
    component, model = components.by_name(loaded.model, "L2H1"), loaded.model
    rest = torch.stack([directions.at_rest(model, for_directions, chain).gradient["L2H1"] for chain in range(4)])
    probe = np.concatenate(for_draws.parts)[:: n_each // 4 * 4 // 2]
    slopes = directions.probe_slopes(model, probe, {component: rest / 300.0})[0]
    source = seeds.sequence(0, "response_directions", "L2H1")
    rise = directions.rise(model, component, QUICK, DIRECTIONS, for_directions, probe, slopes, source)
    (along,) = directions.divided(model, component, QUICK, DIRECTIONS, for_directions, rest + rise.gradient)
    shard, source = token_ids[:whole].reshape(-1, LENGTH), seeds.sequence(0, "sgld_samples", "L2H1")
    traces = token_draws.sample(
        model, component, QUICK, shard, for_draws, source, direction=along, slopes=False, responses=True
    )
    expected = estimators.estimate(traces, kind="gauss_newton")
    np.testing.assert_array_equal(found["susceptibility"], expected.value)
    np.testing.assert_array_equal(found["standard_error"], expected.standard_error)


def test_a_text_measured_with_another_has_the_same_susceptibilities(loaded, texts):
    together = measure(loaded, "".join(texts))
    apart = pl.concat([measure(loaded, text) for text in texts])
    for column in ("loss", "susceptibility", "standard_error"):
        scale = together[column].abs().max()
        np.testing.assert_allclose(together[column], apart[column], atol=1e-4 * scale)


@pytest.mark.slow
def test_the_order_of_components_changes_no_number_and_progress_sees_them(loaded):
    seen = []

    def progress(found):
        for component in found:
            seen.append(component.name)
            yield component

    names = ["L3MLP", "L3H0"]
    found = measure(loaded, "import os\n", component_names=names, progress=progress)
    assert seen == names
    other = measure(loaded, "import os\n", component_names=names[::-1])
    assert found.sort("component", "position").equals(other.sort("component", "position"))
    n_tokens = len(ids_of(loaded, "import os\n"))
    assert found.filter(component="L3MLP")["position"].to_list() == list(range(1, n_tokens))


def test_linear_responses_are_those_of_the_pipeline_by_forward_passes_alone(loaded, folder):
    found = quickstart.linear_response(loaded, SUBJECT, folder, context_length=LENGTH)
    chosen = [components.by_name(loaded.model, name) for name in NAMES]
    token_ids = ids_of(loaded, SUBJECT)
    contexts = token_ids[: len(token_ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
    expected = linear_response.estimate(
        loaded.model, contexts, direction_files.halves(folder, loaded.model, chosen), contexts_at_once=len(contexts)
    )
    for number, name in enumerate(NAMES):
        of_one = found.filter(component=name)
        np.testing.assert_allclose(of_one["linear_response"], expected.value[:, number], atol=1e-5)
        np.testing.assert_allclose((of_one["half_a"] + of_one["half_b"]) / 2, of_one["linear_response"], atol=1e-6)
        np.testing.assert_allclose(of_one["loss"], expected.losses, atol=1e-5)
    only = quickstart.linear_response(loaded, SUBJECT, folder, component_names=["unembed"], context_length=LENGTH)
    np.testing.assert_allclose(only["linear_response"], found.filter(component="unembed")["linear_response"], atol=1e-5)


def test_linear_responses_of_two_texts_are_those_of_each(loaded, folder, texts):
    def responses(text):
        return quickstart.linear_response(loaded, text, folder, component_names=["L1H2"], context_length=LENGTH)

    together, apart = responses("".join(texts)), pl.concat([responses(text) for text in texts])
    for column in ("loss", "linear_response", "half_a", "half_b"):
        np.testing.assert_allclose(together[column], apart[column], atol=1e-5)
    assert together["token"].equals(apart["token"])


def test_directions_of_another_model_are_refused(loaded, folder, tmp_path):
    other = LoadedModel(regime.rescaled(loaded.model, 0, 0, 2.0), loaded.tokenizer)  # the same function, other weights
    with pytest.raises(ValueError, match="holds directions of .* of model .*, not of L1H2 of model"):
        quickstart.linear_response(other, SUBJECT, folder)
    with pytest.raises(ValueError, match="L0H0.safetensors is missing or damaged"):
        quickstart.linear_response(loaded, SUBJECT, folder, component_names=["L0H0"])
    with pytest.raises(ValueError, match="no response directions, files such as embed.safetensors"):
        quickstart.linear_response(loaded, SUBJECT, tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"text": ""}, "the text must have at least 2 tokens.*got 0"),
        (
            {"background": "too short"},
            "at least 32 contexts of 32 tokens, 8 for each of 4 chains, got 0; give a longer",
        ),
        ({"component_names": ["L9H9"]}, "L9H9"),
        ({"background": BACKGROUND + SUBJECT}, "the background holds the text"),
    ],
)
def test_wrong_input_is_named_with_its_remedy(loaded, changes, message):
    with pytest.raises(ValueError, match=message):
        measure(loaded, **changes)
