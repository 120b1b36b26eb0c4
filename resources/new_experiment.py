"""`susc-pipeline init --model MODEL --corpus PATH`: write an experiment whose sizes fit the corpus and, where given, the hours.

The corpus is read and tokenized. Plain texts longer than a few thousand characters are split at blank lines, so that one file
is enough: an experiment needs many documents, since halves of the chains share none.
"""

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from resources import corpus, language_model, price
from susc_pipeline import sizes, tokens
from susc_pipeline.config import AuxSettings, ExperimentConfig
from susc_pipeline.corpus import CorpusSettings
from susc_pipeline.messages import plain
from susc_pipeline.model import components
from susc_pipeline.model.pretrained import LoadedModel, ModelSettings
from susc_pipeline.price import Plan
from susc_pipeline.representation.pca import RepresentationSettings
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility.directions import DirectionSettings
from susc_pipeline.tokens import TokenizedDocument, TokenSettings

MAX_DOCUMENT_CHARACTERS = (8_000, 4_000, 2_000)  # the first that gives documents enough
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
{text_column}max_document_characters = {max_document_characters}  # longer texts are split at blank lines

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

[directions]
reliability = 0.93
max_contexts = {max_contexts}

[representation]
layers = [{layers}]  # what the auxiliary model reads

[aux]
hidden_multiplier = 8
max_epochs = 8
"""


def base(options: argparse.Namespace, loaded: LoadedModel) -> ExperimentConfig:
    """What is not a size: model, corpus, sampler."""
    n_layers, is_embedded = loaded.model.n_layers, options.model == "embedded"
    quarters = (max(1, n_layers * quarter // 4) for quarter in (1, 2, 3, 4))
    is_folder = not is_embedded and language_model.folder_of(ModelSettings(source=options.model)).is_dir()
    source = _absolute(options.model) if is_folder else options.model
    return ExperimentConfig(
        name=options.name or _name(Path(options.corpus)),
        seed=1,
        model=ModelSettings(source=source, components=tuple(options.components)),
        corpus=CorpusSettings(kind="files", path=_absolute(options.corpus), text_column=options.text_column),
        tokens=TokenSettings(context_length=options.context_length, population_share=0.65),
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
        "localization": f"target_rise = {rise}  # nats; it chooses each component's localization" if rise else "",
        "layers": ", ".join(map(str, experiment.representation.layers)),
        "n_chains": experiment.sampling.n_chains,
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


def made(options: argparse.Namespace) -> tuple[ExperimentConfig, str, str]:
    """The experiment, the counts of its corpus and its price, in words.

    Raises:
        ValueError: no such model or corpus, too little text, or too few hours.
    """
    settings = ModelSettings(source=options.model, components=tuple(options.components))
    loaded = language_model.load(language_model.locate(settings), settings)
    begun = base(options, loaded)
    chosen, rate = components.chosen(loaded.model, begun.model.components), price.measured_rate(begun.model)

    def hours_of(one: ExperimentConfig) -> float:
        return price.hours(Plan(loaded.model, chosen, one), rate)

    refused = ValueError("the corpus is empty")
    for longest in MAX_DOCUMENT_CHARACTERS:
        cut = dataclasses.replace(begun, corpus=dataclasses.replace(begun.corpus, max_document_characters=longest))
        documents = tokens.tokenize(corpus.documents(cut.corpus), loaded.tokenizer)
        try:
            experiment = sizes.fitted(documents, cut, hours_of=hours_of, hours=options.hours or math.inf)
        except ValueError as error:
            refused = error
            continue
        return experiment, _counts(documents), price.summary(Plan(loaded.model, chosen, experiment), rate)
    raise refused


def main(arguments: list[str] | None = None) -> int:
    """Write the file and say what to do next; 2 where no experiment can be written."""
    parser = argparse.ArgumentParser(prog="susc-pipeline init", description=__doc__)
    parser.add_argument("--model", default="embedded", help="`embedded`, a Hugging Face folder, or a Hub name")
    parser.add_argument("--corpus", required=True, help="a file, or a folder of files: .txt .md .py .jsonl .parquet …")
    parser.add_argument("--hours", type=float, default=0.0, help="what it may take on this machine (default: any time)")
    parser.add_argument("--name", default="", help="of the experiment and of its folder (default: the corpus's)")
    parser.add_argument("--components", nargs="*", default=[], help='patterns such as "L*H*" (default: all)')
    parser.add_argument("--text-column", default="text", help="field of a record that holds its text")
    parser.add_argument("--context-length", type=int, default=128, help="tokens of a context")
    parser.add_argument("--output", help="the file to write (default: NAME.toml here)")
    options = parser.parse_args(arguments)
    try:
        experiment, counts, priced = made(options)
        place = Path(options.output or f"{experiment.name}.toml")
        with place.open("x", encoding="utf-8") as file:
            file.write(text(experiment, counts, priced))
    except FileExistsError as error:
        print(f"error: {error.filename} is there already; give another --output", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        return 2
    n_tokens = (
        experiment.tokens.n_shards * experiment.tokens.contexts_per_shard * (experiment.tokens.context_length - 1)
    )
    print(f"{plain(experiment.corpus.path)}: {counts}")
    print(
        f"{plain(str(place))}: {n_tokens:,} tokens are measured, {experiment.sampling.n_chains} chains a component; {priced}"
    )
    print(f"next: susc-pipeline run --experiment {plain(str(place))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
