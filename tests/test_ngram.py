"""The trigram baseline is a probability distribution, and as good as the source allows."""

import numpy as np
import pytest

from susc_pipeline.model import ngram


def markov(n_tokens, size, seed):
    rng = np.random.default_rng(seed)
    transition = np.random.default_rng(0).dirichlet(np.full(size, 0.2), size=size)
    tokens = [0]
    for _ in range(n_tokens):
        tokens.append(int(rng.choice(size, p=transition[tokens[-1]])))
    return np.array(tokens), transition


def test_probabilities_sum_to_one_after_seen_and_unseen_histories():
    tokens, _ = markov(400, 8, 1)
    model = ngram.fit(tokens, 8)
    for history in [(0, 1), (7, 7), (3, 2), (5, 0)]:
        losses = [model.losses(np.array([*history, token]))[0] for token in range(8)]
        assert np.exp(-np.array(losses)).sum() == pytest.approx(1.0, abs=1e-9)


def test_the_loss_approaches_the_entropy_of_a_markov_chain():
    training, transition = markov(20000, 8, 1)
    held_out, _ = markov(5000, 8, 2)
    loss = ngram.fit(training, 8).losses(held_out).mean()
    entropy = -np.log(transition[held_out[1:-1], held_out[2:]]).mean()
    assert entropy < loss < entropy + 0.03
