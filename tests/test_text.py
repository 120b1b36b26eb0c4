"""A text's susceptibilities in one call: the README's example runs, and rows mean what they say."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from susc_pipeline import seeds, text
from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import components, pretrained
from susc_pipeline.sampling import chains
from susc_pipeline.susceptibility import estimators

QUICK = SamplingSettings(n_chains=2, n_draws=2, n_burn_in=1, batch_size=2)
BACKGROUND = Path(text.__file__).read_text()
SUBJECT = Path(seeds.__file__).read_text()


@pytest.fixture(scope="module")
def loaded():
    return pretrained.load(pretrained.EMBEDDED)


def test_the_readme_example_runs(capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    block = re.search(r"## As a library.*?```python\n(.*?)```", readme, re.DOTALL)[1]
    assert len(block.strip().splitlines()) <= 10
    exec(block, {})  # the documented example itself, not a copy
    assert "susceptibility" in capsys.readouterr().out


def test_rows_are_those_of_the_estimator_at_the_tokens_they_name(loaded):
    found = text.susceptibilities(
        loaded, SUBJECT, background=BACKGROUND, component_names=["L1H2"], settings=QUICK, context_length=64
    )
    token_ids = np.asarray(loaded.tokenizer(SUBJECT, add_special_tokens=False)["input_ids"])
    assert "".join(found["token"].head(63)) == loaded.tokenizer.decode(token_ids[1:64])
    assert set(np.arange(len(token_ids) // 64 * 64)) - set(found["position"]) == set(range(0, len(token_ids) - 63, 64))
    whole = len(token_ids) // 64 * 64
    background = np.asarray(loaded.tokenizer(BACKGROUND, add_special_tokens=False)["input_ids"])
    rows = background[: len(background) // 64 * 64].reshape(-1, 64)
    n = len(rows) // 4
    contexts = chains.sampling_contexts(
        loaded.model, shard=token_ids[:whole].reshape(-1, 64), observable=rows[:n], minibatch=rows[n:]
    )
    component = components.by_name(loaded.model, "L1H2")
    traces = chains.sample(loaded.model, component, QUICK, contexts, seeds.sequence(0, "L1H2"))
    expected = estimators.first_order(traces)
    np.testing.assert_array_equal(found["susceptibility"], expected.value)
    np.testing.assert_array_equal(found["standard_error"], expected.standard_error)


def test_progress_wraps_the_components_and_a_short_text_is_one_context(loaded):
    seen = []

    def progress(found):
        for component in found:
            seen.append(component.name)
            yield component

    names = ["embed", "L0MLP"]
    found = text.susceptibilities(
        loaded, "import os\n", background=BACKGROUND, component_names=names, settings=QUICK, progress=progress
    )
    assert seen == names
    n_tokens = len(loaded.tokenizer("import os\n")["input_ids"])
    assert found.height == 2 * (n_tokens - 1)
    assert found.filter(pl.col("component") == "embed")["position"].to_list() == list(range(1, n_tokens))


@pytest.mark.parametrize(
    "subject, background, names, message",
    [
        ("", BACKGROUND, [], "the text must have at least 2 tokens.*got 0"),
        (SUBJECT, "too short", [], "must fill at least 4 contexts of 128 tokens, got 0; give a longer one"),
        (SUBJECT, BACKGROUND, ["L9H9"], "L9H9"),
        (SUBJECT, SUBJECT * 9, ["embed"], "no context of the shard"),
    ],
)
def test_wrong_input_is_named_with_its_remedy(loaded, subject, background, names, message):
    with pytest.raises(ValueError, match=message):
        text.susceptibilities(loaded, subject, background=background, component_names=names, settings=QUICK)
