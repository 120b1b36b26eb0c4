"""Model folders from strangers: a model, or a ValueError that names the file and the remedy; no code of theirs is run."""

import json
import pickle
import shutil
import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from hostile import mutated, obeys
from susc_pipeline import tokens
from susc_pipeline.corpus import Document
from susc_pipeline.model import decoder, decoder_weights, families, pretrained

ODD_NUMBERS = [0, -1, 1, 2**31, 10**12, 10**400, 1.5, 1e400, float("nan"), True, None, "", "16", [], {}]
JSON = st.recursive(
    st.sampled_from(ODD_NUMBERS) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CONFIG_KEYS = ["vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads"]
CONFIG_KEYS += ["num_hidden_layers", "use_parallel_residual", "attention_bias", "tie_word_embeddings", "model_type"]
CONFIG_KEYS += ["hidden_act", "layer_norm_eps", "rope_parameters", "rope_scaling", "rotary_pct", "rotary_emb_base"]


@pytest.fixture(scope="module")
def folder(toy_folders, tmp_path_factory):
    return shutil.copytree(toy_folders[1], tmp_path_factory.mktemp("hostile") / "model")


def read(folder, name, content):
    """What is loaded where one file of the folder has other bytes."""
    original = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(content)
        return obeys(lambda: pretrained.load(folder, device="cpu"), str(folder))
    finally:
        (folder / name).write_bytes(original)


def assert_usable(loaded):
    if loaded is not None:
        losses = decoder.token_losses(
            loaded.model, torch.zeros((1, min(4, loaded.model.max_positions)), dtype=torch.int64)
        )
        assert losses.shape[0] == 1
        assert (
            len(pretrained.token_texts(loaded.tokenizer, loaded.model.vocabulary_size)) == loaded.model.vocabulary_size
        )


@given(st.data(), st.sampled_from(["config.json", "model.safetensors", "tokenizer.json"]))
def test_damaged_files_are_read_or_refused(folder, data, name):
    content = data.draw(mutated((folder / name).read_bytes()))
    assert_usable(read(folder, name, content))


@given(st.sampled_from(["config.json", "model.safetensors", "tokenizer.json"]), st.binary(max_size=300))
@example("config.json", b"[" * 100_000)
@example("config.json", b"null")
@example("config.json", b'{"vocab_size": ' + b"9" * 5000 + b"}")
@example("config.json", b" " * (1 << 20) + b"{}")
@example("tokenizer.json", b"{" + b'"a": {' * 10_000)
@example("model.safetensors", struct.pack("<Q", 2**63))
@example("model.safetensors", struct.pack("<Q", 100_000_001) + b"{")
def test_files_of_other_kinds_are_refused(folder, name, content):
    assert read(folder, name, content) is None


@given(st.sampled_from(CONFIG_KEYS), JSON)
@example("num_hidden_layers", 10**9)
@example("vocab_size", 10**12)
@example("hidden_size", 10**400)
@example("num_attention_heads", 5)
@example("rope_parameters", {"rope_type": "default", "rope_theta": float("inf")})
@example("rope_parameters", {"rope_type": {"a": 1}})
@example("rope_parameters", [1])
@example("rotary_pct", 0.3)
def test_any_value_in_the_configuration_is_taken_or_refused_by_name(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    assert_usable(read(folder, "config.json", json.dumps({**config, key: value}, default=str).encode()))


@given(st.sampled_from(["vocab", "merges", "type", "unk_token"]), JSON)
@example("vocab", {"a": 2**32 - 1})
def test_any_value_in_the_tokenizer_is_taken_or_refused(folder, key, value):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"][key] = value
    loaded = read(folder, "tokenizer.json", json.dumps(content).encode())
    assert_usable(loaded)
    if loaded is not None:
        found = obeys(lambda: tokens.tokenize([Document("d", "if x: «é» 🙂 \0 <|endoftext|>")], loaded.tokenizer))
        assert not found or found[0].token_ids.max(initial=0) < loaded.model.vocabulary_size


@pytest.mark.parametrize("name", ["gpt_neox.layers.1.mlp.dense_4h_to_h.weight", "embed_out.weight"])
@pytest.mark.parametrize("change", ["missing", "infinite", "integers", "transposed", "in two files"])
def test_weights_that_are_missing_or_odd_are_refused_by_name(folder, tmp_path, name, change):
    """The library would fill in random ones for those that are missing, with a warning."""
    copied = shutil.copytree(folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    match change:
        case "missing":
            del weights[name]
        case "infinite":
            weights[name][0, 0] = torch.inf
        case "integers":
            weights[name] = weights[name].to(torch.int32)
        case "transposed":
            weights[name] = weights[name].T.contiguous()
        case "in two files":
            (copied / "model.safetensors").unlink()
            save_file({name: weights[name]}, copied / "model-00002-of-00002.safetensors")
    place = "model-00001-of-00002" if change == "in two files" else "model"
    save_file(weights, copied / f"{place}.safetensors")
    with pytest.raises(ValueError, match=name) as refusal:
        pretrained.load(copied)
    assert str(copied) in str(refusal.value)


def test_weights_and_tokens_are_those_that_the_library_reads(folder, tmp_path):
    """Also in several files, of which one holds tensors that older checkpoints have and nothing needs."""
    weights = load_file(folder / "model.safetensors")
    copied = shutil.copytree(folder, tmp_path / "model")
    (copied / "model.safetensors").unlink()
    halves = [dict(list(weights.items())[part::2]) for part in range(2)]
    halves[1]["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    for number, half in enumerate(halves):
        save_file(half, copied / f"model-{number + 1:05d}-of-00002.safetensors")
    module = GPTNeoXForCausalLM.from_pretrained(folder, local_files_only=True).requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    library = decoder_weights.named_weights(families.from_module(module))
    for place in (folder, copied):
        loaded = pretrained.load(place, device="cpu")
        ours = decoder_weights.named_weights(loaded.model)
        assert ours.keys() == library.keys() and all(torch.equal(ours[name], library[name]) for name in ours)
        text = "if x: «é» 🙂\n\0 <|endoftext|>"
        assert np.array_equal(*(t(text, add_special_tokens=False)["input_ids"] for t in (loaded.tokenizer, tokenizer)))


class Canary:
    """A pickle that leaves a file behind wherever it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_code_of_a_folder_is_run_and_no_file_outside_it_is_read(folder, tmp_path):
    trapped, canary = shutil.copytree(folder, tmp_path / "model"), tmp_path / "canary"
    (trapped / "trap.py").write_text(f"open({str(canary)!r}, 'w')\nclass Trap: pass\n")
    config = json.loads((trapped / "config.json").read_text())
    traps = {
        "auto_map": {
            "AutoConfig": "trap.Trap",
            "AutoModelForCausalLM": "trap.Trap",
            "AutoTokenizer": ["trap.Trap", None],
        },
        "_attn_implementation": "somebody/kernels",
        "attn_implementation": "somebody/kernels",
        "quantization_config": {"quant_method": "gptq", "bits": 4},
        "trust_remote_code": True,
        "_name_or_path": "https://user:sesame@example.org",
    }
    (trapped / "config.json").write_text(json.dumps({**config, **traps}))
    tokenizer_config = {"tokenizer_class": "Trap", **traps, "chat_template": "{{ ''.__class__ }}"}
    (trapped / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (trapped / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/etc"}))
    index = {"metadata": {}, "weight_map": {"embed_out.weight": "../../outside.safetensors"}}
    (trapped / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.pkl"):
        (trapped / name).write_bytes(pickle.dumps(Canary(canary)))
    loaded, plain = pretrained.load(trapped, device="cpu"), pretrained.load(folder, device="cpu")
    assert torch.equal(loaded.model.unembedding, plain.model.unembedding) and not canary.exists()
    pretrained.copy(trapped, tmp_path / "stored")
    assert {path.name for path in (tmp_path / "stored").iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
