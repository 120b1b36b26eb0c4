"""Experiment configuration: one frozen dataclass per stage, read from one TOML file.

Each section of the file is a stage, each key a field of its dataclass, with its meaning and unit. A stage's dataclass stands
beside the code that it steers; ExperimentConfig says where. Which file is read is decided in resources/experiment.py.
"""

import dataclasses
import hashlib
import json
import math
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from susc_pipeline.clustering.knn import KNNSettings
from susc_pipeline.clustering.local_cluster import SearchSettings
from susc_pipeline.corpus import CorpusSettings
from susc_pipeline.explorer.settings import ExplorerSettings
from susc_pipeline.messages import has_credentials, require, shown, without_credentials
from susc_pipeline.model.pretrained import ModelSettings
from susc_pipeline.patterning.wanted_changes import WantedChange
from susc_pipeline.representation.auxiliary import AuxSettings
from susc_pipeline.representation.leakage import LeakageSettings
from susc_pipeline.representation.pca import RepresentationSettings
from susc_pipeline.sampling.calibration import CalibrationSettings
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility.data_changes import CLUSTER_NAME, DataChange
from susc_pipeline.susceptibility.directions import DirectionSettings
from susc_pipeline.susceptibility.estimators import ESTIMATORS, SusceptibilitySettings
from susc_pipeline.susceptibility.linear_response import LinearResponseSettings
from susc_pipeline.susceptibility.readouts import Observable
from susc_pipeline.susceptibility.regime import RegimeSettings
from susc_pipeline.tokens import TokenSettings

EXECUTORS = ("local", "ray")
MAX_FILE_BYTES = 1 << 14
MAX_INTEGER = 2**63 - 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Keys that came later, each with the one that must be given for it to count: other experiments keep their artifacts.
COUNTED_WHERE_GIVEN = (
    ("sampling", "target_rise", "target_rise"),
    ("sampling", "largest_noise", "target_rise"),
    ("corpus", "max_document_characters", "max_document_characters"),
)
# Lists that an experiment without entries keeps its artifacts by.
COUNTED_WHERE_NAMED = ("data_changes", "observables", "wanted_changes")
NEVER_COUNTED = (("model", "device"), ("corpus", "license"))  # they decide no number
Section = typing.TypeVar("Section")


def require_name(name: str, value: str) -> None:
    """Refuse what would not be the name of one folder beside others."""
    rule = (
        "letters, digits, dots, dashes and underscores, 100 at most and a letter or digit first, for it names a folder"
    )
    require(NAME.fullmatch(value) is not None, name, value, rule)


@dataclass(frozen=True)
class ExecutionSettings:
    """Who does the work. It may decide no number, so it is in no digest."""

    executor: str = "local"
    """Who samples components: `local`, this process, one after another; `ray`, workers of a Ray cluster, one each."""
    address: str = ""
    """Ray cluster to join, such as `auto` (the one on this machine) or `10.0.0.1:6379`; empty starts one for the run."""
    threads: int = 0
    """CPU threads that sample a component; 0 takes torch's number in this process, or one beside a GPU. On a CPU, sums
    may be rounded otherwise with another number: give it to compare machines bit by bit."""
    gpu: bool = False
    """Whether each Ray worker has a GPU to itself."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(self.executor in EXECUTORS, "execution.executor", self.executor, f"one of {EXECUTORS}")
        require(self.threads >= 0, "execution.threads", self.threads, "zero or more")


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: everything that decides a number, and who does the work."""

    name: str
    """Name of the experiment and of its folder in the store."""
    seed: int = 0
    """Seed from which every generator is derived."""
    model: ModelSettings = field(default_factory=ModelSettings)
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    directions: DirectionSettings = field(default_factory=DirectionSettings)
    linear_response: LinearResponseSettings = field(default_factory=LinearResponseSettings)
    regime: RegimeSettings = field(default_factory=RegimeSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    susceptibility: SusceptibilitySettings = field(default_factory=SusceptibilitySettings)
    representation: RepresentationSettings = field(default_factory=RepresentationSettings)
    aux: AuxSettings = field(default_factory=AuxSettings)
    knn: KNNSettings = field(default_factory=KNNSettings)
    clustering: SearchSettings = field(default_factory=SearchSettings)
    leakage: LeakageSettings = field(default_factory=LeakageSettings)
    explorer: ExplorerSettings = field(default_factory=ExplorerSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    data_changes: tuple[DataChange, ...] = ()
    """Distributions of tokens whose susceptibility is asked for."""
    observables: tuple[Observable, ...] = ()
    """Observables beside the run's own."""
    wanted_changes: tuple[WantedChange, ...] = ()
    """Changes of components' losses for which documents get weights."""

    def __post_init__(self) -> None:
        """Check the values."""
        require_name("name", self.name)
        for other in self.explorer.compare_with:
            require_name("explorer.compare_with", other)
        names = [change.name for change in self.data_changes]
        _require_own_names("data_changes.name", names)
        for name in names:
            rule = "another name than cluster-N, which stands for cluster N wherever observables are shown"
            require(CLUSTER_NAME.fullmatch(name) is None, "data_changes.name", name, rule)
        _require_own_names("observables.name", [observable.name for observable in self.observables])
        _require_own_names("wanted_changes.name", [change.name for change in self.wanted_changes])
        rule = "above zero where changes are wanted: without the loss a posterior does not depend on the data"
        require(not self.wanted_changes or self.sampling.n_beta > 0, "sampling.n_beta", self.sampling.n_beta, rule)
        require(self.seed >= 0, "seed", self.seed, "zero or more")
        estimator, n_draws = ESTIMATORS[self.susceptibility.estimator], self.sampling.n_draws
        n_scores, dtype = self.linear_response.n_scores, self.model.dtype
        rule = (
            f"0 for susceptibility.estimator {self.susceptibility.estimator!r}, which has chains of all weights as well"
        )
        alike = self.sampling.target_rise == 0 or not estimator.needs_all_weights
        require(alike, "sampling.target_rise", self.sampling.target_rise, rule)
        rule = f"at most sampling.n_chains ({self.sampling.n_chains}), which have a score each"
        require(n_scores <= self.sampling.n_chains, "linear_response.n_scores", n_scores, rule)
        rule = "zero where model.dtype is bfloat16: a difference of its losses is noise"
        require(n_scores == 0 or dtype == "float32", "linear_response.n_scores", n_scores, rule)
        rule = f"float32 for susceptibility.estimator {self.susceptibility.estimator!r}, which takes second differences of losses"
        require(self.model.dtype == "float32" or not estimator.needs_responses, "model.dtype", self.model.dtype, rule)
        rule = f"at least 2 for susceptibility.estimator {self.susceptibility.estimator!r}, which is a covariance over draws"
        require(n_draws >= 2 or not estimator.is_covariance, "sampling.n_draws", n_draws, rule)

    @staticmethod
    def from_toml(path: Path) -> "ExperimentConfig":
        """The experiment written in a TOML file.

        Raises:
            ValueError: not TOML, an unknown section or key, a value of the wrong type or out of range.
        """
        try:
            with path.open("rb") as file:
                content = tomllib.loads(_decoded(file.read(MAX_FILE_BYTES + 1)))
        # Python's TOML reader has no limit of depth but the interpreter's, and says ValueError of too long a number.
        except (ValueError, RecursionError, OSError) as error:
            reason = without_credentials(str(error))
            raise ValueError(f"{path} is not a TOML file: {reason}; see resources/experiments/tiny.toml") from error
        try:
            return _build(ExperimentConfig, content, "")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def digest(self, *sections: str) -> str:
        """Sixteen hexadecimal digits that change with any value in the named sections, or in all of them.

        The seed always counts; the device, the text's licence and who does the work never do, for they may not decide a number.
        A choice of components is a section of its own, `components`: the model is the same whatever is chosen of it. That
        choice counts where it is given, and so do the keys of COUNTED_WHERE_GIVEN.
        """
        content = dataclasses.asdict(self)
        del content["execution"]
        content["components"] = content["model"].pop("components")
        content = {key: value for key, value in content.items() if value or key not in COUNTED_WHERE_NAMED}
        chosen = {key: content[key] for key in (*(sections or content), "seed")}
        for section, name in NEVER_COUNTED:
            if section in chosen:
                chosen[section] = {key: value for key, value in chosen[section].items() if key != name}
        if not chosen.get("components"):
            chosen.pop("components", None)
        for section, name, needed in COUNTED_WHERE_GIVEN:
            if section in chosen and not content[section][needed]:
                chosen[section] = {key: value for key, value in chosen[section].items() if key != name}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def _require_own_names(key: str, names: list[str]) -> None:
    for name in names:
        require_name(key, name)
        require(names.count(name) == 1, key, name, "given once")


def _decoded(content: bytes) -> str:
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
    return content.decode("utf-8")


def _build(kind: type[Section], content: object, where: str) -> Section:
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a section, got {shown(content)}; write [{where}] and its keys below")
    known = typing.get_type_hints(kind)
    values: dict[str, typing.Any] = {}
    for key, value in content.items():
        name = f"{where}.{key}" if where else key
        if key not in known:
            raise ValueError(f"unknown key {shown(name)}; known are {', '.join(sorted(known))}")
        section = dataclasses.is_dataclass(known[key])
        values[key] = _build(known[key], value, name) if section else _value(known[key], value, name)
    missing = [
        f.name for f in dataclasses.fields(typing.cast(typing.Any, kind)) if _is_required(f) and f.name not in values
    ]
    if missing:
        raise ValueError(f"key {missing[0]!r} is missing; add it")
    return kind(**values)


def _is_required(item: dataclasses.Field) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _value(kind: typing.Any, value: object, name: str) -> object:
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, name)
    if typing.get_origin(kind) is types.UnionType:
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if type(value) is int and not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise ValueError(f"{name} must be an integer of at most 64 bits; correct the value")
    if kind is float and type(value) is int:
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_value(typing.get_args(kind)[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    # `type is` and not isinstance: true is an int to Python, but not to the reader of a TOML file.
    if type(value) is not (typing.get_origin(kind) or kind):
        wanted = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{name} must be of type {wanted}, got {shown(value)}; correct the value")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}; correct the value")
    if isinstance(value, str) and has_credentials(value):
        raise ValueError(f"{name} holds the user or password of a URL; take it out and give it in the environment")
    return value
