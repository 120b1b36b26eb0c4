"""`susc-pipeline init`: writes an experiment whose sizes fit the corpus and, where they are given, the hours.

The corpus is read and tokenized. Plain texts longer than a few thousand characters are split at blank lines, so that one file
is enough: an experiment needs many documents, since halves of the chains share none.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resources import language_model, price_table, tokenized_corpus
from susc_pipeline import beginnings, sizes, tokens
from susc_pipeline.config import AuxSettings, ExperimentConfig
from susc_pipeline.corpus import CorpusSettings
from susc_pipeline.messages import plain
from susc_pipeline.model import components, pretrained
from susc_pipeline.model.pretrained import LoadedModel, ModelSettings
from susc_pipeline.plan import Plan
from susc_pipeline.representation.pca import RepresentationSettings
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility.directions import DirectionSettings
from susc_pipeline.tokens import TokenizedDocument, TokenSettings

MAX_DOCUMENT_CHARACTERS = (8_000, 4_000, 2_000)  # the first that gives documents enough
FIRST_LOOK = 1 / 6  # hours, where the wish names none
TARGET_RISE = 0.05  # nats; the embedded model keeps the localization that was chosen for it
TEMPLATE = """\
# {model_name} on {corpus_name}; written by `susc-pipeline init`. Every key: the dataclasses named in susc_pipeline/config.py.
# The corpus: {counts}.
# Price: {price}.
name = {name}
seed = 1

[model]
source = {source}
{components}
[corpus]
kind = "files"
path = {path}
{text_column}{license}max_document_characters = {max_document_characters}  # longer texts are split at blank lines

[tokens]
context_length = {context_length}
contexts_per_shard = {contexts_per_shard}
n_shards = {n_shards}
n_ground_truth_shards = 2  # sampled; the last one is withheld from every fit
population_share = {population_share}  # of the documents, whose mean loss is the observable
max_population_contexts = {max_population_contexts}

[sampling]
step_size = 2.0
{localization}
draw_batch_size = 4
n_chains = {n_chains}
n_draws = {n_draws}

[directions]
reliability = 0.93
max_contexts = {max_contexts}

[representation]
layers = [{layers}]  # what the auxiliary model reads

[aux]
hidden_multiplier = 8
max_epochs = 8
"""


@dataclass(frozen=True)
class Wish:
    """What an experiment is to be written for."""

    model: str
    """`embedded`, a Hugging Face folder, or a Hub name."""
    corpus: str
    """A file or folder."""
    hours: float | None = None
    """That it may take on this machine; none: a first look, or the smallest experiment if that takes longer."""
    name: str = ""
    """Of the experiment; empty takes the corpus's."""
    components: tuple[str, ...] = ()
    """Patterns of components; none takes all."""
    text_column: str = "text"
    """Field of a record that holds its text."""
    context_length: int = 128
    """Tokens of a context."""
    license: str = ""
    """Of the text; empty where it is not stated."""
    output: Path | None = None
    """The file to write; none takes NAME.toml in the working directory."""


def base(wish: Wish, loaded: LoadedModel) -> ExperimentConfig:
    """What is not a size: model, corpus, sampler."""
    n_layers, is_embedded = loaded.model.n_layers, wish.model == "embedded"
    quarters = (max(1, n_layers * quarter // 4) for quarter in (1, 2, 3, 4))
    is_folder = not is_embedded and language_model.folder_of(ModelSettings(source=wish.model)).is_dir()
    source = _absolute(wish.model) if is_folder else wish.model
    return ExperimentConfig(
        name=wish.name or _name(Path(_absolute(wish.corpus)).resolve()),
        seed=1,
        model=ModelSettings(source=source, components=wish.components),
        corpus=CorpusSettings(
            kind="files", path=_absolute(wish.corpus), text_column=wish.text_column, license=wish.license
        ),
        tokens=TokenSettings(context_length=wish.context_length, population_share=0.65),
        sampling=SamplingSettings(step_size=2.0, draw_batch_size=4, target_rise=0.0 if is_embedded else TARGET_RISE),
        directions=DirectionSettings(reliability=0.93),
        representation=RepresentationSettings(layers=tuple(sorted(set(quarters)))),
        aux=AuxSettings(hidden_multiplier=8, max_epochs=8),
    )


def text(experiment: ExperimentConfig, counts: str, priced: str) -> str:
    """The experiment as a TOML file with comments."""
    chosen, rise = experiment.model.components, experiment.sampling.target_rise
    column = experiment.corpus.text_column
    words = {
        "model_name": experiment.model.source.replace("\n", " "),
        "corpus_name": Path(experiment.corpus.path).name.replace("\n", " "),
        "counts": counts,
        "price": priced,
        "name": _quoted(experiment.name),
        "source": _quoted(experiment.model.source),
        "components": f"components = [{', '.join(map(_quoted, chosen))}]\n" if chosen else "",
        "path": _quoted(experiment.corpus.path),
        "text_column": f"text_column = {_quoted(column)}\n" if column != "text" else "",
        "license": f"license = {_quoted(experiment.corpus.license)}\n" if experiment.corpus.license else "",
        "localization": f"target_rise = {rise}  # nats; it chooses each component's localization" if rise else "",
        "layers": ", ".join(map(str, experiment.representation.layers)),
        "n_chains": experiment.sampling.n_chains,
        "n_draws": experiment.sampling.n_draws,
        "max_contexts": experiment.directions.max_contexts,
    }
    sized = dataclasses.asdict(experiment.tokens) | dataclasses.asdict(experiment.corpus) | words
    return re.sub(r"\n\n(?=draw_batch_size)", "\n", re.sub(r"\n{3,}", "\n\n", TEMPLATE.format(**sized)))


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _name(place: Path) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", place.name.partition(".")[0]).strip("-._")
    return cleaned[:100] or "mine"


def _counts(documents: Sequence[TokenizedDocument]) -> str:
    n_tokens = sum(len(document.token_ids) for document in documents)
    n_copies = len(documents) - len({document.token_ids.tobytes() for document in documents})
    return f"{len(documents):,} documents, {n_copies:,} of them copies of another; {n_tokens:,} tokens"


def made(wish: Wish) -> tuple[ExperimentConfig, str, str]:
    """The experiment, the counts of its corpus and its price, in words.

    Raises:
        ValueError: no such model or corpus, too little text, or too few hours.
    """
    settings = ModelSettings(source=wish.model, components=wish.components)
    loaded = language_model.load(language_model.locate(settings), settings)
    begun = base(wish, loaded)
    chosen = components.chosen(loaded.model, begun.model.components)
    rate = price_table.measured_rate(Plan(loaded.model, chosen, begun))

    def hours_of(one: ExperimentConfig) -> float:
        return price_table.hours(Plan(loaded.model, chosen, one), rate)

    hours, is_limit = (FIRST_LOOK, False) if wish.hours is None else (wish.hours, True)
    refused = ValueError("the corpus is empty")
    for longest in MAX_DOCUMENT_CHARACTERS:
        cut = dataclasses.replace(begun, corpus=dataclasses.replace(begun.corpus, max_document_characters=longest))
        documents = beginnings.begun(
            tokens.tokenize(tokenized_corpus.documents(cut.corpus), loaded.tokenizer),
            pretrained.beginning(loaded.tokenizer),
            cut.tokens.context_length,
        )
        try:
            experiment = sizes.fitted(documents, cut, hours_of=hours_of, hours=hours, is_limit=is_limit)
        except ValueError as error:
            refused = error
            continue
        return experiment, _counts(documents), price_table.summary(Plan(loaded.model, chosen, experiment), rate)
    raise refused


def write(wish: Wish) -> int:
    """Write the file and say what to do next; 0.

    Raises:
        ValueError: no such model or corpus, too little text, too few hours, or the file is there already.
    """
    experiment, counts, priced = made(wish)
    place = wish.output or Path(f"{experiment.name}.toml")
    try:
        with place.open("x", encoding="utf-8") as file:
            file.write(text(experiment, counts, priced))
    except FileExistsError as error:
        raise ValueError(f"{place} is there already; give another --output") from error
    sizes_of = experiment.tokens
    n_tokens = sizes_of.n_shards * sizes_of.contexts_per_shard * (sizes_of.context_length - 1)
    print(f"{plain(experiment.corpus.path)}: {counts}")
    print(
        f"{plain(str(place))}: {n_tokens:,} tokens are measured, {experiment.sampling.n_chains} chains a component; {priced}"
    )
    if wish.hours is None:
        print("this is a first look; --hours 2 makes more of the text, and surer values")
    print(f"next: susc-pipeline run --experiment {plain(shlex.quote(str(place)))}")
    return 0
