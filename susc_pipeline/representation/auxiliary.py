"""Auxiliary model: residual-stream activations to PC scores, one hidden layer, with its prediction and storage.

Training (auxiliary_training.py), reading activations, splitting documents, the linear baseline (ridge.py) and judging predictions
(metrics.py) stay out.

Susceptibilities are mostly sampling noise, and their tokens few: what matters is that the model does not learn the
noise. Hence strong weight decay, averaged weights, a decoder that starts near zero, and stopping on withheld documents.
Withhold documents of *other shards* where there are enough: within a shard the chains, and so the noise, are shared.
"""

import json
import typing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors.torch import save_file
from torch import nn

from susc_pipeline import folders

KIND = "aux_model"
AXES = {"input_mean": "features", "input_scale": "features", "target_mean": "pcs", "target_scale": ""}
AXES |= {
    "encoder.weight": "hidden features",
    "encoder.bias": "hidden",
    "decoder.weight": "pcs hidden",
    "decoder.bias": "pcs",
}
BLOCK_SIZE = 4096
MIXED_PRECISION = ("cuda",)  # types of device whose matrix products are taken in bfloat16


@dataclass(frozen=True)
class AuxSettings:
    """Width, loss and training of the auxiliary model."""

    hidden_multiplier: int = 16
    """Hidden units per dimension of the language model's residual stream."""
    l1_penalty: float = 0.1
    """Weight of the mean absolute hidden code, beside the squared error as a share of the targets' variance."""
    learning_rate: float = 1e-3
    """Step of AdamW."""
    weight_decay: float = 0.3
    """Logarithm by which an epoch of decay alone shrinks the weight matrices, however many steps it has."""
    averaging_steps: int = 100
    """Steps over which weights are averaged, as an exponential moving mean; 1 keeps the last weights."""
    batch_size: int = 256
    """Tokens of a training step."""
    max_epochs: int = 40
    """Passes over the training tokens, at most."""
    patience: int = 5
    """Epochs without a lower stopping loss after which training ends."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("hidden_multiplier", "averaging_steps", "batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"aux.{name} must be at least 1, got {getattr(self, name)}; raise it")
        for name in ("l1_penalty", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"aux.{name} must be zero or more, got {getattr(self, name)}; zero turns it off")
        if not self.learning_rate > 0:
            raise ValueError(f"aux.learning_rate must be positive, got {self.learning_rate}; 1e-3 is the default")


class AuxModel(nn.Module):
    """scores = target_mean + target_scale * decoder(relu(encoder((activations - input_mean) / input_scale))).

    Every input feature is z-scored: layers differ in norm, and a few outlier features would hide the others. All
    targets share *one* scale. The targets come from a rotation of z-scored susceptibilities, whose Monte-Carlo noise
    has about the same variance along every PC, so one scale makes the squared error their Gaussian likelihood; a
    scale for each PC would give the noise of the last PCs the weight of the first ones.
    """

    input_mean: torch.Tensor
    input_scale: torch.Tensor
    target_mean: torch.Tensor
    target_scale: torch.Tensor
    encoder: nn.Linear
    decoder: nn.Linear

    def __init__(self, n_features: int, hidden_width: int, n_pcs: int) -> None:
        """An empty model; `initialized` or `load` fill it."""
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(n_features))
        self.register_buffer("input_scale", torch.ones(n_features))
        self.register_buffer("target_mean", torch.zeros(n_pcs))
        self.register_buffer("target_scale", torch.ones(()))
        # skip_init, because nn.Linear would draw its weights from the global generator.
        self.encoder = typing.cast(nn.Linear, nn.utils.skip_init(nn.Linear, n_features, hidden_width))
        self.decoder = typing.cast(nn.Linear, nn.utils.skip_init(nn.Linear, hidden_width, n_pcs))

    def encode(self, activations: Float[torch.Tensor, "tokens features"]) -> Float[torch.Tensor, "tokens hidden"]:
        """Hidden code: zero or positive."""
        return torch.relu(self.encoder((activations.float() - self.input_mean) / self.input_scale))

    def decode(self, code: Float[torch.Tensor, "tokens hidden"]) -> Float32[torch.Tensor, "tokens pcs"]:
        """PC scores of a hidden code."""
        return self.target_mean + self.target_scale * self.decoder(code)

    def forward(self, activations: Float[torch.Tensor, "tokens features"]) -> Float32[torch.Tensor, "tokens pcs"]:
        """PC scores of activations."""
        return self.decode(self.encode(activations))


@torch.no_grad()
def predict(
    model: AuxModel, activations: Float[np.ndarray, "tokens features"], *, batch_size: int = BLOCK_SIZE
) -> Float32[np.ndarray, "tokens pcs"]:
    """PC scores of activations, computed `batch_size` tokens at a time on the model's device."""
    predicted = np.empty((len(activations), model.decoder.out_features), dtype=np.float32)
    device = model.input_mean.device
    for start in range(0, len(activations), batch_size):
        block = slice(start, start + batch_size)
        with precision(device):
            predicted[block] = model(torch.tensor(activations[block], device=device)).cpu().numpy()
    return predicted


def precision(device: torch.device) -> torch.autocast:
    """In force: products in bfloat16 on a GPU, weights and all else in float32; on a CPU everything in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type in MIXED_PRECISION)


def save(model: AuxModel, folder: Path) -> None:
    """Write config.json and model.safetensors into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    n_pcs, hidden_width = model.decoder.weight.shape
    config = {"kind": KIND, "n_features": model.encoder.in_features, "hidden_width": hidden_width, "n_pcs": n_pcs}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, *, device: str = "cpu") -> AuxModel:
    """The model that `save` wrote, equal to the last bit, ready to predict.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    folders.read_config(folder, KIND)
    stored = folders.read_arrays(folder / "model.safetensors", AXES)
    hidden_width, n_features = stored["encoder.weight"].shape
    model = AuxModel(n_features, hidden_width, len(stored["decoder.weight"]))
    model.load_state_dict({name: torch.from_numpy(values) for name, values in stored.items()})
    return model.to(device).eval().requires_grad_(False)
