"""The command line `susc-pipeline`: its commands, their options, and how an error becomes one line and an exit code.

A command is one function below. It imports its work when it is called, so `--help` waits for no library; the work is elsewhere.
The file susc_pipeline/__main__.py starts this module, from any directory.
"""

import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import click
import typer

from resources import experiment_files
from susc_pipeline.messages import plain

PROGRAM = "susc-pipeline"
BEFORE, RUN, READ = "Before a run", "Run", "Read what was found"
INTERRUPTED = 130  # as shells say it of ctrl-C
app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, context_settings={"max_content_width": 120})


def command(panel: str, example: str, *, failed: int = 1, stopped: str = "stopped") -> Callable:
    """Make a function a command of its name: its docstring is the help, its parameters are the options.

    Args:
        panel: heading below which `--help` lists it.
        example: arguments that show its use.
        failed: exit code of a ValueError, OSError or MemoryError, which is printed as one line.
        stopped: line that ctrl-C prints.
    """

    def register(work: Callable[..., int]) -> Callable[..., int]:
        name = work.__name__.replace("_", "-")

        @functools.wraps(work)
        def answer(**options: object) -> int:
            try:
                return work(**options)
            except (ValueError, OSError, MemoryError) as error:
                if options.get("verbose"):
                    raise
                print(f"error: {plain(str(error) or 'there was no memory left')}", file=sys.stderr)
                return failed
            except KeyboardInterrupt:
                print(f"\n{stopped}", file=sys.stderr)
                return INTERRUPTED

        epilog = f"Example: {PROGRAM} {name} {example}".rstrip()
        return app.command(name, rich_help_panel=panel, epilog=epilog)(answer)

    return register


def main(arguments: list[str] | None = None) -> int:
    """Carry out a command line, by default the process's own; its exit code, 2 where the line itself is wrong."""
    try:
        return app(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        called = context.command_path if context else PROGRAM
        said = " ".join(error.format_message().split()).rstrip(".")
        print(f"error: {plain(said)}; `{called} --help` says what there is", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\nstopped", file=sys.stderr)
        return INTERRUPTED


def _known(name: str | None) -> str | None:
    """The experiment's name or path, if there is such a file."""
    try:
        return name and (experiment_files.path_of(name) and name)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def _complete(incomplete: str) -> list[str]:
    return [name for name in experiment_files.known() if name.startswith(incomplete)]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {importlib.metadata.version(PROGRAM)}")
        raise typer.Exit


ABOUT_EXPERIMENT = {
    "help": "A name, or the path of a TOML file.",
    "envvar": experiment_files.VARIABLE,
    "callback": _known,
    "autocompletion": _complete,
}
Experiment = Annotated[str, typer.Option("--experiment", **ABOUT_EXPERIMENT)]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port on loopback.")]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Susceptibilities of a language model: measure them, cluster tokens by them, read the clusters.

    Write an experiment with init, make everything with run, read it with explore. Every command takes --help.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@command(BEFORE, "--model embedded --corpus my-texts/ --hours 1", failed=2)
def init(
    corpus: Annotated[str, typer.Option(help="A file, or a folder of files: .txt .md .py .jsonl .parquet …")] = ".",
    model: Annotated[str, typer.Option(help="`embedded`, a Hugging Face folder, or a Hub name.")] = "embedded",
    hours: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="That it may take here. Without: a first look, some ten minutes.", show_default=False
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the experiment and of its folder; else the corpus's.")] = "",
    components: Annotated[
        list[str] | None, typer.Option(help='A pattern such as "L*H*", once for each; else all.', show_default=False)
    ] = None,
    text_column: Annotated[str, typer.Option(help="Field of a record that holds its text.")] = "text",
    context_length: Annotated[int, typer.Option(help="Tokens of a context.")] = 128,
    license: Annotated[str, typer.Option(help="Licence of the text, such as CC-BY-4.0; exports state it.")] = "",
    output: Annotated[Path | None, typer.Option(help="The file to write; else NAME.toml here.")] = None,
) -> int:
    """Write an experiment that fits your model, your text and your hours."""
    from resources import new_experiment

    wish = new_experiment.Wish(
        model, corpus, hours, name, tuple(components or ()), text_column, context_length, license, output
    )
    return new_experiment.write(wish)


@command(BEFORE, "path/to/model --text mine.txt", failed=2)
def check_model(
    source: Annotated[str, typer.Argument()],
    revision: Annotated[str, typer.Option(help="Hub revision.")] = "main",
    text: Annotated[Path | None, typer.Option(help="A text file of yours, whose losses are compared.")] = None,
    experiment: Experiment = experiment_files.DEFAULT,
) -> int:
    """Compare a model with transformers, list its components, and price it at an experiment's sizes.

    SOURCE is `embedded`, a folder in Hugging Face format, or a Hub name.
    """
    from resources import check_model as work

    return work.check(source, revision, text, experiment)


@command(BEFORE, "mine.toml", failed=2)
def price(
    experiment: Annotated[str, typer.Argument(**ABOUT_EXPERIMENT)] = experiment_files.DEFAULT,
    config: Annotated[Path | None, typer.Option(help="config.json of the model, where it is not here yet.")] = None,
    teraflops: Annotated[
        float | None, typer.Option(min=1e-6, help="Rate of a large matrix product; else measured here.")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(min=1e-6, metavar="GB", help="Of the machine; else this one's.")
    ] = None,
) -> int:
    """Predict hours, disk and memory of each asset before any of it is made.

    EXPERIMENT is a name, or the path of a TOML file.
    """
    from resources import price_table as work

    return work.report(experiment, config, teraflops=teraflops, gigabytes=memory)


@command(RUN, "--experiment mine.toml", stopped="stopped; run again, it goes on from what is finished")
def run(
    assets: Annotated[list[str] | None, typer.Argument(show_default=False)] = None,
    experiment: Experiment = experiment_files.DEFAULT,
    select: Annotated[
        list[str] | None, typer.Option(metavar="ASSET", help="Make this asset; more may follow.", show_default=False)
    ] = None,
    shard: Annotated[str | None, typer.Option(help="Only this token shard of partitioned assets.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file against its checksum; make again what is damaged.")
    ] = False,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also the controls of the clusters, which a plain run leaves out.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
) -> int:
    """Make everything that is missing or out of date, or the ASSETS that are named.

    Stopped or killed, it goes on where it was.
    """
    from assets import guard
    from assets import run as work

    _put_in_force(experiment)
    how = {"thorough": verify, "verbose": verbose, "with_controls": controls}
    # The guard forks a process, so nothing large may be imported before it.
    return guard.watched(lambda: work.run([*(select or ()), *(assets or ())], shard, **how))


@command(RUN, "--experiment mine.toml", failed=2)
def status(experiment: Experiment = experiment_files.DEFAULT) -> int:
    """Say how far an experiment is: current, stale, missing, being made. It ends with 0 where all is current."""
    from assets import status as work

    _put_in_force(experiment)
    return work.status(experiment)


@command(RUN, "--experiment mine.toml")
def verify(experiment: Experiment = experiment_files.DEFAULT) -> int:
    """Read every file of a store; list what is missing, stale, corrupt, foreign or left over, with its remedy."""
    from assets import verify as work

    _put_in_force(experiment)
    return work.verify(experiment)


@command(RUN, "--experiment mine.toml --yes")
def gc(
    experiment: Experiment = experiment_files.DEFAULT,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; otherwise it is only listed.")] = False,
) -> int:
    """List the files of a store that no manifest names, and remove them with --yes."""
    from resources import unnamed_files

    return unnamed_files.clean(experiment, is_told_to=yes)


@command(READ, "--experiment mine.toml --live")
def explore(
    experiment: Experiment = experiment_files.DEFAULT,
    port: Port = None,
    live: Annotated[
        bool, typer.Option("--live", help="Measure text of your own in the page Text; loads the model.")
    ] = False,
) -> int:
    """Serve the explorer on loopback, on a port that stays the experiment's."""
    from resources import serve

    return serve.serve(experiment, port, live=live)


@command(READ, "--experiment mine.toml --port 3001")
def ui(experiment: Experiment = experiment_files.DEFAULT, port: Port = 3000) -> int:
    """Open Dagster on loopback: the graph, runs, checks, and what each asset was made from."""
    from assets import ui as work

    is_path = experiment.endswith(experiment_files.SUFFIX)
    _put_in_force(str(Path(experiment).absolute()) if is_path else experiment)
    return work.serve(port or 3000)


@command(READ, "--experiment tiny --check")
def report(
    experiment: Experiment = experiment_files.DEFAULT,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; name the figures that are stale.")] = False,
) -> int:
    """Write the figures of a finished run from its tables: docs/results.md and the README for tiny, else this terminal."""
    from resources import report as work

    return work.report(experiment, check=check)


@command(READ, "--experiment mine.toml OUT/")
def export(
    folder: Annotated[Path, typer.Argument()],
    experiment: Experiment = experiment_files.DEFAULT,
    float16: Annotated[bool, typer.Option("--float16", help="Linear responses in half the space.")] = False,
) -> int:
    """Write clusters, members, labels, vectors and a card into a new FOLDER, as Parquet and JSON that data hubs accept."""
    from resources import bundle

    return bundle.export(experiment, folder, half_precision=float16)


def _put_in_force(experiment: str) -> None:
    """Name the experiment to the modules that hold its partitions: they read it when they are imported."""
    os.environ[experiment_files.VARIABLE] = experiment


if __name__ == "__main__":
    sys.exit(main())
