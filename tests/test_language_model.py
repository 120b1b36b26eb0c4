"""Models from folders: what cannot be used is refused with the reason and the remedy; the embedded one is as stated."""

import json
import re
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from resources import language_model
from susc_pipeline import corpus
from susc_pipeline.model import components, pretrained, tiny
from susc_pipeline.model.pretrained import ModelSettings


@pytest.fixture
def folder(toy_folders, tmp_path):
    return shutil.copytree(toy_folders[1], tmp_path / "model")


def locate(folder):
    return language_model.locate(ModelSettings(source=str(folder)))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}; save model and tokenizer there"):
        locate(folder)


def test_pickled_weights_are_never_loaded(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no .safetensors file; convert the weights, pickled ones are never loaded"):
        locate(folder)


def test_another_architecture_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mixtral"}))
    with pytest.raises(ValueError, match="of a model_type among gemma2, .*, got 'mixtral'; choose another"):
        locate(folder)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    weights = load_file(folder / "model.safetensors")
    cut = {k: (v[:100].contiguous() if v.shape[0] == 300 else v) for k, v in weights.items()}
    save_file(cut, folder / "model.safetensors", metadata={"format": "pt"})
    for how in (language_model.load, language_model.outline):
        with pytest.raises(ValueError, match=r"300 tokens, but the model only 100; use the tokenizer that belongs"):
            how(folder, ModelSettings())


def test_an_added_token_without_a_row_is_read_as_any_text(folder):
    """Gemma 3 of texts: 262,144 rows, and an added token of images with that number."""
    plain = pretrained.load(folder, device="cpu").tokenizer
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<image_soft_token>"])
    assert tokenizer.token_to_id("<image_soft_token>") == 300
    tokenizer.save(str(folder / "tokenizer.json"))
    for how in (language_model.load, language_model.outline):
        found = how(folder, ModelSettings()).tokenizer
        for text in ("x <image_soft_token> y", "for x in y:"):
            assert found(text)["input_ids"] == plain(text)["input_ids"]


def test_the_beginning_is_what_the_tokenizer_puts_before_a_text(folder):
    assert pretrained.beginning(pretrained.load(folder, device="cpu").tokenizer) == ()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for template, expected in (("<b> $A", (7,)), ("<b> $A <e>", (7,)), ("$A <e>", ())):
        named = [("<b>", 7), ("<e>", 9)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
        tokenizer.save(str(folder / "tokenizer.json"))
        assert pretrained.beginning(pretrained.load(folder, device="cpu").tokenizer) == expected


def test_an_unknown_name_says_what_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ValueError, match="(?s)neither `embedded` nor a local folder.*correct the name or give a folder"
    ):
        language_model.locate(ModelSettings(source="nobody/nothing-at-all"))


def test_a_folder_written_anew_is_loaded_anew(folder):
    first = language_model.load(folder, ModelSettings()).model
    weights = load_file(folder / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").touch()
    second = language_model.load(folder, ModelSettings()).model
    assert torch.allclose(second.embedding, first.embedding + 1)


def test_an_outline_has_the_names_sizes_and_tokens_of_the_model_and_no_weights(folder):
    settings = ModelSettings(source=str(folder))
    whole, outline = (how(folder, settings) for how in (language_model.load, language_model.outline))
    assert outline.model.description == whole.model.description
    assert outline.model.embedding.device.type == "meta"
    assert [components.n_parameters(outline.model, c) for c in components.enumerate_components(outline.model)] == [
        components.n_parameters(whole.model, c) for c in components.enumerate_components(whole.model)
    ]
    assert outline.tokenizer.get_vocab() == whole.tokenizer.get_vocab()


def test_token_texts_of_half_a_character_are_shown_and_not_raised(folder):
    loaded = language_model.load(folder, ModelSettings())
    texts = pretrained.token_texts(loaded.tokenizer, loaded.model.vocabulary_size)
    assert len(texts) == 300 and "\N{REPLACEMENT CHARACTER}" not in "".join(texts)
    halves = [texts[token] for token in loaded.tokenizer("\u2019", add_special_tokens=False)["input_ids"]]
    assert "".join(halves).replace("⟩⟨", " ") == "⟨e2 80 99⟩"


def test_the_embedded_model_is_small_safe_and_carries_its_figures():
    files = list(pretrained.EMBEDDED.rglob("*"))
    assert sum(f.stat().st_size for f in files) < 8 * 2**20
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".pkl", ".py")]
    card = (pretrained.EMBEDDED / "README.md").read_text()
    assert "trigram" in card and re.search(r"\d\.\d{3}", card)


@pytest.mark.slow
def test_the_embedded_model_has_the_held_out_loss_that_its_card_states():
    tokenizer = AutoTokenizer.from_pretrained(pretrained.EMBEDDED, local_files_only=True)
    module = GPTNeoXForCausalLM.from_pretrained(pretrained.EMBEDDED, local_files_only=True).eval()
    documents = corpus.python_standard_library(Path(sysconfig.get_path("stdlib")))
    held_out = (d.text for d in documents if corpus.is_held_out(d.document_id))
    tokens = (np.asarray(tokenizer(text)["input_ids"], dtype=np.int64) for text in held_out)
    recipe = tiny.TinyRecipe()
    pieces = [
        tiny.document_losses(module, ids, context_length=recipe.context_length).numpy()
        for ids in tokens
        if len(ids) > 2
    ]
    losses = np.concatenate(pieces)
    stated = float(re.search(r"this model.*\| (\d\.\d+) \|", (pretrained.EMBEDDED / "README.md").read_text())[1])
    assert losses.mean() == pytest.approx(stated, abs=0.03)  # the standard library differs between patch releases


def sentencepiece(prepend, *, fallback):
    """A tokenizer with spaces as SentencePiece writes them, and bytes for what it does not know."""
    found = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback, fuse_unk=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    found.decoder = decoders.Sequence(steps) if fallback else decoders.Metaspace(prepend_scheme=prepend)
    of_bytes = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<unk>", *of_bytes])
    found.train_from_iterator(["red pear hill stone two"] * 20, trainer)
    return found


@pytest.mark.parametrize(("prepend", "first"), [("always", " "), ("never", "")])
@pytest.mark.parametrize("fallback", [False, True])
def test_token_texts_of_sentencepiece_keep_their_spaces_and_bytes(folder, prepend, first, fallback):
    sentencepiece(prepend, fallback=fallback).save(str(folder / "tokenizer.json"))
    loaded = pretrained.load(folder, device="cpu")
    texts = pretrained.token_texts(loaded.tokenizer, loaded.model.vocabulary_size)
    ids = loaded.tokenizer("red  pear\té", add_special_tokens=False)["input_ids"]
    shown = "\t⟨c3⟩⟨a9⟩" if fallback else "<unk>"
    assert "".join(texts[token] for token in ids) == f"{first}red  pear{shown}"


def test_what_training_left_in_a_tokenizer_changes_no_id(folder):
    path = folder / "tokenizer.json"
    plain = pretrained.load(folder, device="cpu").tokenizer
    content = json.loads(path.read_text())
    content["model"]["dropout"] = 0.5
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    content["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    path.write_text(json.dumps(content))
    text = "if x: return value, " * 5
    expected = plain(text, add_special_tokens=False)["input_ids"]
    found = pretrained.load(folder, device="cpu").tokenizer
    assert [found(text, add_special_tokens=False)["input_ids"] for _ in range(3)] == [expected] * 3
