"""Data changes: means and errors of linear responses, and the derivative of the observable that they stand for."""

from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

import toys
from assets import asked_observables
from susc_pipeline import schema, seeds
from susc_pipeline.model import components, derivatives, families, perturbation
from susc_pipeline.own_text import measurement
from susc_pipeline.sampling import chains
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS
from susc_pipeline.susceptibility import data_changes, direction_task, directions, linear_response
from susc_pipeline.susceptibility.data_changes import DataChange
from susc_pipeline.susceptibility.direction_files import StoredDirections
from susc_pipeline.susceptibility.direction_task import DirectionTask, Rest
from susc_pipeline.susceptibility.directions import DirectionSettings

N_BETA, LOCALIZATION = 20.0, 8000.0  # little noise: beyond the first Hermite term little is left
SETTINGS = SamplingSettings(n_chains=4, step_size=1.0, localization=LOCALIZATION, n_beta=N_BETA, batch_size=4)


def skewed(n_contexts, seed):
    """Contexts in which tokens of a low number are frequent: the random model's loss has a slope over them."""
    return toys.toy_tokens(n_contexts, seed=seed) ** 2 // 50


WHOLE = skewed(64, 0)
# Every chain reads the same contexts, in an order of its own: their mean loss is L itself, not a sample of it.
POPULATION = Population(tuple(np.random.default_rng(chain).permutation(WHOLE) for chain in range(4)))
PROBE = toys.toy_tokens(4, seed=99)
NAMES = ("L1H0", "L2MLP", "unembed")


class Made(NamedTuple):
    """Tokens of a shard with made-up responses."""

    keys: pl.DataFrame
    half_a: np.ndarray
    half_b: np.ndarray


@pytest.fixture(scope="module")
def model():
    return families.from_module(toys.toy_module())


@pytest.fixture(scope="module")
def halves(model):
    """The mean directions of both halves of each component's chains, as the pipeline finds them."""
    chosen = [components.by_name(model, name) for name in NAMES]
    wanted = DirectionSettings(reliability=0.999, max_contexts=2048)
    task = DirectionTask(model, "cpu", SETTINGS, wanted, POPULATION, PROBE, 1, chosen)
    resting, finding, found = direction_task.rest_finder(task), direction_task.finder(task), {}
    gradients = [resting(chain, None)[0].gradient for chain in range(4)]
    for component in chosen:
        rest = np.stack([gradient[component.name].numpy() for gradient in gradients])
        stored, _ = finding(component, Rest(rest, np.zeros((0, 0), np.float32), 64))
        means = torch.stack([stored.directions[rank::2].mean(dim=0) for rank in (0, 1)])
        found[component] = stored._replace(directions=means)
    return found


def made_up(seed=0, n_documents=7, n_tokens=200):
    rng = np.random.default_rng(seed)
    keys = pl.DataFrame(
        {
            "context_id": np.arange(n_tokens) // 10,
            "position": (np.arange(n_tokens) % 10 + 1).astype(np.int32),
            "document_id": [f"{'ab'[d % 2]}/{d}" for d in np.sort(rng.integers(0, n_documents, n_tokens))],
        }
    )
    return Made(keys, *rng.normal(size=(2, n_tokens, 3)).astype(np.float32))


def table_of(shards, changes, members=None):
    members = pl.DataFrame(schema=schema.MEMBERS) if members is None else members
    sums = data_changes.empty(len(changes), 3)
    for shard in shards:
        change, row = data_changes.chosen_tokens(changes, shard.keys, members)
        document = shard.keys["document_id"].rank("dense").cast(pl.Int64).to_numpy()[row]
        data_changes.add(sums, change, document, shard.half_a[row], shard.half_b[row])
    return data_changes.table(changes, ["x", "y", "z"], sums)


def test_value_and_errors_are_the_mean_the_pooled_half_difference_and_the_spread_over_documents():
    made = made_up()
    members = pl.DataFrame({"cluster": [3, 3, 3], "context_id": [0, 1, 19], "position": [1, 2, 10]}).cast(
        {"cluster": pl.Int32, "position": pl.Int32}
    )
    changes = (DataChange("a", documents="a/*"), DataChange("three", cluster=3))
    found = table_of([made], changes, members)
    assert dict(found.schema) == schema.DATA_CHANGES
    relative = []
    own = made.keys["document_id"].str.starts_with("a/").to_numpy()
    for change, rows in (("a", np.flatnonzero(own)), ("three", np.array([0, 11, 199]))):
        mean = (made.half_a[rows] + made.half_b[rows]).mean(axis=0) / 2
        table = found.filter(data_change=change)
        np.testing.assert_allclose(table["susceptibility"], mean, rtol=1e-5, atol=1e-7)
        relative.append((made.half_a[rows] - made.half_b[rows]).mean(axis=0) / 2 / table["chain_error"].to_numpy())
        of_documents = {}
        for row in rows:
            value = (made.half_a[row] + made.half_b[row]) / 2 - mean
            name = made.keys["document_id"][int(row)]
            of_documents[name] = of_documents.get(name, 0) + value
        n, sums = len(of_documents), np.stack(list(of_documents.values()))
        error = np.sqrt(n / (n - 1) * (sums**2).sum(axis=0)) / len(rows)
        np.testing.assert_allclose(table["document_error"], error, rtol=1e-4)
        np.testing.assert_allclose(table["standard_error"], np.hypot(error, table["chain_error"]), rtol=1e-4)
        assert table["n_tokens"].to_list() == [len(rows)] * 3 and table["n_documents"].to_list() == [n] * 3

    for axis in (0, 1):  # half differences in units of their errors, of both changes and of all components
        np.testing.assert_allclose((np.array(relative) ** 2).mean(axis=axis), 1, rtol=0.01)
    a, three = (found.filter(data_change=name)["chain_error"].to_numpy() for name in ("a", "three"))
    np.testing.assert_allclose(three / a, (three / a)[0])


@pytest.mark.parametrize(
    ("n_changes", "n_components", "n_documents", "spread", "common"),
    [
        (30, 12, 40, 0.1, 0),
        (30, 12, 4, 1.0, 0),
        (30, 2, 40, 0.1, 0),
        (2, 12, 40, 0.1, 0),
        (1, 12, 40, 0.1, 0),
        (30, 4, 40, 0.1, 3),
    ],
)
def test_intervals_cover_planted_values_whatever_leads_the_error(n_changes, n_components, n_documents, spread, common):
    """A response is v.g. Halves know v with noise; documents have a g of their own about that of their data change.

    Data changes differ in the size of g, and components in that of the noise, each by a factor of ten or more. With `common`
    the g of all data changes are alike, so that half differences go together.
    """
    rng, inside, naive = np.random.default_rng(0), [], []
    changes = [DataChange(f"q{number}", documents="*") for number in range(n_changes)]
    names, noise = [f"c{number}" for number in range(n_components)], np.geomspace(0.05, 0.5, n_components)[:, None]
    size = np.geomspace(0.1, 10, n_changes)[:, None]
    for _ in range(100 if n_changes > 2 else 500):
        v = rng.normal(size=(n_components, 50))
        halves = [v + 2**0.5 * noise * rng.normal(size=v.shape) for _ in range(2)]
        g = size * (rng.normal(size=(n_changes, 50)) + common * rng.normal(size=50))
        of_documents = g[:, None] + spread * size[:, None] * rng.normal(size=(n_changes, n_documents, 50))
        number, document = (part.ravel() for part in np.indices((n_changes, n_documents)))
        half_a, half_b = (of_documents.reshape(-1, 50) @ half.T for half in halves)
        sums = data_changes.empty(n_changes, n_components)
        data_changes.add(sums, number, document, half_a, half_b)
        table = data_changes.table(changes, names, sums)
        value, width, error = (
            table[name].to_numpy().reshape(n_changes, -1) for name in ("susceptibility", "half_width", "document_error")
        )
        apart = (half_a - half_b).reshape(n_changes, n_documents, -1).mean(axis=1) / 2
        off = np.abs(value - g @ v.T)
        inside.append(off < width)
        naive.append(off < 1.96 * np.hypot(apart, error))
    assert 0.93 < np.mean(inside) < 0.97
    small, large = (np.mean(inside, axis=(0, 2))[part].mean() for part in (slice(10), slice(-10, None)))
    assert min(small, large) > 0.92  # not wide for one and narrow for another
    assert np.mean(naive) < 0.88  # the power


def test_several_observables_are_pooled_apart():
    made, changes = made_up(), (DataChange("a", documents="a/*"), DataChange("b", documents="b/*"))
    change, row = data_changes.chosen_tokens(changes, made.keys, pl.DataFrame(schema=schema.MEMBERS))
    document = made.keys["document_id"].rank("dense").cast(pl.Int64).to_numpy()[row]
    parts, together = [], data_changes.empty(2, 6)
    halves = [(part[row], scale * part[row][::-1]) for part, scale in ((made.half_a, 1), (made.half_b, 9))]
    data_changes.add(together, change, document, *(np.concatenate(both, axis=1) for both in zip(*halves)))
    for half_a, half_b in halves:
        parts.append(data_changes.empty(2, 3))
        data_changes.add(parts[-1], change, document, half_a, half_b)
    whole = data_changes.table(changes, [*"xyz"] * 2, together, n_observables=2)
    for number, part in enumerate(parts):
        own = whole.filter(pl.col("component") // 3 == number)
        alone = data_changes.table(changes, [*"xyz"], part)
        for name in ("chain_error", "half_width"):
            np.testing.assert_allclose(own[name], alone[name], rtol=1e-6)


def test_without_a_data_change_and_a_cluster_the_table_of_observables_is_empty():
    made, members = made_up(), pl.DataFrame(schema=schema.MEMBERS)
    changes = data_changes.of_clusters(members)
    change, row = data_changes.chosen_tokens(changes, made.keys, members)
    sums = data_changes.empty(len(changes), 6)
    data_changes.add(sums, change, row, *(np.tile(half[row], 2) for half in (made.half_a, made.half_b)))
    table = data_changes.table(changes, [*"xyz"] * 2, sums, n_observables=2)
    found = asked_observables.by_observable(table, ["a", "b"], 3)
    assert dict(found.schema) == schema.OBSERVABLES and found.height == 0


def test_the_order_of_shards_changes_no_number_and_one_document_has_no_error_over_documents():
    shards, changes = [made_up(seed) for seed in range(3)], (DataChange("all", documents="*"),)
    forward, backward = table_of(shards, changes), table_of(shards[::-1], changes)
    np.testing.assert_allclose(forward["susceptibility"], backward["susceptibility"], rtol=1e-12)
    np.testing.assert_allclose(forward["standard_error"], backward["standard_error"], rtol=1e-9)
    alone = table_of([made_up(n_documents=1)], changes)
    assert alone["document_error"].null_count() == 3
    np.testing.assert_array_equal(alone["standard_error"], alone["chain_error"])


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (DataChange("none", documents="c/*"), "give a pattern that documents of the shards match"),
        (DataChange("none", cluster=99), "give the number of a cluster that the explorer lists"),
    ],
)
def test_a_data_change_without_tokens_is_refused_with_the_remedy(change, remedy):
    with pytest.raises(ValueError, match=rf"data change 'none' .* has no token; {remedy}"):
        table_of([made_up()], (change,))


def test_a_data_change_says_in_one_way_which_tokens_it_has():
    for given in ({}, {"documents": "a", "cluster": 0}, {"file": "x.txt", "documents": "*"}):
        with pytest.raises(ValueError, match="exactly one of documents, cluster and file"):
            DataChange("x", **given)


@pytest.mark.parametrize("n_tokens", [2, 11, 12, 13, 40])
def test_a_whole_text_has_each_token_once_from_the_first_window_that_holds_it(model, halves, n_tokens):
    tokens = toys.toy_tokens(1, n_tokens, seed=5)[0]
    found = measurement.whole_document(model, halves, tokens, context_length=12)
    length = min(12, n_tokens)
    starts = measurement.windows(n_tokens, length)
    assert len(found.losses) == n_tokens - 1
    for place in range(1, n_tokens):
        start = next(s for s in starts if s < place < s + length)
        alone = linear_response.estimate(model, tokens[start : start + length][None], halves)
        assert found.losses[place - 1] == pytest.approx(alone.losses[place - start - 1], abs=1e-5)
        np.testing.assert_allclose(found.half_b[place - 1], alone.half_b[place - start - 1], atol=1e-5)


@pytest.mark.parametrize("n_tokens", [2, 11, 12, 40])
def test_each_window_of_a_text_has_the_beginning_that_the_tokenizer_puts_before_it(model, halves, n_tokens):
    tokens = toys.toy_tokens(1, n_tokens, seed=5)[0]
    found = measurement.whole_document(model, halves, tokens, context_length=12, beginning=(3,))
    length = min(11, n_tokens)
    starts = measurement.windows(n_tokens, length)
    assert len(found.losses) == n_tokens - 1
    for place in range(1, n_tokens):
        start = next(s for s in starts if s < place < s + length)
        alone = linear_response.estimate(model, np.r_[3, tokens[start : start + length]][None], halves)
        assert found.losses[place - 1] == pytest.approx(alone.losses[place - start], abs=1e-5)
        np.testing.assert_allclose(found.half_a[place - 1], alone.half_a[place - start], atol=1e-5)


def reweighted(model, component, changed, *, share=0.5, n_steps=24, n_burn_in=8):
    """d<phi>/d(share) / n_beta by central difference: <L> under the loss L + share (L_q' - L), less that at -share.

    The chains at both shares have the same noise; what the share has moved a chain by is the mean before and after a step, as in
    control.py.
    """
    whole, own = (perturbation.prepare_tokens(model, component, torch.as_tensor(p)) for p in (WHOLE, changed))
    n_weights = components.n_parameters(model, component)
    noise = chains.noise(seeds.sequence(7), n_weights, n_chains=2, mirrored=True, device=model.device)
    step = SAMPLERS[SETTINGS.sampler].step
    force = {"step_size": 1.0, "n_beta": N_BETA, "localization": LOCALIZATION}
    more = less = chains.start(SETTINGS, next(noise))
    found = []
    for number, push in zip(range(n_steps), noise):
        before, middle, moved = more.delta - less.delta, (more.delta + less.delta) / 2, []
        for state, weight in ((more, share), (less, -share)):
            of_whole, of_own = (derivatives.gradients(model, component, part, state.delta)[0] for part in (whole, own))
            moved.append(step(state, of_whole + weight * (of_own - of_whole), push, **force))
        more, less = moved
        apart = (before + more.delta - less.delta) / 2
        if number >= n_burn_in:
            both = torch.cat([middle + apart / 2, middle - apart / 2])
            with torch.no_grad():
                losses = perturbation.losses(model, component, whole, both).mean(dim=(1, 2)).chunk(2)
            found.append((losses[0] - losses[1]).numpy() / (2 * share * N_BETA))
    return np.mean(found, axis=0)


def distributions():
    """Three q', of three documents each."""
    found = [[toys.toy_tokens(4, seed=50 + 10 * q + d) for d in range(3)] for q in range(3)]
    rng = np.random.default_rng(3)
    return [found[0], [np.where(rng.random(part.shape) < 0.7, 7, part) for part in found[1]], found[2]]


def susceptibilities(model, halves, changed):
    """The table of data changes of which each is a few documents of whole contexts."""
    sums = data_changes.empty(len(changed), len(halves))
    for number, parts in enumerate(changed):
        for document, part in enumerate(parts):
            found = linear_response.estimate(model, part, halves)
            whose = (np.full(len(found.losses), each) for each in (number, document))
            data_changes.add(sums, *whose, found.half_a, found.half_b)
    changes = [DataChange(f"q{number}", documents="*") for number in range(len(changed))]
    return data_changes.table(changes, [component.name for component in halves], sums)


@pytest.mark.slow
def test_the_susceptibility_of_a_distribution_is_the_derivative_of_the_observable_by_its_weight(model, halves):
    """q' is fixed here, so its error is that of the chains; the hundredth is for the second Hermite term, which is left out."""
    table = susceptibilities(model, halves, distributions())
    value, error = (table[name].to_numpy().reshape(3, 3) for name in ("susceptibility", "chain_error"))
    slow = np.array([[reweighted(model, c, np.concatenate(parts)) for c in halves] for parts in distributions()])
    mean, slow_error = slow.mean(axis=2), slow.std(axis=2, ddof=1) / 2
    scale = np.abs(mean).max(axis=0)
    assert np.all(scale > 10 * (error + slow_error))  # or the comparison would say nothing
    assert np.all(np.abs(value - mean) < 4 * (error + slow_error) + 0.01 * scale)


@pytest.mark.slow
def test_the_error_of_the_chains_is_how_much_other_documents_of_the_population_change_the_value(model):
    """Forty populations of four chains, gradients at w* alone: the mean square of the error is the variance of the values."""
    component = components.by_name(model, "L1H0")
    zero = torch.zeros(1, components.n_parameters(model, component))
    found = []
    for number in range(40):
        parts = (torch.as_tensor(skewed(6, 1000 + 4 * number + chain)) for chain in range(4))
        inputs = (perturbation.prepare_tokens(model, component, part) for part in parts)
        rest = torch.cat([derivatives.gradients(model, component, each, zero)[0] for each in inputs])
        mean = torch.stack([rest[rank::2].mean(dim=0) for rank in (0, 1)]) / LOCALIZATION
        slopes = directions.mean_slopes(rest / LOCALIZATION, rest)
        stored = {component: StoredDirections(mean, slopes, LOCALIZATION)}
        found.append(susceptibilities(model, stored, distributions()))
    values, errors = (np.array([table[name] for table in found]) for name in ("susceptibility", "chain_error"))
    ratio = np.sqrt((errors**2).mean() / values.var(axis=0, ddof=1).mean())
    assert 0.75 < ratio < 1.3  # three standard errors of a root of forty squares, and more where they go together
