"""Toy worlds shared by tests: small random GPT-NeoX models, traces with a known truth."""

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from susc_pipeline.sampling.loss_traces import LossTraces


def toy_module(*, parallel=True, bias=True, dtype=torch.float32, seed=0, vocabulary=50, positions=32, width=16):
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        use_parallel_residual=parallel,
        attention_bias=bias,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    return GPTNeoXForCausalLM(config).to(dtype).eval()


def toy_tokens(n_contexts=5, positions=12, vocabulary=50, seed=0):
    return np.random.default_rng(seed).integers(0, vocabulary, size=(n_contexts, positions))


def traces_of(
    mean_loss,
    token_losses,
    *,
    n_chains,
    score=None,
    mean_slope=None,
    mean_own_slope=None,
    mean_response=None,
    token_slopes=None,
    own_slopes=None,
    responses=None,
    rest_loss=None,
    reference_rise=None,
):
    """Traces of chains without mirror images; unless told, the loss at w* is zero and contexts of a draw are all the same."""
    mean_loss = np.asarray(mean_loss, dtype=np.float64)
    n_draws = len(mean_loss)
    per_chain = n_draws // n_chains
    zeros = np.zeros(n_draws)
    flat = np.zeros(np.shape(token_losses), np.float32)
    return LossTraces(
        chain=np.repeat(np.arange(n_chains), per_chain),
        mirror=np.zeros(n_draws, np.int64),
        draw=np.tile(np.arange(per_chain), n_chains),
        step=np.tile(np.arange(per_chain), n_chains),
        mean_loss=mean_loss,
        rest_loss=zeros if rest_loss is None else rest_loss,
        reference_rise=mean_loss if reference_rise is None else reference_rise,
        score=zeros if score is None else score,
        mean_slope=zeros if mean_slope is None else mean_slope,
        mean_own_slope=zeros if mean_own_slope is None else mean_own_slope,
        mean_response=zeros if mean_response is None else mean_response,
        token_losses=np.asarray(token_losses, dtype=np.float32),
        token_slopes=flat if token_slopes is None else token_slopes,
        own_slopes=flat if own_slopes is None else own_slopes,
        responses=flat if responses is None else responses,
    )
