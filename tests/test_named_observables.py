"""Observables from the files that an experiment names: relative to its own file, and refused with the remedy."""

import dataclasses

import conftest
import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from resources import experiment as experiments
from resources import named_observables
from susc_pipeline.model import pretrained
from susc_pipeline.susceptibility.readouts import Observable


@pytest.fixture(scope="module")
def loaded(toy_folders):
    return pretrained.load(toy_folders[1])


@pytest.fixture
def folder(toy_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("SUSC_EXPERIMENT", str(conftest.write_toml(tmp_path / "toy.toml", *toy_folders)))
    return tmp_path


def readout(loaded, **settings):
    named = Observable("x", **settings)
    experiment = dataclasses.replace(experiments.load(), observables=(named,))
    return named_observables.readouts_of(loaded, experiment, None)[0]


def test_files_lie_beside_the_file_of_the_experiment_and_texts_are_cut_into_contexts(loaded, folder):
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("if else for while return " * 20)
    found = readout(loaded, kind="corpus", file="texts")
    assert found.is_sampled and found.parts[0].shape[1] == 16 and len(found.parts[0]) > 1
    assert found.weights[0].sum() == pytest.approx(1, rel=1e-5)
    assert readout(loaded, kind="function", file="texts", function="largest.py").function.__name__ == "largest"
    assert abs(readout(loaded, kind="pairs", file="pairs.jsonl").weights[0].sum()) < 10


def test_texts_and_prompts_begin_as_the_tokenizer_begins_a_text(loaded, folder):
    backend = Tokenizer.from_str(loaded.tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(single="<b> $A", special_tokens=[("<b>", 7)])
    begun = loaded._replace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend))
    (folder / "a.txt").write_text("if else for while return " * 20)
    for settings in ({"kind": "corpus", "file": "a.txt"}, {"kind": "pairs", "file": "pairs.jsonl"}):
        found, plain = readout(begun, **settings), readout(loaded, **settings)
        assert (found.parts[0][:, 0] == 7).all() and not (plain.parts[0][:, 0] == 7).any()
    np.testing.assert_array_equal(found.parts[0][:, 1:], plain.parts[0])
    assert found.weights[0].sum() == pytest.approx(plain.weights[0].sum(), abs=1e-5)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(x): return x\ndef g(x): return x", "has 2 functions; leave one"),
        ("import torch\nfrom torch import tensor", "has 0 functions"),
        ("def f(x:", "cannot be run \\(SyntaxError"),
        ("import no_such_package", "cannot be run \\(ModuleNotFoundError"),
    ],
)
def test_a_function_file_that_is_no_one_function_is_refused(loaded, folder, code, said):
    (folder / "f.py").write_text(code)
    with pytest.raises(ValueError, match=f"observable 'x': the function file .*f.py {said}"):
        readout(loaded, kind="function", text="if else", function="f.py")


def test_a_missing_function_file_is_refused(loaded, folder):
    with pytest.raises(ValueError, match="is no Python file; name a .py file"):
        readout(loaded, kind="function", text="if else", function="none.py")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("{", "is not a file of JSON lines"),
        ("", "has no pair"),
        ('{"prompt": "if ", "good": "a"}', "line 1 of .* must have texts under prompt, good and bad"),
        ('{"prompt": "if ", "good": "a", "bad": "a"}', "pair 1 of observable 'x' has the same answer twice"),
        ('["a"]', "line 1 of .* must have texts"),
    ],
)
def test_bad_files_of_pairs_are_refused(loaded, folder, lines, said):
    (folder / "bad.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=said):
        readout(loaded, kind="pairs", file="bad.jsonl")


def test_a_text_that_is_no_context_is_refused(loaded, folder):
    for text in ("i", "if else for while return def class import self value index"):
        with pytest.raises(ValueError, match="must have a text of 2 to 16 tokens"):
            readout(loaded, kind="text", text=text)
