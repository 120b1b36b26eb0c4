"""The command line: what it teaches, how soon, and that what is wrong is one line and an exit code."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import conftest
import pytest
import typer

from assets import cli
from resources import experiment_files

CHECKOUT = Path(__file__).resolve().parent.parent
LARGE = ("dagster", "torch", "numpy", "polars", "transformers", "duckdb", "uvicorn")
COMMANDS = ["init", "check-model", "price", "run", "status", "verify", "gc", "explore", "ui", "report", "export"]


def called(*arguments, cwd=CHECKOUT, **environ):
    """The command as it is installed: by the entry point of the package."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "120"} | environ
    program = [sys.executable, "-m", "susc_pipeline", *map(str, arguments)]
    return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def groups():
    return typer.main.get_command(cli.app)


def test_help_names_every_command_from_any_directory(tmp_path):
    done = called("--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == called(cwd=tmp_path).stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│ ") and line[2] != " "][4:] == [
        *COMMANDS
    ]
    assert all(panel in done.stdout for panel in (cli.BEFORE, cli.RUN, cli.READ))
    assert called("--version", cwd=tmp_path).stdout.startswith("susc-pipeline 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_sentence_an_example_that_it_accepts_and_help_for_each_option(name, monkeypatch, tmp_path):
    command = groups().commands[name]
    assert command.help and all(option.help for option in command.params if isinstance(option, click.Option))
    program, named, *arguments = command.epilog.removeprefix("Example: ").split()
    assert (program, named) == ("susc-pipeline", name)
    (tmp_path / "mine.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    command.make_context(name, arguments)  # it parses the line and carries nothing out


def test_the_command_line_imports_nothing_large():
    code = f"import sys; from assets import cli; cli.main(['run', '--help']); print([n for n in {LARGE} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "--controls" in done.stdout and done.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run", "--frob"], "No such option '--frob'"),
        (["check-model"], "Missing argument 'SOURCE'"),
        (["explore", "--port", "70000"], "70000 is not in the range 1<=x<=65535"),
        (["price", "nonesuch"], "unknown experiment 'nonesuch'; known are"),
        *(
            ([name, "--experiment", "no\x1b[2J.toml"], "unknown experiment 'no\\x1b[2J.toml'; known are")
            for name in ("run", "status", "verify", "gc", "explore", "ui")
        ),
    ],
)
def test_a_line_that_cannot_be_obeyed_is_refused_in_one_line(capsys, monkeypatch, arguments, said):
    monkeypatch.delenv(experiment_files.VARIABLE, raising=False)
    assert cli.main(arguments) == 2
    out, error = capsys.readouterr()
    assert said in error and error.count("\n") == 1 and "--help` says" in error and "\x1b" not in error and not out


def test_an_unknown_experiment_of_the_environment_is_refused_likewise(monkeypatch, capsys):
    monkeypatch.setenv(experiment_files.VARIABLE, "nonesuch")
    assert cli.main(["gc"]) == 2 and "unknown experiment 'nonesuch'" in capsys.readouterr().err


@pytest.mark.parametrize("code", [1, 2])
def test_an_error_of_a_command_is_one_line_and_its_exit_code(monkeypatch, capsys, code):
    monkeypatch.setattr(cli, "app", typer.Typer())

    @cli.command(cli.RUN, "", failed=code)
    def fail(verbose: bool = False) -> int:
        """Fail."""
        raise ValueError("a bell\x07 rang")

    @cli.command(cli.RUN, "", stopped="stopped at once")
    def wait() -> int:
        """Be interrupted."""
        raise KeyboardInterrupt

    assert cli.main(["fail"]) == code
    assert capsys.readouterr().err == "error: a bell\N{REPLACEMENT CHARACTER} rang\n"
    with pytest.raises(ValueError, match="rang"):
        cli.main(["fail", "--verbose"])
    assert cli.main(["wait"]) == 130 and capsys.readouterr().err == "\nstopped at once\n"


def test_several_assets_follow_select_or_stand_alone(monkeypatch):
    from assets import guard, run

    asked = []
    monkeypatch.setattr(guard, "watched", lambda work: work())
    monkeypatch.setattr(run, "run", lambda selected, shard, **how: asked.append((selected, shard, how)) or 0)
    monkeypatch.setenv(experiment_files.VARIABLE, "tiny")
    for line in (["--select", "a", "b", "--shard", "s"], ["a", "b", "--shard", "s"], ["--shard=s", "--select=a", "b"]):
        assert cli.main(["run", *line]) == 0
    assert asked == [(["a", "b"], "s", {"thorough": False, "verbose": False, "with_controls": False})] * 3


@pytest.mark.parametrize("command", ["ui", "explore"])
def test_a_port_that_is_taken_is_one_sentence_with_the_remedy(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setenv("SUSC_STORE", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv(experiment_files.VARIABLE, "tiny")
    (tmp_path / "tiny" / "explorer").mkdir(parents=True)
    (tmp_path / "tiny" / "explorer" / "index.html").write_text("page")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.main([command, "--port", str(port)]) == 1
    said = f"error: port {port} is taken; give another: --port {port + 1}, or PORT={port + 1} to make\n"
    assert capsys.readouterr().err == said


def test_completion_offers_the_experiments():
    words = {
        "_SUSC_PIPELINE_COMPLETE": "complete_bash",
        "COMP_WORDS": "susc-pipeline run --experiment pythia-1",
        "COMP_CWORD": "3",
    }
    assert called(**words).stdout.split() == ["pythia-1.4b", "pythia-14m", "pythia-160m"]


@pytest.mark.slow
def test_ctrl_c_is_one_line(tmp_path, toy_folders):
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    places = {"SUSC_STORE": str(tmp_path / "data"), "DAGSTER_HOME": str(tmp_path / "dagster"), "OMP_NUM_THREADS": "1"}
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"} | places
    line = [sys.executable, "-m", "susc_pipeline", "run", "--experiment", str(toml)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=conftest.hear_interrupts
    ) as process:
        process.stdout.readline()  # the price: the run begins
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and error.strip() == "stopped; run again, it goes on from what is finished", error
