"""Recipe of the embedded default: a small GPT-NeoX with its own byte-level BPE, trained on the standard library.

Reading the corpus and writing the model's folder stay with the caller (resources/train_tiny.py).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
MOMENTS = ("exp_avg", "exp_avg_sq")  # that AdamW keeps of each weight


@dataclass(frozen=True)
class TinyRecipe:
    """Shape and training of the embedded model."""

    vocabulary_size: int = 2048
    """Entries of the byte-level BPE, the end-of-text token among them."""
    hidden_size: int = 128
    """Width of the residual stream."""
    n_layers: int = 4
    """Transformer layers, attention and MLP in parallel."""
    n_heads: int = 4
    """Attention heads of a layer."""
    context_length: int = 256
    """Tokens of a training sequence, and the most positions that the model sees."""
    batch_size: int = 16
    """Sequences of a training step."""
    n_steps: int = 4500
    """Optimizer steps."""
    n_warmup_steps: int = 200
    """Steps over which the learning rate rises linearly; it then falls as a cosine to a hundredth."""
    learning_rate: float = 4e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Decoupled weight decay on matrices."""
    seed: int = 1
    """Seed of initial weights and of the order of sequences."""


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer fitted on `texts`: every byte sequence encodes and decodes exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def build_model(recipe: TinyRecipe) -> GPTNeoXForCausalLM:
    """An untrained GPT-NeoX of the recipe's shape: parallel residual, rotary positions, untied unembedding."""
    torch.manual_seed(recipe.seed)  # transformers initialises from the global generator and takes no other
    config = GPTNeoXConfig(
        vocab_size=recipe.vocabulary_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        intermediate_size=4 * recipe.hidden_size,
        max_position_embeddings=recipe.context_length,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoXForCausalLM(config)


def token_stream(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Int[np.ndarray, " tokens"]:
    """All texts as one run of token ids, each closed by the end-of-text token."""
    # Not eos_token_id, which a tokenizer read from tokenizer.json alone does not have.
    end = [tokenizer.convert_tokens_to_ids(END_OF_TEXT)]
    pieces = [np.asarray(ids + end, dtype=np.int64) for ids in tokenizer(list(texts))["input_ids"]]
    return np.concatenate(pieces)


def learning_rate_factor(step: int, recipe: TinyRecipe) -> float:
    """Fraction of the peak learning rate at a step: linear warm-up, then a cosine to one hundredth."""
    if step < recipe.n_warmup_steps:
        return (step + 1) / recipe.n_warmup_steps
    progress = (step - recipe.n_warmup_steps) / max(1, recipe.n_steps - recipe.n_warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress))


class Training:
    """AdamW on windows of a token stream, one step at a time; its state can be stored and taken up again.

    Args:
        model: as built by `build_model`; it is changed in place.
        recipe: shape and hyperparameters.
    """

    def __init__(self, model: GPTNeoXForCausalLM, recipe: TinyRecipe) -> None:
        """Begin at step 0."""
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.model, self.recipe, self.step = model.train(), recipe, 0
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))
        self.generator = np.random.default_rng(recipe.seed)

    def advance(self, stream: Int[np.ndarray, " tokens"]) -> float:
        """Take one step; its loss before the step, in nats per token."""
        batch = torch.as_tensor(
            np.stack([stream[s : s + self.recipe.context_length] for s in self._starts(len(stream))])
        )
        loss = self.model(input_ids=batch, labels=batch, use_cache=False).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * learning_rate_factor(self.step, self.recipe)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _starts(self, n_tokens: int) -> Int[np.ndarray, " sequences"]:
        return self.generator.integers(0, n_tokens - self.recipe.context_length, size=self.recipe.batch_size)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next step needs: weights, AdamW's moments of each, and the number of steps."""
        found = {"step": torch.tensor(self.step)}
        for name, weight in self.model.named_parameters():
            found[f"weight.{name}"] = weight.detach()
            moments = self.optimizer.state[weight]
            found |= {f"{moment}.{name}": moments[moment] for moment in MOMENTS if moment in moments}
        return found

    def take_up(self, state: Mapping[str, torch.Tensor], *, n_tokens: int) -> None:
        """Go on from a stored state; the stream must have `n_tokens` tokens, as before, or other windows would follow."""
        self.step, self.generator = int(state["step"]), np.random.default_rng(self.recipe.seed)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(state[f"weight.{name}"])
                moments = {
                    moment: state[f"{moment}.{name}"].clone() for moment in MOMENTS if f"{moment}.{name}" in state
                }
                if moments:
                    self.optimizer.state[weight] = {"step": torch.tensor(float(self.step)), **moments}
        for _ in range(self.step):
            self._starts(n_tokens)


def train(
    model: GPTNeoXForCausalLM,
    stream: Int[np.ndarray, " tokens"],
    recipe: TinyRecipe,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> GPTNeoXForCausalLM:
    """The model after `recipe.n_steps` AdamW steps on windows of the stream; it is changed in place.

    Args:
        model: as built by `build_model`.
        stream: training token ids.
        recipe: shape and hyperparameters.
        progress: called after each step with the steps done and the loss in nats per token.
    """
    training = Training(model, recipe)
    while training.step < recipe.n_steps:
        loss = training.advance(stream)
        if progress is not None:
            progress(training.step, loss)
    return model.eval()


@torch.no_grad()
def document_losses(
    model: GPTNeoXForCausalLM, token_ids: Int[np.ndarray, " tokens"], *, context_length: int
) -> torch.Tensor:
    """Loss in nats of each token of a document from the third on, read in windows that do not overlap.

    A window starts one token before its first predicted token, so every token is predicted once; the trigram
    baseline, which sees no further than two tokens, is measured on the same targets.
    """
    losses = []
    for start in range(0, len(token_ids) - 1, context_length - 1):
        window = torch.as_tensor(token_ids[start : start + context_length])[None]
        logits = model(input_ids=window, use_cache=False).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none"))
    return torch.cat(losses)[1:]
