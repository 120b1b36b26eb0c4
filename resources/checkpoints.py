"""Checkpoints of one training run: a small GPT-NeoX kept at log-spaced steps, each a folder in Hugging Face format.

Training is in susc_pipeline/model/tiny.py. The tokenizer is the embedded model's, so that all checkpoints read the same tokens.
"""

import copy
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import GPTNeoXForCausalLM
from transformers.utils.logging import disable_progress_bar

from resources import files
from susc_pipeline import corpus
from susc_pipeline.model import pretrained, tiny
from susc_pipeline.model.tiny import TinyRecipe

RECIPE = TinyRecipe(hidden_size=96, batch_size=8, n_steps=2048, n_warmup_steps=100)
N_CHECKPOINTS = 9
STATE = "training_state.safetensors"


def log_spaced(n_steps: int, n_checkpoints: int) -> list[int]:
    """Steps that double up to the last: 8, 16, …, 2048 for nine checkpoints of 2,048 steps.

    Raises:
        ValueError: the first would be no step at all.
    """
    if n_steps < 2 ** (n_checkpoints - 1):
        raise ValueError(f"{n_checkpoints} doublings need {2 ** (n_checkpoints - 1)} steps or more, got {n_steps}")
    return [n_steps // 2**k for k in reversed(range(n_checkpoints))]


def folder_of(parent: Path, step: int) -> Path:
    """Folder of the checkpoint after so many steps."""
    return parent / f"step-{step:06d}"


def missing(parent: Path, steps: Sequence[int]) -> list[int]:
    """Steps whose checkpoint is not there; a folder is whole once it has its final name."""
    return [step for step in steps if not folder_of(parent, step).is_dir()]


def train(
    parent: Path,
    recipe: TinyRecipe = RECIPE,
    *,
    texts: Sequence[str] | None = None,
    n_checkpoints: int = N_CHECKPOINTS,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> list[Path]:
    """Folders of all checkpoints, trained where they are not there yet; an ended training goes on at its last checkpoint.

    Args:
        parent: folder of the checkpoints.
        recipe: shape and training.
        texts: training documents; none given: the standard library's files that are not held out.
        n_checkpoints: see `log_spaced`.
        progress: called after each step with the steps done and the loss in nats per token.
    """
    steps = log_spaced(recipe.n_steps, n_checkpoints)
    if missing(parent, steps):
        _train(parent, recipe, _training_texts() if texts is None else texts, steps, progress)
    return [folder_of(parent, step) for step in steps]


def _train(
    parent: Path,
    recipe: TinyRecipe,
    texts: Sequence[str],
    steps: Sequence[int],
    progress: Callable[[int, float], None],
) -> None:
    disable_progress_bar()  # of each file that is written: a second has nine
    stream = tiny.token_stream(texts, pretrained.load(pretrained.EMBEDDED, device="cpu").tokenizer)
    training = tiny.Training(tiny.build_model(recipe), recipe)
    stored = parent / STATE
    parent.mkdir(parents=True, exist_ok=True)
    if stored.is_file():
        training.take_up(load_file(stored), n_tokens=len(stream))
    while training.step < recipe.n_steps:
        progress(training.step + 1, training.advance(stream))
        if training.step in steps:
            if missing(parent, [training.step]):
                _write(training.model, folder_of(parent, training.step))
            with files.replacing(stored) as temporary:
                save_file(training.state(), temporary)
    stored.unlink()


def _training_texts() -> list[str]:
    documents = corpus.python_standard_library(Path(sysconfig.get_path("stdlib")))
    return [d.text for d in documents if not corpus.is_held_out(d.document_id)]


def _write(model: GPTNeoXForCausalLM, folder: Path) -> None:
    """Weights in float16, configuration and tokenizer, under the final name once all is written."""
    temporary = folder.with_name(folder.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    copy.deepcopy(model).half().save_pretrained(temporary)
    shutil.copyfile(pretrained.EMBEDDED / "tokenizer.json", temporary / "tokenizer.json")
    temporary.rename(folder)
