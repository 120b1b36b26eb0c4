"""Checkpoints of a training: at doubled steps, in float16, the same whether the training was ended in between or not."""

import numpy as np
import pytest
import torch

from resources import checkpoints
from susc_pipeline.model import pretrained, tiny

RECIPE = tiny.TinyRecipe(
    hidden_size=16, n_layers=1, n_heads=2, context_length=16, batch_size=2, n_steps=8, n_warmup_steps=2
)
TEXTS = ["def value(self):\n    return self.count\n" * 20, "for index in range(10):\n    print(index)\n" * 20]


def weights(folder):
    return pretrained.load(folder, device="cpu").model.unembedding.numpy().copy()


def test_steps_double_up_to_the_last():
    assert checkpoints.log_spaced(2048, 9) == [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    assert checkpoints.log_spaced(4500, 3) == [1125, 2250, 4500]
    with pytest.raises(ValueError, match="need 256 steps or more, got 255"):
        checkpoints.log_spaced(255, 9)


def test_the_last_checkpoint_is_the_trained_model_to_half_precision(tmp_path):
    folders = checkpoints.train(tmp_path, RECIPE, texts=TEXTS, n_checkpoints=3)
    assert [folder.name for folder in folders] == ["step-000002", "step-000004", "step-000008"]
    stream = tiny.token_stream(TEXTS, pretrained.load(pretrained.EMBEDDED, device="cpu").tokenizer)
    trained = tiny.train(tiny.build_model(RECIPE), stream, RECIPE)
    expected = trained.get_output_embeddings().weight.detach().half().float().numpy()
    np.testing.assert_array_equal(weights(folders[-1]), expected)
    assert not np.array_equal(weights(folders[0]), weights(folders[1]))


def test_a_training_that_was_ended_goes_on_to_the_same_weights(tmp_path):
    whole = checkpoints.train(tmp_path / "whole", RECIPE, texts=TEXTS, n_checkpoints=3)

    def end(step, loss):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.train(tmp_path / "ended", RECIPE, texts=TEXTS, n_checkpoints=3, progress=end)
    taken = []
    again = checkpoints.train(
        tmp_path / "ended", RECIPE, texts=TEXTS, n_checkpoints=3, progress=lambda step, loss: taken.append(step)
    )
    assert taken == [5, 6, 7, 8]  # from the checkpoint of step 4 on
    for own, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(weights(own), weights(other))


def test_checkpoints_that_are_there_are_not_made_again(tmp_path):
    first = checkpoints.train(tmp_path, RECIPE, texts=TEXTS, n_checkpoints=3)
    before = [(folder / "model.safetensors").stat().st_mtime_ns for folder in first]

    def refuse(step, loss):
        raise AssertionError("a step was taken")

    again = checkpoints.train(tmp_path, RECIPE, texts=TEXTS, n_checkpoints=3, progress=refuse)
    assert [(folder / "model.safetensors").stat().st_mtime_ns for folder in again] == before
    assert not (tmp_path / checkpoints.STATE).exists()


def test_nine_checkpoints_of_the_recipe_take_at_most_sixteen_megabytes():
    n_parameters = tiny.build_model(checkpoints.RECIPE).num_parameters()
    assert checkpoints.N_CHECKPOINTS * n_parameters * torch.float16.itemsize < 16e6
