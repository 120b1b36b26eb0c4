"""`susc-pipeline check-model`: a model is held against transformers, and what is wrong is said in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import variants
from assets import cli
from resources import check_model
from susc_pipeline.model import pretrained


def saved(folder, variant):
    """A model of a family with a tokenizer of as many words as it has entries."""
    variants.module(variant).save_pretrained(folder)
    words = {f"w{number}": number for number in range(variants.VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    text = folder / "text.txt"
    text.write_text(" ".join(f"w{(7 * number) % variants.VOCABULARY}" for number in range(200)))
    return text


@pytest.mark.parametrize("variant", ["gpt_neox", "gpt2", "llama, grouped, tied", "qwen3", "gemma2", "olmo2"])
def test_a_model_that_is_computed_as_transformers_computes_it_is_said_to_be_equal(tmp_path, capsys, variant):
    text = saved(tmp_path, variant)
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 0
    said = capsys.readouterr().out
    assert f"family {variant.split(',')[0]}: 2 layers" in said and "equal but for rounding" in said


def compiled(named):
    return {f"_orig_mod.{name}": tensor for name, tensor in named.items()}


def of_the_base_model(named):
    return {name.removeprefix("model."): tensor for name, tensor in named.items()}


def with_the_unembedding_alone(named):
    return {name.replace("model.embed_tokens", "lm_head"): tensor for name, tensor in named.items()}


@pytest.mark.parametrize("change", [compiled, of_the_base_model, with_the_unembedding_alone])
def test_names_that_the_loader_knows_are_known_to_the_comparison(tmp_path, capsys, change):
    text = saved(tmp_path, "llama, grouped, tied")
    save_file(change(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 0
    assert "equal but for rounding" in capsys.readouterr().out


def test_a_beginning_is_put_before_each_context_and_said(tmp_path, capsys):
    text = saved(tmp_path, "gemma2")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="w3 $A", special_tokens=[("w3", 3)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 0
    assert "over contexts of 32 tokens, begun with w3" in capsys.readouterr().out
    model, own = pretrained.load(tmp_path, device="cpu")
    found = check_model.contexts(own, text.read_text(), model, 16)
    assert found.shape == (4, 16) and set(found[:, 0].tolist()) == {3}


def test_a_window_that_the_comparison_does_not_reach_is_said(tmp_path, capsys):
    text = saved(tmp_path, "mistral, window")
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 0
    assert "not reached" not in capsys.readouterr().out
    text.write_text("w1 w2 w3")
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 0
    assert "contexts of 3 tokens; sliding windows of 3 tokens were not reached" in capsys.readouterr().out


def test_another_model_than_the_one_that_is_compared_is_not_equal(tmp_path, capsys, monkeypatch):
    text = saved(tmp_path, "llama")
    real = check_model.reference

    def other(folder, dtype):
        module = real(folder, dtype)
        with torch.no_grad():
            next(module.parameters()).add_(0.1)
        return module

    monkeypatch.setattr(check_model, "reference", other)
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 1
    assert "NOT the same model" in capsys.readouterr().out


def test_what_cannot_be_checked_is_said_in_one_sentence(tmp_path, capsys):
    text = saved(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "mixtral"}))
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 2
    assert "mixtral" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps(config))
    text.write_text("w1")
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 2
    assert "at least 2 tokens, got 1" in capsys.readouterr().err


def test_a_weight_that_is_missing_is_named(tmp_path, capsys):
    text = saved(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 2
    assert "lacks 1 weights" in capsys.readouterr().err


def test_config_names_no_code_that_is_run(tmp_path, capsys):
    text = saved(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    hostile = {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "quantization_config": {"quant_method": "evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config | hostile))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    assert cli.main(["check-model", str(tmp_path), "--text", str(text)]) == 0
