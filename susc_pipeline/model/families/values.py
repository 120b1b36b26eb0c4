"""Numbers and switches of a config.json: taken within bounds, or refused by name. Which of them a family reads, it says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from susc_pipeline.messages import shown
from susc_pipeline.model.description import AttentionKind
from susc_pipeline.model.nonlinearity import NONLINEARITIES
from susc_pipeline.model.rotary import SCALINGS, Rotary, Scaling, rotary

MAX_SIZE = 1 << 24
MAX_HEADS = 10_000
MAX_HEAD_SIZE = 1 << 14
MAX_LAYERS = 1_000
LARGEST = 1e6  # of a factor of rotary positions
FACTORS = ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")
FACTORS += ("attention_factor", "mscale", "mscale_all_dim")
NEEDED = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
FIELDS = {"low_freq_factor": "low_frequency_factor", "high_freq_factor": "high_frequency_factor"}


@dataclass(frozen=True)
class Values:
    """What config.json says, and where it lies."""

    content: Mapping[str, Any]
    path: Path

    def renamed(self, names: Mapping[str, str]) -> "Values":
        """The same with what stands under the first names under the second."""
        return Values({**self.content, **{new: self.content.get(old) for old, new in names.items()}}, self.path)

    def size(self, name: str, default: int | None = None, *, largest: int = MAX_SIZE) -> int:
        """An integer from 1 to the largest.

        Raises:
            ValueError: anything else.
        """
        value = self._given(name, default)
        if type(value) is not int or not 1 <= value <= largest:
            raise ValueError(f"{name} must be an integer from 1 to {largest}, got {shown(value)}; correct {self.path}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            ValueError: anything else.
        """
        value = self._given(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {shown(value)}; correct {self.path}")
        return value

    def number(self, name: str, default: float | None = None, *, largest: float) -> float:
        """A number above zero.

        Raises:
            ValueError: anything else.
        """
        return _number(self._given(name, default), name, largest, self.path)

    def number_or_none(self, name: str, default: float | None = None, *, largest: float) -> float | None:
        """The same, where null means that the feature is absent."""
        value = self.content.get(name, default)
        return None if value is None else _number(value, name, largest, self.path)

    def nonlinearity(self, name: str, default: str) -> str:
        """A name of NONLINEARITIES.

        Raises:
            ValueError: a function that is not computed here.
        """
        value = self._given(name, default)
        if not isinstance(value, str) or value not in NONLINEARITIES:
            raise ValueError(
                f"{self.path} must have a {name} that is known here, got {shown(value)}; choose another model"
            )
        return value

    def absent(self, name: str, feature: str) -> None:
        """Refuse a model that has a feature.

        Raises:
            ValueError: the flag is set; names the feature.
        """
        if self.content.get(name):
            raise ValueError(f"{self.path} has {name}, but {feature} is not computed here; choose another model")

    def n_layers(self) -> int:
        """Number of layers."""
        return self.size("num_hidden_layers", largest=MAX_LAYERS)

    def count(self, name: str, default: int) -> int:
        """An integer of at least zero.

        Raises:
            ValueError: anything else.
        """
        return 0 if self.content.get(name) == 0 else self.size(name, default)

    def shape(self, n_heads: int, n_groups: int, head_size: int, *, inner_size: int | None = None) -> dict[str, int]:
        """The sizes that every description has; the width of the MLP may have a default."""
        return {
            "vocabulary_size": self.size("vocab_size"),
            "hidden_size": self.size("hidden_size"),
            "inner_size": self.size("intermediate_size", inner_size),
            "n_heads": n_heads,
            "n_groups": n_groups,
            "head_size": head_size,
            "max_positions": self.size("max_position_embeddings"),
        }

    def without(self, *names: str) -> "Values":
        """The same, where some values are not given."""
        return Values({name: value for name, value in self.content.items() if name not in names}, self.path)

    def windows(self, layer_types: list[str], *, default: int) -> list[int | None]:
        """The sliding window of each layer: those of type `sliding_attention` in config.json, or in the default, have one.

        Raises:
            ValueError: another type, or another number of them than layers.
        """
        given = self._given("layer_types", layer_types)
        kinds = ("full_attention", "sliding_attention")
        if not isinstance(given, list) or len(given) != len(layer_types) or any(kind not in kinds for kind in given):
            raise ValueError(f"layer_types must name one of {kinds} a layer, got {shown(given)}; correct {self.path}")
        return [self.size("sliding_window", default) if kind == "sliding_attention" else None for kind in given]

    def heads(self, *, head_size: int | None = None) -> tuple[int, int, int]:
        """Heads, groups of keys and values, and the size of a head.

        Raises:
            ValueError: heads that do not share groups evenly, or a width that no whole number of heads fills.
        """
        n_heads = self.size("num_attention_heads", largest=MAX_HEADS)
        n_groups = self.size("num_key_value_heads", n_heads, largest=MAX_HEADS)
        size, left = divmod(self.size("hidden_size"), n_heads)
        if self.content.get("head_dim") is not None or head_size:
            size, left = self.size("head_dim", head_size), 0
        if size > MAX_HEAD_SIZE:
            raise ValueError(f"a head must be at most {MAX_HEAD_SIZE} wide, got {size}; correct {self.path}")
        if left or n_heads % n_groups:
            raise ValueError(
                f"{self.path} must divide hidden_size into heads, and heads evenly into key-value heads; correct it"
            )
        return n_heads, n_groups, size

    def equal_heads(self) -> tuple[int, int]:
        """Heads, each with a key and a value of its own, and the size of one."""
        n_heads, _, size = self.without("num_key_value_heads", "head_dim").heads()
        return n_heads, size

    def rotary(
        self,
        head_size: int,
        *,
        share: float = 1.0,
        base: float = 10_000.0,
        key: str | None = None,
        partial: bool = False,
    ) -> Rotary:
        """Rotary positions as `rope_scaling` or `rope_parameters` has them, or in the words of older checkpoints.

        Args:
            head_size: of the model.
            share: part of a head that turns, unless config.json says another.
            base: likewise.
            key: of the layers, where layers of a kind have parameters of their own.
            partial: whether a part of a head may turn.

        Raises:
            ValueError: an unknown scaling, a value out of bounds, or an odd number of entries that turn.
        """
        said = self.content.get("rope_scaling") or self.content.get("rope_parameters") or {}
        said = said.get(key, said) if isinstance(said, dict) and key else said
        kind = said.get("rope_type", said.get("type", "default")) if isinstance(said, dict) else said
        if not isinstance(said, dict) or not isinstance(kind, str) or kind not in SCALINGS:
            raise ValueError(
                f"{self.path} must have rotary positions of a kind among {', '.join(SCALINGS)}, got {shown(kind)}; "
                f"choose another model"
            )
        if any(isinstance(value, dict) for value in said.values()):
            raise ValueError(f"{self.path} must have rotary positions for all layers, got {shown(said)}; correct it")
        scaling = Scaling(kind=kind, **self._scaling(said, kind, share, base))
        if scaling.share < 1 and not partial:
            raise ValueError(
                f"{self.path} has partial_rotary_factor {scaling.share:g}, which is not computed here for its family; "
                f"choose another model"
            )
        if int(head_size * scaling.share) % 2 or not int(head_size * scaling.share):
            raise ValueError(f"{self.path} must divide hidden_size into heads whose rotary part is even; correct it")
        return self._finite(head_size, scaling)

    def _finite(self, head_size: int, scaling: Scaling) -> Rotary:
        try:
            found = rotary(head_size, scaling)
        except (ArithmeticError, RuntimeError):
            found = Rotary((math.inf,))
        if not all(map(math.isfinite, (*found.frequencies, found.factor))):
            raise ValueError(
                f"{self.path} must have rotary positions that are finite, got {shown(scaling)}; correct it"
            )
        return found

    def _scaling(self, said: Mapping[str, Any], kind: str, share: float, base: float) -> dict[str, Any]:
        top, own = Values({**self.content, **said}, self.path), Values(said, self.path)
        found: dict[str, Any] = {"base": top.number("rope_theta", base, largest=1e15)}
        found["share"] = top.number("partial_rotary_factor", share, largest=1.0)
        found["truncate"] = top.flag("truncate", True)
        length, key = float(self.size("max_position_embeddings")), "original_max_position_embeddings"
        at_top = self.number_or_none(key, largest=1e9)  # where both are given, transformers follows this one
        found["original_positions"] = own.number(key, length, largest=1e9) if at_top is None else at_top
        stretched = {"factor": length / found["original_positions"]} if kind == "yarn" else {}
        for name in FACTORS:
            needed = name in NEEDED.get(kind, ()) or name in stretched
            read = own.number if needed else own.number_or_none
            value = read(name, stretched.get(name), largest=LARGEST)
            found |= {} if value is None else {FIELDS.get(name, name): value}
        return found

    def _given(self, name: str, default: Any) -> Any:
        """The value, or the default where it is absent; null counts as absent where there is a default."""
        value = self.content.get(name, default)
        return default if value is None and default is not None else value


def same_in_every_layer(values: Values, kind: AttentionKind) -> tuple[AttentionKind, ...]:
    """One kind of attention for all layers."""
    return (kind,) * values.n_layers()


def _number(value: object, name: str, largest: float, path: Path) -> float:
    if type(value) not in (int, float) or not 0 < value <= largest:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"{name} must be a number above 0 and at most {largest:g}, got {shown(value)}; correct {path}")
    return float(value)  # pyright: ignore[reportArgumentType]
