"""Command that trains the embedded default model and writes its folder: `python -m resources.train_tiny [folder]`."""

import platform
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch

from susc_pipeline import corpus
from susc_pipeline.model import ngram, tiny

EMBEDDED_MODEL = Path(tiny.__file__).parent / "embedded"

MODEL_CARD = """---
license: apache-2.0
library_name: transformers
---
# The embedded default model of susc-pipeline

A GPT-NeoX of {n_parameters:,} parameters ({n_layers} layers x {n_heads} heads, width {hidden_size}, parallel residual, rotary
positions, untied unembedding, byte-level BPE of {vocabulary_size} entries), trained by `susc_pipeline/model/tiny.py` on
the sources of the standard library of Python {python} ({n_training_documents} files, {n_training_tokens:,} tokens,
{n_steps} steps of {tokens_per_step:,} tokens, {minutes:.0f} minutes on {n_threads} CPU threads).
One file in ten, chosen by a hash of its path, was held out.

| on {n_held_out_documents} held-out files, {n_held_out_tokens:,} tokens | nats per token |
|---|---|
| this model, windows of {context_length} tokens | {model_loss:.4f} |
| interpolated Kneser-Ney trigram, same tokens, same split | {trigram_loss:.4f} |
| uniform | {uniform_loss:.4f} |

Retrain with `make tiny-model`.
"""


def main(folder: Path) -> None:
    """Train on the running interpreter's standard library, measure both models, write the folder and its card."""
    recipe = tiny.TinyRecipe()
    documents = list(corpus.python_standard_library(Path(sysconfig.get_path("stdlib"))))
    training = [d.text for d in documents if not corpus.is_held_out(d.document_id)]
    held_out = [d.text for d in documents if corpus.is_held_out(d.document_id)]
    tokenizer = tiny.train_tokenizer(training, vocabulary_size=recipe.vocabulary_size)
    stream = tiny.token_stream(training, tokenizer)
    print(f"{len(training)} training files, {len(stream):,} tokens; {len(held_out)} held out", flush=True)
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 50 == 0:
            rate = step / (time.monotonic() - started)
            left = (recipe.n_steps - step) / rate / 60
            print(f"step {step}/{recipe.n_steps}  loss {loss:.3f}  {rate:.2f} steps/s  {left:.0f} min left", flush=True)
        if step % 500 == 0:
            _write(model, tokenizer, folder)

    model = tiny.build_model(recipe)
    tiny.train(model, stream, recipe, progress=report)
    minutes = (time.monotonic() - started) / 60
    _write(model, tokenizer, folder)
    trigram = ngram.fit(stream, recipe.vocabulary_size)
    model_losses, trigram_losses = [], []
    for text in held_out:
        ids = np.asarray(tokenizer(text)["input_ids"], dtype=np.int64)
        if len(ids) > 2:
            model_losses.append(tiny.document_losses(model, ids, context_length=recipe.context_length).numpy())
            trigram_losses.append(trigram.losses(ids))
    counts = {"n_training_documents": len(training), "n_training_tokens": len(stream), "minutes": minutes}
    card = _card(recipe, model.num_parameters(), model_losses, trigram_losses, counts)
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


def _card(
    recipe: tiny.TinyRecipe,
    n_parameters: int,
    model_losses: list[np.ndarray],
    trigram_losses: list[np.ndarray],
    counts: dict[str, float],
) -> str:
    return MODEL_CARD.format(
        n_parameters=n_parameters,
        n_layers=recipe.n_layers,
        n_heads=recipe.n_heads,
        hidden_size=recipe.hidden_size,
        vocabulary_size=recipe.vocabulary_size,
        python=platform.python_version(),
        n_steps=recipe.n_steps,
        tokens_per_step=recipe.batch_size * recipe.context_length,
        n_threads=torch.get_num_threads(),
        n_held_out_documents=len(model_losses),
        n_held_out_tokens=sum(map(len, model_losses)),
        context_length=recipe.context_length,
        model_loss=np.concatenate(model_losses).mean(),
        trigram_loss=np.concatenate(trigram_losses).mean(),
        uniform_loss=np.log(recipe.vocabulary_size),
        **counts,
    )


def _write(model, tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else EMBEDDED_MODEL)
