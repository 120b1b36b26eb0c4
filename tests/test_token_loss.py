"""Losses and gradients from blocks of logits equal those from all logits at once."""

import pytest
import torch
from torch.nn import functional

from susc_pipeline.model import token_loss

SHAPES = [(3, 5, 40), (9, 128, 700), (2, 600, 1300)]  # contexts, positions, vocabulary: within a block and beyond it


def world(contexts, positions, vocabulary, *, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(vocabulary)
    normed = scale * torch.randn(contexts, positions, 24, generator=generator).to(dtype)
    unembedding = torch.randn(vocabulary, 24, generator=generator).to(dtype)
    token_ids = torch.randint(vocabulary, (contexts, positions), generator=generator)
    return normed.requires_grad_(), token_ids, unembedding.requires_grad_()


def plain(normed, token_ids, unembedding):
    logits = (normed[:, :-1].double() @ unembedding.double().T).flatten(0, 1)
    return functional.cross_entropy(logits, token_ids[:, 1:].flatten(), reduction="none").view(len(normed), -1)


# Double precision takes the way of devices that lack the fused operator; its sums are held in single precision.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_both_gradients_equal_those_of_all_logits(shape, dtype):
    found, exact = world(*shape, dtype=dtype), world(*shape, dtype=dtype)
    losses, expected = token_loss.cross_entropy(*found), plain(*exact)
    torch.testing.assert_close(losses, expected.float(), atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 2, losses.numel()).view(losses.shape)
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()
    for ours, theirs in ((found[0], exact[0]), (found[2], exact[2])):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_without_gradients_and_gradients_without_autograd_are_the_same(dtype):
    normed, token_ids, unembedding = world(9, 128, 700, dtype=dtype)
    with_gradients = token_loss.cross_entropy(normed, token_ids, unembedding)
    (of_inputs,) = torch.autograd.grad(with_gradients.sum(), normed)
    with torch.no_grad():
        torch.testing.assert_close(
            token_loss.cross_entropy(normed, token_ids, unembedding), with_gradients, atol=1e-5, rtol=1e-5
        )
        losses, gradients = token_loss.losses_and_gradients(normed, token_ids, unembedding)
    torch.testing.assert_close(losses, with_gradients.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, of_inputs[:, :-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_far_apart_neither_overflow_nor_vanish(dtype):
    normed, token_ids, unembedding = world(2, 64, 700, dtype=dtype, scale=60.0)
    losses = token_loss.cross_entropy(normed, token_ids, unembedding)
    torch.testing.assert_close(losses, plain(normed, token_ids, unembedding).float(), atol=1e-3, rtol=1e-5)
    losses.sum().backward()
    assert torch.isfinite(normed.grad).all() and torch.isfinite(unembedding.grad).all()


def test_bfloat16_losses_are_summed_in_single_precision():
    normed, token_ids, unembedding = world(9, 128, 700, dtype=torch.bfloat16)
    losses = token_loss.cross_entropy(normed, token_ids, unembedding)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, plain(normed, token_ids, unembedding).float(), atol=0.1, rtol=0.02)


@pytest.mark.parametrize(("n_contexts", "n_entries"), [(9, 700), (40, 30)])
def test_the_number_of_threads_changes_no_bit(n_contexts, n_entries):
    """Of few entries each gets many rows: threads that add to one at the same time would add in any order."""
    normed, token_ids, unembedding = world(n_contexts, 128, n_entries)
    before = torch.get_num_threads()
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        losses = token_loss.cross_entropy(normed, token_ids, unembedding)
        found.append((losses.detach(), *torch.autograd.grad(losses.sum(), (normed, unembedding))))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("n_entries", [7, 1300])  # within a block of the vocabulary, and across three
def test_sampled_tokens_have_the_softmax_as_their_frequencies(n_entries):
    torch.manual_seed(0)
    inputs, unembedding = 2.0 * torch.randn(3, 4), torch.randn(n_entries, 4)
    n_times = 20_000
    drawn = token_loss.sampled(inputs.repeat(n_times, 1), unembedding, torch.Generator().manual_seed(1)).view(
        n_times, 3
    )
    expected = n_times * (inputs @ unembedding.T).double().softmax(dim=1)
    for row in range(3):
        counts = torch.bincount(drawn[:, row], minlength=n_entries)
        likely = expected[row] > 5
        found, wanted = counts[likely].sum(), expected[row, likely].sum()
        chi_square = ((counts[likely] - expected[row, likely]) ** 2 / expected[row, likely]).sum()
        n_likely = int(likely.sum())
        assert abs(chi_square - n_likely) < 6 * (2 * n_likely) ** 0.5
        assert abs(found - wanted) < 6 * (n_times * (1 - wanted / n_times + 1e-3)) ** 0.5


def test_sampled_tokens_are_those_of_one_uniform_number_a_row():
    """The inverse of the distribution function over the whole vocabulary, block or no block."""
    torch.manual_seed(0)
    inputs, unembedding = torch.randn(500, 4), torch.randn(1300, 4)
    uniform = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reached = (inputs @ unembedding.T).double().softmax(dim=1).cumsum(dim=1)
    plain = torch.searchsorted(reached, uniform[:, None]).flatten()
    found = token_loss.sampled(inputs, unembedding, torch.Generator().manual_seed(1))
    assert (found == plain).float().mean() > 0.99  # where the sums of both round differently at an edge
    assert (found - plain).abs().max() <= 1


def test_extreme_logits_are_sampled_too():
    inputs = torch.tensor([[1e4], [-1e4]])
    found = token_loss.sampled(inputs, torch.tensor([[1.0], [0.0], [-1.0]]), torch.Generator().manual_seed(0))
    assert found.tolist() == [0, 2]
