"""EK-FAC of kronfluence beside closed forms: with a large damping it is the product of the gradients that it reads."""

import numpy as np
import pytest
import torch

import toys
from benchmarks import influence_functions
from susc_pipeline.model import families, pretrained

N_HELD_OUT, N_TRAINING, DAMPING = 3, 5, 1e6


def documents(n_documents, seed):
    return np.stack([toys.toy_tokens(2, seed=seed + number) for number in range(n_documents)])


def gradients_of_linear_layers(module, contexts):
    """Of the mean loss of each document, by the weights and biases of the linear layers alone, with none of kronfluence."""
    linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    parameters = [parameter.requires_grad_() for layer in linear for parameter in layer.parameters()]
    rows = []
    for ids in torch.as_tensor(contexts):
        logits = module(ids).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]))
    return torch.stack(rows).double().numpy()


def test_the_module_that_kronfluence_reads_has_our_token_losses():
    ids = torch.as_tensor(toys.toy_tokens(3, vocabulary=2000))
    module, model = influence_functions.load(pretrained.EMBEDDED), pretrained.load(pretrained.EMBEDDED).model
    influence_functions.check_same(module, model, ids)
    with torch.no_grad():
        module.get_output_embeddings().weight[0] += 0.1
    with pytest.raises(ValueError, match="token losses of the module and of the model differ by"):
        influence_functions.check_same(module, model, ids)


def test_a_toy_module_and_another_toy_are_told_apart():
    ids = torch.as_tensor(toys.toy_tokens())
    influence_functions.check_same(toys.toy_module(), families.from_module(toys.toy_module()), ids)
    with pytest.raises(ValueError, match="load both from one folder"):
        influence_functions.check_same(toys.toy_module(), families.from_module(toys.toy_module(seed=1)), ids)


def test_ekfac_with_a_large_damping_is_the_product_of_gradients_and_with_a_small_one_is_not():
    pytest.importorskip("kronfluence", reason="make .venv/.influence installs kronfluence")
    held_out, training = documents(N_HELD_OUT, 0), documents(N_TRAINING, 100)
    dampings = {"large": DAMPING, "small": 1e-3, "heuristic": None}
    found = influence_functions.responses(toys.toy_module(), held_out, training, dampings, seed=0)
    of_held_out, of_training = (gradients_of_linear_layers(toys.toy_module(), each) for each in (held_out, training))
    products = of_held_out @ of_training.T
    assert np.abs(products).min() > 0 and products.std() > 0.1 * np.abs(products).mean()  # what is to be proportional
    np.testing.assert_allclose(found["large"], -products / DAMPING / N_TRAINING, rtol=1e-3)
    for name in ("small", "heuristic"):
        assert np.isfinite(found[name]).all()
        assert np.corrcoef(found[name].ravel(), -products.ravel())[0, 1] < 0.99, name
