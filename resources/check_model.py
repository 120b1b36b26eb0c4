"""`susc-pipeline check-model SOURCE`: is a model computed as transformers computes it, and what are its components?

The model of transformers that it is held against gets the sizes of config.json and the weights of the safetensors files; no code
of the folder, and no loader that would look for more, is run.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from resources import experiment as experiments
from resources import language_model
from resources import price_table as prices
from susc_pipeline import beginnings
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import checkpoint, components, decoder, decoder_weights, families, pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.description import Description
from susc_pipeline.model.pretrained import ModelSettings
from susc_pipeline.plan import Plan
from susc_pipeline.sampling import memory

MAX_DIFFERENCE = 1e-3  # nats; rounding in float32 gave 2.3e-4 on SmolLM2, of 30 layers
N_CONTEXTS = 4
RENAMED = {"embed_out.weight": "lm_head.weight"}  # as GPT-NeoX calls its unembedding in files
# What config.json may ask transformers to do beside computing: code of the folder, kernels, quantized layers.
LEFT_OUT = ("auto_map", "quantization_config", "attn_implementation", "_attn_implementation", "architectures")
TEXT = (
    "A susceptibility is how a token's loss responds when the weights of one component are shaken.\n\n"
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n"
)


class Found(NamedTuple):
    """What was measured of a model."""

    mean_loss: float
    """In nats, on the text."""
    difference: float
    """Largest difference of a token's loss from that by transformers, in nats."""
    seconds: float
    """Of our forward pass, a thousand tokens."""


def compare(folder: Path, model: Decoder, token_ids: Int[Tensor, "contexts positions"]) -> Found:
    """Losses of the contexts by our code and by transformers.

    Raises:
        ValueError: transformers cannot hold the weights.
    """
    started = time.perf_counter()
    ours = decoder.token_losses(model, token_ids)
    seconds = (time.perf_counter() - started) / ours.numel() * 1000
    theirs = losses_by_transformers(reference(folder, model.embedding.dtype), token_ids)
    return Found(float(ours.mean()), float((ours.cpu() - theirs).abs().max()), seconds)


def reference(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of transformers' own class, with the folder's weights.

    Raises:
        ValueError: transformers refuses config.json, or a weight of the class is in no file.
    """
    kept = {name: value for name, value in checkpoint.config(folder / "config.json").items() if name not in LEFT_OUT}
    try:
        config = AutoConfig.for_model(kept.pop("model_type"), **kept)
        module = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).eval()
    except Exception as error:  # the library checks with errors of many kinds
        raise ValueError(f"transformers refuses config.json of {folder} ({type(error).__name__}: {error})") from error
    family, description = checkpoint.described(folder)
    known, weights = families.readable(family, description), {}
    for path in checkpoint.weight_files(folder):
        with safe_open(path, framework="pt") as stored:
            for stored_name in sorted(stored.keys()):
                if (name := families.resolved(family, stored_name, known)) is not None:
                    weights[RENAMED.get(name, name)] = stored.get_tensor(stored_name).to(dtype)
    missing = module.load_state_dict(weights, strict=False).missing_keys
    module.tie_weights()
    tied = {*(module._tied_weights_keys or ()), *families.ends(family)} if config.tie_word_embeddings else set()
    if absent := sorted(set(missing) - tied):
        raise ValueError(f"transformers finds no {absent[0]} in {folder}, and {len(absent) - 1} more; fetch it again")
    return module


@torch.no_grad()
def losses_by_transformers(
    module: PreTrainedModel, token_ids: Int[Tensor, "contexts positions"]
) -> Float[Tensor, "contexts predicted"]:
    """Loss of each token but the first, in nats."""
    logits = module(input_ids=token_ids, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits.transpose(1, 2), token_ids[:, 1:], reduction="none")


def contexts(tokenizer: Any, text: str, model: Decoder, longest: int) -> Int[Tensor, "contexts positions"]:
    """The text's first tokens, as a few contexts of at most `longest`, begun as the tokenizer begins a text.

    Raises:
        ValueError: the text has fewer than two tokens.
    """
    ids, beginning = (
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
        pretrained.beginning(tokenizer),
    )
    if len(ids) < 2:
        raise ValueError(f"the text must have at least 2 tokens, got {len(ids)}; give a longer one")
    length = min(longest, model.max_positions, len(beginning) + len(ids))
    ids = beginnings.with_beginnings(np.asarray(ids, np.int64), beginning, length)
    n_contexts = min(N_CONTEXTS, len(ids) // length)
    return torch.as_tensor(ids[: n_contexts * length]).view(n_contexts, length)


def table(model: Decoder, chosen: list[Component], experiment: ExperimentConfig) -> list[str]:
    """A line for each kind of component: how many, weights of one, and the memory of its chains, in GiB."""
    counts = Counter(component.kind for component in chosen)
    length, device = (
        experiment.tokens.context_length,
        pretrained.torch_device(experiment.model.device).partition(":")[0],
    )
    lines = [f"  {'component':12} {'number':>6} {'weights of one':>15} {'GiB of its chains':>18}"]
    for kind, number in counts.items():
        first = next(component for component in chosen if component.kind == kind)
        size = components.n_parameters(model, first)
        needed = memory.needed_bytes(model, first, experiment.sampling, length, device=device) / 2**30
        lines.append(f"  {kind:12} {number:6} {size:15,} {needed:18.2f}")
    return lines


def report(source: str, revision: str, text: str, experiment: ExperimentConfig) -> tuple[str, bool]:
    """What is to be said of a model, and whether it is computed as transformers computes it.

    Raises:
        ValueError: the model cannot be loaded, or the text is too short.
    """
    settings = ModelSettings(source=source, revision=revision, dtype="float32", device="cpu")
    folder = language_model.locate(settings)
    model, tokenizer = language_model.load(folder, settings)
    shape, chosen = model.description, components.enumerate_components(model)
    ids, plan = contexts(tokenizer, text, model, experiment.tokens.context_length), Plan(model, chosen, experiment)
    found, rate = compare(folder, model, ids), prices.measured_rate(plan)
    kind = checkpoint.config(folder / "config.json")["model_type"]
    n_weights = sum(weight.numel() for weight in decoder_weights.named_weights(model).values())
    is_equal = found.difference <= MAX_DIFFERENCE
    lines = [
        f"family {kind}: {model.n_layers} layers of {shape.n_heads} heads on {shape.n_groups} keys and values, width "
        f"{model.hidden_size}, vocabulary {model.vocabulary_size:,}, ends {'tied' if shape.tied else 'apart'}",
        f"{n_weights:,} weights, {4 * n_weights / 2**30:.2f} GiB in float32; {len(chosen)} components:",
        *table(model, chosen, experiment),
        f"mean loss {found.mean_loss:.3f} nats; largest difference from transformers {found.difference:.1e} nats: "
        f"{'equal but for rounding' if is_equal else 'NOT the same model'}",
        f"over contexts of {ids.shape[1]} tokens{_begun(tokenizer)}{_unreached(shape, ids.shape[1])}",
        f"{found.seconds:.2f} s a thousand tokens, forward, on {torch.get_num_threads()} threads",
        f"all of them at the sizes of experiment {experiment.name}, at {rate / 1e12:.3g} TFLOP/s (measured here):",
        *prices.table(plan, rate),
    ]
    return "\n".join(lines), is_equal


def _begun(tokenizer: Any) -> str:
    beginning = pretrained.beginning(tokenizer)
    return f", begun with {' '.join(tokenizer.convert_ids_to_tokens(beginning))}" if beginning else ""


def _unreached(shape: Description, length: int) -> str:
    """What the comparison does not reach: sliding windows that are no shorter than its contexts."""
    windows = sorted({kind.window for kind in shape.attention if kind.window} - set(range(length)))
    named = ", ".join(map(str, windows))
    return (
        f"; sliding windows of {named} tokens were not reached: give a longer --text or context_length" if named else ""
    )


def check(source: str, revision: str, text: Path | None, experiment: str) -> int:
    """Print what `report` says; 0 where the model is computed as transformers computes it, 1 where it is not.

    Raises:
        ValueError: the model cannot be loaded, or the text is too short.
    """
    content = text.read_text(encoding="utf-8") if text else TEXT
    said, is_equal = report(source, revision, content, experiments.load(experiment))
    print(said)
    return 0 if is_equal else 1
