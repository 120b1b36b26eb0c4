"""Experiment configuration: one frozen dataclass per stage, read from one TOML file.

Each section of the file is a stage, each key a field below, with its meaning and unit. Where the file lies, and
which one is used, is decided in resources/experiment.py. Settings of the auxiliary model, the k-NN graph and the
cluster search stand beside the code that they steer.
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
from susc_pipeline.explorer.settings import ExplorerSettings
from susc_pipeline.messages import has_credentials, shown, without_credentials
from susc_pipeline.representation.auxiliary import AuxSettings
from susc_pipeline.representation.leakage import LeakageSettings
from susc_pipeline.sampling.samplers import SAMPLERS
from susc_pipeline.susceptibility.estimators import ESTIMATORS

EXECUTORS = ("local", "ray")
UPSAMPLINGS = ("linear_response", "auxiliary")
MAX_FILE_BYTES = 1 << 14
MAX_INTEGER = 2**63 - 1
DEVICE = re.compile(r"auto|cpu|(cuda|mps|xpu)(:\d{1,3})?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Keys that came later: an experiment that does not give them keeps its artifacts.
COUNTED_WHERE_GIVEN = (("sampling", "target_rise"), ("corpus", "max_document_characters"))
Section = typing.TypeVar("Section")


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise a ValueError that names the setting, its value and the rule, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {rule}, got {shown(value)}; change it in the experiment's TOML file")


def require_name(name: str, value: str) -> None:
    """Refuse what would not be the name of one folder beside others."""
    rule = (
        "letters, digits, dots, dashes and underscores, 100 at most and a letter or digit first, for it names a folder"
    )
    require(NAME.fullmatch(value) is not None, name, value, rule)


@dataclass(frozen=True)
class ModelSettings:
    """Which language model, and how it is held in memory."""

    source: str = "embedded"
    """`embedded`, a local folder in Hugging Face format, or a Hub name."""
    revision: str = "main"
    """Hub revision (branch, tag or commit); not used for a local folder."""
    dtype: str = "float32"
    """Floating-point type of the weights: float32 or bfloat16."""
    device: str = "auto"
    """Torch device; `auto` takes the first GPU, else the CPU."""
    components: tuple[str, ...] = ()
    """Patterns of the components to measure, such as "L*H*", "L12MLP", "embed"; none named: all of the model's."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(self.dtype in ("float32", "bfloat16"), "model.dtype", self.dtype, "float32 or bfloat16")
        rule = "auto, cpu, or cuda, mps or xpu, if need be with a number such as cuda:1"
        require(DEVICE.fullmatch(self.device) is not None, "model.device", self.device, rule)


@dataclass(frozen=True)
class CorpusSettings:
    """Which text."""

    kind: str = "python_standard_library"
    """`python_standard_library`, `files` or `hub`."""
    path: str = ""
    """For `files`: a file or folder. For `hub`: the dataset's name."""
    text_column: str = "text"
    """Field of a record that holds the text (JSON lines, Parquet, Hub)."""
    revision: str = "main"
    """Hub revision of the data set."""
    split: str = "train"
    """Hub split."""
    max_documents: int = 100_000
    """Documents read from a Hub stream, at most."""
    max_document_characters: int = 0
    """For `files`: a longer text is split at blank lines into documents of at most so many characters; 0 splits none."""

    def __post_init__(self) -> None:
        """Check the values."""
        kinds = ("python_standard_library", "files", "hub")
        require(self.kind in kinds, "corpus.kind", self.kind, f"one of {kinds}")
        needs_path = self.kind != "python_standard_library"
        require(bool(self.path) or not needs_path, "corpus.path", self.path, f"given for corpus.kind {self.kind!r}")
        require(self.max_documents >= 1, "corpus.max_documents", self.max_documents, "at least 1")
        longest = self.max_document_characters
        require(longest >= 0, "corpus.max_document_characters", longest, "zero (no text is split) or more")


@dataclass(frozen=True)
class TokenSettings:
    """How documents become contexts and contexts become shards."""

    context_length: int = 128
    """Tokens of a context; the loss of every token but the first is measured."""
    contexts_per_shard: int = 32
    """Contexts of a token shard."""
    max_contexts_per_document: int = 8
    """Contexts that a shard takes from one document, at most; keeps one long file from filling a shard."""
    n_shards: int = 26
    """Token shards; every one is predicted and clustered."""
    n_ground_truth_shards: int = 3
    """Leading shards whose susceptibilities are sampled, the withheld ones among them."""
    n_validation_shards: int = 1
    """Last ground-truth shards, withheld from the PCA basis and the auxiliary model's training."""
    population_share: float = 0.5
    """Share of the corpus's documents reserved for the population loss; no shard takes them."""
    max_population_contexts_per_document: int = 64
    """Contexts that the population takes from one document, at most; keeps one long file from being a chain's population."""
    max_population_contexts: int = 0
    """Contexts of the population, at most, over all chains; 0 keeps all that its documents give."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(self.context_length >= 2, "tokens.context_length", self.context_length, "at least 2")
        require(self.contexts_per_shard >= 1, "tokens.contexts_per_shard", self.contexts_per_shard, "at least 1")
        require(1 <= self.n_shards <= 10_000, "tokens.n_shards", self.n_shards, "between 1 and 10000")
        ground_truth, validation = self.n_ground_truth_shards, self.n_validation_shards
        rule = f"between 2 and tokens.n_shards ({self.n_shards})"
        require(2 <= ground_truth <= self.n_shards, "tokens.n_ground_truth_shards", ground_truth, rule)
        rule = f"between 1 and tokens.n_ground_truth_shards - 1 ({ground_truth - 1})"
        require(1 <= validation < ground_truth, "tokens.n_validation_shards", validation, rule)
        per_document, total = self.max_contexts_per_document, self.max_population_contexts
        require(per_document >= 1, "tokens.max_contexts_per_document", per_document, "at least 1")
        per_document = self.max_population_contexts_per_document
        require(per_document >= 1, "tokens.max_population_contexts_per_document", per_document, "at least 1")
        require(0 < self.population_share < 1, "tokens.population_share", self.population_share, "between 0 and 1")
        require(total >= 0, "tokens.max_population_contexts", total, "zero (all of them) or more")


@dataclass(frozen=True)
class SamplingSettings:
    """The local posterior and the chains that sample it (method: Lau et al. 2023; Baker et al. 2025)."""

    sampler: str = "exponential"
    """One of sgld, rmsprop_sgld_paper, rmsprop_sgld_devinterp, exponential."""
    step_size: float = 1.0
    """Step of the sampler; for `exponential` the time h of one step in units of the prior's relaxation time."""
    n_beta: float = 30.0
    """Inverse temperature times number of samples: the weight of the mean loss, per nat."""
    localization: float = 300.0
    """Strength of the Gaussian pull to the trained weights, per squared weight."""
    target_rise: float = 0.0
    """Rise of the mean loss, in nats, that a component's noise shall cause: chooses a localization for each component, beginning
    at `localization`. 0 takes localization as it is, the same for all."""
    batch_size: int = 2
    """Population contexts of a chain's gradient, fresh at every step."""
    draw_batch_size: int = 0
    """Population contexts of a draw's scores (gauss_newton) or of its gradient (second_order), if more than batch_size."""
    n_reference_contexts: int = 2
    """Further contexts of each draw, on which the population's mean slopes and its loss are measured a second time."""
    n_chains: int = 8
    """Independent chains of a component: each has population documents of its own; even ones make half a, odd ones half b."""
    n_draws: int = 2
    """Draws of a shard's tokens kept from each chain; of a mirrored pair of chains both count."""
    n_burn_in: int = 2
    """Steps discarded before the first draw."""
    n_steps_between_draws: int = 1
    """Steps from one draw to the next."""
    negative_control: bool = False
    """Whether to compare the mean excess losses at n_beta and at zero with n_beta times the susceptibilities."""
    evaluation_batch_size: int = 64
    """Contexts times chains evaluated at once; bounds memory, changes no number beyond rounding."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(self.sampler in SAMPLERS, "sampling.sampler", self.sampler, f"one of {tuple(SAMPLERS)}")
        require(self.step_size > 0, "sampling.step_size", self.step_size, "positive")
        require(self.n_beta >= 0, "sampling.n_beta", self.n_beta, "zero (the negative control) or more")
        require(self.localization > 0, "sampling.localization", self.localization, "positive")
        require(self.target_rise >= 0, "sampling.target_rise", self.target_rise, "zero (localization as given) or more")
        rule = (
            "even and at least 4: both halves need two chains, for one chain's mean slope comes from another's contexts"
        )
        require(self.n_chains >= 4 and self.n_chains % 2 == 0, "sampling.n_chains", self.n_chains, rule)
        require(self.draw_batch_size >= 0, "sampling.draw_batch_size", self.draw_batch_size, "zero or more")
        require(self.n_burn_in >= 0, "sampling.n_burn_in", self.n_burn_in, "zero or more")
        for name in (
            "n_draws",
            "batch_size",
            "n_reference_contexts",
            "n_steps_between_draws",
            "evaluation_batch_size",
        ):
            require(getattr(self, name) >= 1, f"sampling.{name}", getattr(self, name), "at least 1")

    def at(self, localization: float) -> "SamplingSettings":
        """The same at the localization that a component's response directions were found at.

        Raises:
            ValueError: it is another than the one given, and none was to be chosen.
        """
        if not self.target_rise and localization != self.localization:
            raise ValueError(
                f"response_directions were found at localization {localization:g}, but sampling.localization is "
                f"{self.localization:g}; materialize response_directions again"
            )
        return dataclasses.replace(self, localization=localization)


@dataclass(frozen=True)
class DirectionSettings:
    """How well response directions are determined: chains of a component go on until it is enough."""

    reliability: float = 0.95
    """Reliability asked for, of linear responses on probe contexts by all chains together."""
    max_contexts: int = 8192
    """Population contexts that the chains of one component read, at most, all together."""
    n_probe_contexts: int = 16
    """Contexts, of no shard, on whose tokens the reliability is measured."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(0 < self.reliability < 1, "directions.reliability", self.reliability, "between 0 and 1")
        require(self.max_contexts >= 1, "directions.max_contexts", self.max_contexts, "at least 1")
        require(self.n_probe_contexts >= 1, "directions.n_probe_contexts", self.n_probe_contexts, "at least 1")

    def limited(self, max_contexts: int) -> "DirectionSettings":
        """The same with another budget."""
        return dataclasses.replace(self, max_contexts=max_contexts)


@dataclass(frozen=True)
class LinearResponseSettings:
    """How far the response at the trained weights goes."""

    n_scores: int = 0
    """Scores along which the second-order term is measured, two forward passes each; even, and at most sampling.n_chains. 0
    leaves that term out."""

    def __post_init__(self) -> None:
        """Check the values."""
        rule = "even, for half of them belong to either half of the chains, and not negative"
        require(self.n_scores >= 0 and self.n_scores % 2 == 0, "linear_response.n_scores", self.n_scores, rule)


@dataclass(frozen=True)
class RegimeSettings:
    """For which components it is tried where the loss begins to decide."""

    components: tuple[str, ...] = ()
    """Components whose n_beta is swept; none named: none."""
    n_betas: tuple[float, ...] = (30.0, 300.0)
    """Weights of the mean loss, each compared with zero."""
    max_contexts: int = 512
    """Population contexts that the chains read at each n_beta, at most."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(len(self.n_betas) >= 1, "regime.n_betas", self.n_betas, "at least one value")
        require(min(self.n_betas, default=0) >= 0, "regime.n_betas", self.n_betas, "zero or more")
        require(self.max_contexts >= 1, "regime.max_contexts", self.max_contexts, "at least 1")


@dataclass(frozen=True)
class CalibrationSettings:
    """The sweep that shows which sampler settings are sound; nothing else reads its result."""

    enabled: bool = False
    """Whether to make the sweep; without it the table is empty."""
    step_sizes: tuple[float, ...] = (1.0, 2.0)
    """Step sizes tried."""
    n_betas: tuple[float, ...] = (10.0, 30.0, 100.0)
    """Weights of the mean loss tried."""
    localizations: tuple[float, ...] = (100.0, 300.0, 1000.0)
    """Pulls to the trained weights tried."""
    components: tuple[str, ...] = ()
    """Components tried; none named: one of each kind, those of a layer from the middle one."""
    n_contexts: int = 4
    """Contexts whose token losses are measured."""
    n_draws: int = 8
    """Draws of each chain."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("step_sizes", "n_betas", "localizations"):
            require(len(getattr(self, name)) >= 1, f"calibration.{name}", getattr(self, name), "at least one value")
        require(min(self.step_sizes) > 0, "calibration.step_sizes", self.step_sizes, "positive")
        require(min(self.n_betas) >= 0, "calibration.n_betas", self.n_betas, "zero or more")
        require(min(self.localizations) > 0, "calibration.localizations", self.localizations, "positive")
        require(self.n_contexts >= 1, "calibration.n_contexts", self.n_contexts, "at least 1")
        require(self.n_draws >= 4, "calibration.n_draws", self.n_draws, "at least 4, for R-hat")


@dataclass(frozen=True)
class SusceptibilitySettings:
    """How the draws become a number for each token."""

    estimator: str = "gauss_newton"
    """One of gauss_newton, second_order, first_order, restricted, stein, two_chain, influence; each file of
    susceptibility/estimators says what it leaves out."""

    def __post_init__(self) -> None:
        """Check the values."""
        rule = f"one of {tuple(ESTIMATORS)}"
        require(self.estimator in ESTIMATORS, "susceptibility.estimator", self.estimator, rule)


@dataclass(frozen=True)
class RepresentationSettings:
    """Residual-stream inputs, PCA and whitening."""

    upsampling: str = "linear_response"
    """Where the vectors of all tokens come from: `linear_response`, measured at the trained weights, or `auxiliary`, predicted
    from activations by the auxiliary model."""
    layers: tuple[int, ...] = (1, 2, 3, 4)
    """Residual stream after these layers (1 = after the first) is the auxiliary model's input."""
    n_components: int = 0
    """Principal components considered; 0 considers one per model component."""
    min_reliability: float = 0.5
    """Split-half reliability below which a principal component is dropped: at 1/2 it is half noise, and whitening would
    give that noise the weight of a signal. A component of little variance that is reliable stays."""
    whitening_floor: float = 1e-3
    """Principal components with less than this share of the largest predicted variance are dropped."""

    def __post_init__(self) -> None:
        """Check the values."""
        rule = f"one of {UPSAMPLINGS}"
        require(self.upsampling in UPSAMPLINGS, "representation.upsampling", self.upsampling, rule)
        require(len(self.layers) >= 1, "representation.layers", self.layers, "at least one layer")
        require(min(self.layers) >= 1, "representation.layers", self.layers, "numbers from 1")
        require(len(set(self.layers)) == len(self.layers), "representation.layers", self.layers, "different layers")
        require(self.n_components >= 0, "representation.n_components", self.n_components, "zero or more")
        require(self.min_reliability < 1, "representation.min_reliability", self.min_reliability, "below 1")
        require(0 <= self.whitening_floor < 1, "representation.whitening_floor", self.whitening_floor, "in [0, 1)")


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

    def __post_init__(self) -> None:
        """Check the values."""
        require_name("name", self.name)
        for other in self.explorer.compare_with:
            require_name("explorer.compare_with", other)
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
        require(self.model.dtype == "float32" or not estimator.needs_curvatures, "model.dtype", self.model.dtype, rule)
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

        The seed always counts; the device and who does the work never do, for they may not decide a number. A choice of
        components is a section of its own, `components`: the model is the same whatever is chosen of it. That choice and the
        keys of COUNTED_WHERE_GIVEN count where they are given.
        """
        content = dataclasses.asdict(self)
        del content["execution"]
        content["components"] = content["model"].pop("components")
        chosen = {key: content[key] for key in (*(sections or content), "seed")}
        if "model" in chosen:
            chosen["model"] = {key: value for key, value in chosen["model"].items() if key != "device"}
        if not chosen.get("components"):
            chosen.pop("components", None)
        for section, name in COUNTED_WHERE_GIVEN:
            if section in chosen:
                chosen[section] = {key: value for key, value in chosen[section].items() if key != name or value}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


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
