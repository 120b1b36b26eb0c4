"""The split into training, stopping and test tokens: what streams from disk is what stacking all shards would give."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import shards
from susc_pipeline import schema
from susc_pipeline.representation import auxiliary, auxiliary_training, evaluation, moments, pca, ridge, spool
from susc_pipeline.representation.auxiliary import AuxSettings
from susc_pipeline.susceptibility import reliability

TRAINING = ["shard-00000", "shard-00001"]
SETTINGS = AuxSettings(batch_size=64, max_epochs=2)


@pytest.fixture
def made_up(tmp_path):
    return shards.write(tmp_path, 4)


def basis_of(made_up):
    shards_of = (schema.stack({s: made_up.susceptibilities[s]}, "susceptibility").values for s in TRAINING)
    return pca.fit(moments.merge_all(moments.of(values) for values in shards_of), n_components=4)


def split(made_up, folder, **options):
    truth = {s: frame for s, frame in made_up.susceptibilities.items() if s not in TRAINING}
    return evaluation.split(made_up.activations, made_up.responses, truth, basis_of(made_up), folder=folder, **options)


def stacked(made_up, names, column="linear_response"):
    """Inputs, scores and documents of whole shards, in memory: the slow oracle."""
    activations, responses, truth = ({s: frames[s] for s in names} for frames in made_up)
    inputs = [schema.stack(activations, name).values for name in ("activation", "loss_gradient")]
    found = schema.stack(truth if column == "susceptibility" else responses, column)
    return np.concatenate(inputs, axis=1), pca.transform(found.values, basis_of(made_up)), found.keys["document_id"]


def trained(training, stopping):
    return auxiliary_training.train(
        *training[:2],
        stopping_activations=stopping[0],
        stopping_targets=stopping[1],
        settings=SETTINGS,
        hidden_width=32,
        rng=np.random.default_rng(0),
    ).model


def test_parts_are_the_stacked_shards_and_withheld_documents_in_turn(made_up, tmp_path):
    data = split(made_up, tmp_path)
    inputs, scores, _ = stacked(made_up, TRAINING)
    np.testing.assert_array_equal(data.training.activations, inputs)
    np.testing.assert_allclose(data.training.scores, scores, rtol=1e-12, atol=1e-12)
    inputs, scores, documents = stacked(made_up, ["shard-00002", "shard-00003"])
    even = np.unique(documents, return_inverse=True)[1] % 2 == 0
    for part, rows in ((data.stopping, even), (data.test, ~even)):
        np.testing.assert_array_equal(part.activations, inputs[rows])
        np.testing.assert_allclose(part.scores, scores[rows], rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(part.documents, np.unique(documents.filter(rows), return_inverse=True)[1])
    _, sampled, _ = stacked(made_up, ["shard-00002", "shard-00003"], "susceptibility")
    np.testing.assert_allclose(data.test_truth, sampled[~even], rtol=1e-12, atol=1e-12)
    assert data.training.activations.dtype == np.float16 and isinstance(data.training.activations, np.memmap)


def test_training_from_disk_gives_the_model_that_training_in_memory_gives(made_up, tmp_path):
    data = split(made_up, tmp_path)
    in_memory = trained(*(tuple(np.array(values) for values in part) for part in (data.training, data.stopping)))
    from_disk = trained(data.training, data.stopping)
    for name, tensor in in_memory.state_dict().items():
        assert tensor.equal(from_disk.state_dict()[name]), name
    inputs, scores, _ = stacked(made_up, TRAINING)
    before = trained((inputs, scores), data.stopping)  # as it was done: all shards stacked, in single precision
    expected = auxiliary.predict(before, inputs)
    np.testing.assert_allclose(auxiliary.predict(from_disk, inputs), expected, rtol=1e-3, atol=1e-3)


def test_the_order_in_which_shards_are_handed_over_changes_nothing(made_up, tmp_path):
    backwards = shards.MadeUp(*(dict(reversed(frames.items())) for frames in made_up))
    one, other = (split(frames, tmp_path) for frames in (made_up, backwards))
    for a, b in zip(one[:3], other[:3]):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(one.test_halves.scatter, other.test_halves.scatter)


def test_ceiling_of_the_test_part_is_that_of_its_tokens(made_up, tmp_path):
    basis = basis_of(made_up)
    data = split(made_up, tmp_path)
    names = ["shard-00002", "shard-00003"]
    halves = [schema.stack({s: made_up.susceptibilities[s] for s in names}, half) for half in ("half_a", "half_b")]
    odd = np.unique(halves[0].keys["document_id"], return_inverse=True)[1] % 2 == 1
    expected = reliability.split_half([tuple(pca.transform(half.values[odd], basis) for half in halves)])
    found = reliability.split_half_scores(data.test_halves, basis)
    np.testing.assert_allclose(found.ceiling, expected.ceiling, rtol=1e-10)


def test_other_tokens_are_refused(made_up, tmp_path):
    made_up.activations["shard-00001"] = made_up.activations["shard-00001"].with_columns(pl.col("position") + 1)
    with pytest.raises(ValueError, match="different tokens; materialize both again"):
        split(made_up, tmp_path)


def test_a_spool_holds_all_parts_and_leaves_no_file(tmp_path):
    parts = [np.arange(6.0).reshape(2, 3), np.empty((0, 3)), np.arange(12.0).reshape(4, 3)[:, ::-1]]
    found = spool.spooled(iter(parts), tmp_path)
    np.testing.assert_array_equal(found, np.concatenate(parts))
    assert not list(tmp_path.iterdir()) and not found.flags.writeable
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        spool.spooled(iter(parts[1:2]), tmp_path)


def test_ridge_does_not_depend_on_how_many_tokens_are_read_at_once(made_up, tmp_path, monkeypatch):
    data = split(made_up, tmp_path)
    stopping = {"stopping_activations": data.stopping.activations, "stopping_targets": data.stopping.scores}
    fits = [ridge.fit(*data.training[:2], **stopping)]
    monkeypatch.setattr(auxiliary, "BLOCK_SIZE", 77)
    fits.append(ridge.fit(*data.training[:2], **stopping))
    np.testing.assert_allclose(fits[0].weights, fits[1].weights, rtol=1e-7)


PROBE = """
import sys, tempfile, threading, time
from pathlib import Path
import numpy as np, polars as pl
from susc_pipeline import schema
from susc_pipeline.representation import auxiliary, auxiliary_training, evaluation, moments, pca, ridge
from susc_pipeline.susceptibility import reliability

def anonymous():  # what the process itself holds: mapped pages of files are the system's, which takes them back
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024

frames = [{path.stem[-5:]: pl.scan_parquet(path) for path in sorted(Path(sys.argv[1]).glob(f"{kind}-*"))}
          for kind in ("activations", "responses", "susceptibilities")]
training = [name for name in sorted(frames[0]) if name != "00000"]
done, seen, before = threading.Event(), [], anonymous()

def watch():
    while not done.is_set():
        seen.append(anonymous())
        time.sleep(0.001)

watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
truth = {name: frames[2][name] for name in training}
shards = (schema.stack({name: frame}, "susceptibility").values for name, frame in truth.items())
basis = pca.fit(moments.merge_all(moments.of(values) for values in shards))
halves = reliability.moments_of_halves(truth.values())
assert (reliability.split_half_scores(halves, basis).reliability > 0.5).all()
of_basis = max(seen)
withheld = {name: frame for name, frame in frames[2].items() if name not in training}
data = evaluation.split(*frames[:2], withheld, basis, folder=Path(sys.argv[1]))
settings = auxiliary.AuxSettings(max_epochs=1)
stopping = {"stopping_activations": data.stopping.activations, "stopping_targets": data.stopping.scores}
rng = np.random.default_rng(0)
auxiliary_training.train(*data.training[:2], **stopping, settings=settings, hidden_width=64, rng=rng)
of_model = max(seen)
ridge.fit(*data.training[:2], **stopping)
done.set()
watcher.join()
print(data.training.activations.nbytes / 2**20, of_basis - before, of_model - before, max(seen) - before)
"""


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_number_of_training_shards(tmp_path):
    """4,000 tokens a shard, 1,024 features, 64 components: 8 MiB of activations a shard, stacked in float32 16."""
    found = {}
    for n_training in (2, 8, 32):
        folder = tmp_path / str(n_training)
        folder.mkdir()
        shards.write(folder, n_training + 1, n_tokens=4000, n_features=1024, n_components=64)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
        environment |= {"POLARS_MAX_THREADS": "1"}
        command = [sys.executable, "-c", PROBE, str(folder)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        found[n_training] = [float(word) for word in output.split()]
        print(n_training, "training shards: MiB of activations, peak of basis, of model, of ridge:", output)
    assert found[32][0] == 16 * found[2][0] > 200
    for few, many in zip(found[2][1:], found[32][1:], strict=True):
        assert many < 1.5 * few + 10, found


def test_linear_response_is_held_against_chains_that_it_does_not_share(tmp_path):
    """Both measurements have the noise of their half in common; between different halves they share the signal alone."""
    rng = np.random.default_rng(3)
    signal, noise = rng.normal(size=(40_000, 3)), rng.normal(size=(2, 40_000, 3))
    halves = [signal + noise[0], signal + noise[1]]
    products = moments.of(np.concatenate([*halves, *halves], axis=1).astype(np.float32))
    basis = pca.fit(moments.of(signal), n_components=3)
    np.testing.assert_allclose(evaluation.unshared(products, basis), 1 / 1.5, rtol=0.03)
