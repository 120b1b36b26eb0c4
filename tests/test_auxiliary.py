"""Laws of the auxiliary model and its linear baseline, on planted maps with and without noise."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from susc_pipeline.representation import auxiliary, auxiliary_training, metrics, ridge
from susc_pipeline.representation.auxiliary import AuxSettings

N_TRAINING, N_STOPPING, N_FEATURES, N_PCS, HIDDEN_WIDTH = 2000, 400, 16, 4, 128
SETTINGS = AuxSettings(batch_size=64, averaging_steps=30, max_epochs=25, l1_penalty=0.01)


class World(NamedTuple):
    activations: np.ndarray
    targets: np.ndarray
    truth: np.ndarray


def planted(kind: str, *, signal_fraction: float = 1.0, n_features: int = N_FEATURES) -> World:
    """Features of unlike scale; scores that are a linear map of them, or one of their absolute values."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((3200, n_features))
    features = z if kind == "linear" else np.abs(z[:, ::2])
    truth = features @ rng.standard_normal((features.shape[1], N_PCS))
    truth = (truth - truth.mean(axis=0)) / truth.std(axis=0) * np.sqrt(signal_fraction)
    noise = rng.standard_normal(truth.shape) * np.sqrt(1 - signal_fraction)
    activations = z * 10.0 ** rng.uniform(-1, 2, n_features) + rng.uniform(-9, 9, n_features)
    return World(activations.astype(np.float32), truth + noise, truth)


def split(world: World) -> dict[str, np.ndarray]:
    stop = N_TRAINING + N_STOPPING
    return {
        "activations": world.activations[:N_TRAINING],
        "targets": world.targets[:N_TRAINING],
        "stopping_activations": world.activations[N_TRAINING:stop],
        "stopping_targets": world.targets[N_TRAINING:stop],
    }


def withheld(world: World) -> World:
    return World(*(array[N_TRAINING + N_STOPPING :] for array in world))


def trained(world: World, *, settings: AuxSettings = SETTINGS, seed: int = 0) -> auxiliary_training.Training:
    rng = np.random.default_rng(seed)
    return auxiliary_training.train(**split(world), settings=settings, hidden_width=HIDDEN_WIDTH, rng=rng)


def model_correlation(model: auxiliary.AuxModel, world: World) -> float:
    test = withheld(world)
    return metrics.correlation_per_column(auxiliary.predict(model, test.activations), test.truth).min()


def ridge_correlation(world: World) -> float:
    test = withheld(world)
    predicted = ridge.predict(ridge.fit(**split(world)), test.activations)
    return metrics.correlation_per_column(predicted, test.truth).min()


def test_planted_linear_map_is_recovered():
    world = planted("linear")
    assert model_correlation(trained(world).model, world) > 0.98


def test_planted_nonlinear_map_is_recovered_better_than_by_ridge():
    world = planted("nonlinear")
    by_model, by_ridge = model_correlation(trained(world).model, world), ridge_correlation(world)
    assert by_model > 0.7
    assert by_model > by_ridge + 0.3


def test_noise_is_not_learned():
    """With 70 % noise the model keeps most of the signal, and explains no more in training than there is."""
    world = planted("linear", signal_fraction=0.3)
    training = trained(world)
    assert model_correlation(training.model, world) > 0.9
    assert training.history.training_loss[training.history.best_epoch] > 0.6


def test_weight_decay_is_what_keeps_noise_from_being_learned():
    world = planted("linear", signal_fraction=0.1, n_features=128)
    undecayed = trained(world, settings=dataclasses.replace(SETTINGS, weight_decay=0.0))
    assert model_correlation(trained(world).model, world) > model_correlation(undecayed.model, world) + 0.03


def test_same_seed_same_model_and_another_seed_another():
    world = planted("nonlinear")
    settings = dataclasses.replace(SETTINGS, max_epochs=2)
    first, again, other = (trained(world, settings=settings, seed=seed).model for seed in (0, 0, 1))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.encoder.weight, other.encoder.weight)


def test_the_global_generators_are_neither_read_nor_moved():
    world, settings = planted("nonlinear"), dataclasses.replace(SETTINGS, max_epochs=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = trained(world, settings=settings).model
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(first.encoder.weight, trained(world, settings=settings).model.encoder.weight)


def test_the_best_epoch_is_kept_and_training_stops_after_patience():
    world = planted("linear", signal_fraction=0.1)
    training = trained(world, settings=dataclasses.replace(SETTINGS, weight_decay=0.0, max_epochs=60, patience=2))
    losses = training.history.stopping_loss
    assert training.history.best_epoch == int(np.argmin(losses)) == len(losses) - 3
    data = split(world)
    predicted = auxiliary.predict(training.model, data["stopping_activations"])
    assert metrics.unexplained_share(predicted, data["stopping_targets"]) == min(losses)


def test_progress_is_called_after_each_epoch():
    calls: list[tuple[int, float]] = []
    world, settings = planted("linear"), dataclasses.replace(SETTINGS, max_epochs=3)
    training = auxiliary_training.train(
        **split(world),
        settings=settings,
        hidden_width=8,
        rng=np.random.default_rng(0),
        progress=lambda epoch, loss: calls.append((epoch, loss)),
    )
    assert calls == list(enumerate(training.history.stopping_loss, start=1))


def test_a_larger_penalty_makes_the_hidden_code_smaller():
    world = planted("nonlinear")
    codes = []
    for penalty in (0.0, 1.0):
        settings = dataclasses.replace(SETTINGS, l1_penalty=penalty, max_epochs=4)
        model = trained(world, settings=settings).model
        codes.append(float(model.encode(torch.tensor(world.activations)).mean()))
    assert codes[1] < 0.7 * codes[0]


def test_units_of_activations_and_of_targets_do_not_matter():
    """Powers of two, so that rounding is the same."""
    world, settings = planted("nonlinear"), dataclasses.replace(SETTINGS, max_epochs=1)
    rescaled = World(world.activations * np.float32(8.0), world.targets * 4.0, world.truth)
    one, other = trained(world, settings=settings).model, trained(rescaled, settings=settings).model
    predicted = auxiliary.predict(one, world.activations)
    np.testing.assert_allclose(auxiliary.predict(other, rescaled.activations), predicted * 4.0, rtol=1e-4, atol=1e-4)


def test_decay_per_epoch_does_not_depend_on_the_number_of_steps():
    for n_steps in (8, 800):
        model = auxiliary_training.initialized(*planted("linear")[:2], HIDDEN_WIDTH, np.random.default_rng(0))
        optimizer = auxiliary_training.build_optimizer(model, AuxSettings(weight_decay=0.5), n_steps_per_epoch=n_steps)
        norm = float(model.encoder.weight.detach().norm())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for _ in range(n_steps):
            optimizer.step()
        assert float(model.encoder.weight.detach().norm()) == pytest.approx(norm * np.exp(-0.5), rel=0.02)


def test_predictions_do_not_depend_on_the_batch_size():
    world = planted("nonlinear")
    model = auxiliary_training.initialized(*world[:2], HIDDEN_WIDTH, np.random.default_rng(0))
    whole = auxiliary.predict(model, world.activations)
    np.testing.assert_allclose(auxiliary.predict(model, world.activations, batch_size=77), whole, rtol=1e-4, atol=1e-5)
    assert auxiliary.predict(model, world.activations[:0]).shape == (0, N_PCS)


def test_half_precision_and_read_only_activations_are_accepted():
    world, settings = planted("linear"), dataclasses.replace(SETTINGS, max_epochs=1)
    halves = world._replace(activations=world.activations.astype(np.float16))
    halves.activations.flags.writeable = False
    assert auxiliary.predict(trained(halves, settings=settings).model, halves.activations).dtype == np.float32


def test_products_in_bfloat16_learn_the_same_map_with_weights_in_single_precision(monkeypatch):
    """The path of a GPU, taken on the CPU: predictions within a few roundings of bfloat16 (8 bits) of single precision's."""
    world, settings = planted("nonlinear"), dataclasses.replace(SETTINGS, max_epochs=8)
    exact = trained(world, settings=settings)
    monkeypatch.setattr(auxiliary, "MIXED_PRECISION", ("cpu",))
    mixed = trained(world, settings=settings)
    assert not torch.equal(mixed.model.encoder.weight, exact.model.encoder.weight)
    assert {tensor.dtype for tensor in mixed.model.state_dict().values()} == {torch.float32}
    losses = mixed.history.stopping_loss
    assert losses[-1] < 0.8 * losses[0]
    assert losses[-1] == pytest.approx(exact.history.stopping_loss[-1], rel=0.05)
    predicted = [auxiliary.predict(training.model, world.activations) for training in (mixed, exact)]
    assert metrics.correlation_per_column(*predicted).min() > 0.99


def test_constant_features_do_no_harm():
    world = planted("linear")
    constant = np.full((len(world.activations), 1), 0.1, dtype=np.float32)
    world = world._replace(activations=np.hstack([world.activations, constant]))
    assert model_correlation(trained(world).model, world) > 0.98
    assert ridge_correlation(world) > 0.98


def test_saved_model_reads_back_to_the_last_bit(tmp_path):
    world = planted("nonlinear")
    model = trained(world, settings=dataclasses.replace(SETTINGS, max_epochs=1)).model
    auxiliary.save(model, tmp_path / "model")
    again = auxiliary.load(tmp_path / "model")
    assert model.state_dict().keys() == again.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    predictions = [auxiliary.predict(m, world.activations) for m in (model, again)]
    np.testing.assert_array_equal(*predictions)


def test_ridge_solves_the_normal_equations():
    world = planted("linear", signal_fraction=0.5)
    data, penalty = split(world), 0.3
    z = data["activations"].astype(np.float64)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    weights = np.linalg.solve(z.T @ z + penalty * len(z) * np.eye(N_FEATURES), z.T @ data["targets"])
    model = ridge.fit(**data, penalties=[penalty])
    expected = z @ weights + data["targets"].mean(axis=0)
    np.testing.assert_allclose(ridge.predict(model, data["activations"]), expected, atol=1e-6)


def test_ridge_keeps_the_penalty_with_the_lowest_stopping_loss():
    """On 40 tokens of 16 features, 80 % noise: neither the smallest nor the largest penalty."""
    data = {name: array[:40] for name, array in split(planted("linear", signal_fraction=0.2)).items()}
    losses = {}
    for penalty in ridge.PENALTIES:
        predicted = ridge.predict(ridge.fit(**data, penalties=[penalty]), data["stopping_activations"])
        losses[penalty] = metrics.unexplained_share(predicted, data["stopping_targets"])
    assert ridge.fit(**data).penalty == min(losses, key=losses.__getitem__)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_multiplier", 0),
        ("batch_size", 0),
        ("patience", 0),
        ("averaging_steps", 0),
        ("max_epochs", 0),
        ("l1_penalty", -1.0),
        ("weight_decay", float("nan")),
        ("learning_rate", 0.0),
    ],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=rf"aux\.{field} must be"):
        AuxSettings(**{field: value})


def test_bad_training_sets_are_refused():
    activations, targets = np.ones((5, 3), np.float16), np.arange(10.0).reshape(5, 2)
    with pytest.raises((ValueError, TypeCheckError)):
        auxiliary_training.check_training_set(activations[:4], targets)
    with pytest.raises(ValueError, match="at least 2 tokens, got 1 activations and 1 targets"):
        auxiliary_training.check_training_set(activations[:1], targets[:1])
    with pytest.raises(ValueError, match="targets must be finite, got 2"):
        auxiliary_training.check_training_set(activations, np.where(targets > 7, np.nan, targets))
    with pytest.raises(ValueError, match="targets must vary"):
        auxiliary_training.check_training_set(activations, np.ones((5, 2)))
    with pytest.raises(ValueError, match="activations must be finite"):
        auxiliary_training.check_training_set(activations * np.float16(np.inf), targets)


def test_divergence_names_the_learning_rate():
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30, weight_decay=0.0, max_epochs=3)
    with pytest.raises(ValueError, match=r"lower aux\.learning_rate"):
        trained(planted("linear"), settings=settings)


def test_another_kind_of_folder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "pca_basis"}')
    with pytest.raises(ValueError, match="must hold an aux_model, got 'pca_basis'"):
        auxiliary.load(tmp_path)


def test_chains_shared_with_training_inflate_the_correlation():
    """Sampling noise of shared draws is a function of the token, which a model learns: hence the shard with its own."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3200, N_FEATURES)).astype(np.float32)
    signal, of_shared, of_own = (x @ rng.standard_normal((N_FEATURES, N_PCS)) for _ in range(3))
    shared, own = signal + of_shared, signal + of_own
    training, stopping, test = slice(0, 2000), slice(2000, 2400), slice(2400, None)
    trained = auxiliary_training.train(
        x[training],
        shared[training],
        stopping_activations=x[stopping],
        stopping_targets=shared[stopping],
        settings=SETTINGS,
        hidden_width=HIDDEN_WIDTH,
        rng=np.random.default_rng(0),
    )
    predicted = auxiliary.predict(trained.model, x[test])
    r = {
        name: metrics.correlation_per_column(predicted, y[test]).mean()
        for name, y in (("shared", shared), ("own", own))
    }
    assert r["shared"] > 0.95  # noise and all
    assert r["own"] == pytest.approx(0.5, abs=0.2)  # half of either target's variance is signal
