"""Experiments from strangers: a valid value or a ValueError that names the file and the remedy; no path out of the root."""

import dataclasses
import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hostile import NAMES, PASSWORDS, mutated, obeys
from resources import experiment, experiment_files
from susc_pipeline import config
from susc_pipeline.config import ExperimentConfig

TINY = (experiment_files.EXPERIMENTS / "tiny.toml").read_bytes()
SECTIONS = {
    field.name: field.default_factory
    for field in dataclasses.fields(ExperimentConfig)
    if dataclasses.is_dataclass(field.default_factory)
}
KEYS = [(name, key.name) for name, kind in SECTIONS.items() for key in dataclasses.fields(kind)]
ODD_VALUES = "nan inf -inf 1e400 -1 0 1979-05-27 true [] [[]] {} 1.0 -0.0 5e-324".split()
ODD_VALUES += [
    "0x" + "f" * 5000,
    "1" * 5000,
    "9" * 400,
    "[1, 1]",
    '[""]',
    f'"{"x" * 5000}"',
    '"a\\u0000b"',
    "{a = {b = 1}}",
]
ODD_VALUES += [f'"{url}"' for url in PASSWORDS]
NUMBERS = st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
VALUES = st.sampled_from(ODD_VALUES) | NUMBERS


def read(folder, content):
    path = folder / "experiment.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return obeys(lambda: ExperimentConfig.from_toml(path), str(path))


def assert_usable(found):
    if found is not None:
        assert config.NAME.fullmatch(found.name) and len(found.digest()) == 16
        numbers = [v for section in SECTIONS for v in dataclasses.asdict(getattr(found, section)).values()]
        assert all(math.isfinite(v) for v in numbers if isinstance(v, float))


@given(mutated(TINY))
@example(b"")
@example(b"\xff\xfe")
@example(b"a = " + b"[" * 20_000)
@example(b"name" + b".a" * 5_000 + b" = 1")
@example(b'name = "x"\n[' + b".".join([b"sampling"] * 5_000) + b"]")
@example(b'name = "x"\nseed = ' + b"9" * 5_000)
@example(b"#" * 20_000)
def test_any_bytes_are_an_experiment_or_a_mistake_with_a_remedy(tmp_path_factory, content):
    assert_usable(read(tmp_path_factory.getbasetemp(), content))


@given(st.sampled_from(KEYS), VALUES)
@example(("sampling", "step_size"), "9" * 400)
@example(("sampling", "n_beta"), "inf")
@example(("representation", "whitening_floor"), "nan")
@example(("model", "device"), '"no such device"')
@example(("knn", "kernel"), f'"{"x" * 5000}"')
def test_any_value_of_any_setting_is_taken_or_refused_by_name(tmp_path_factory, place, value):
    section, key = place
    assert_usable(read(tmp_path_factory.getbasetemp(), f'name = "x"\n[{section}]\n{key} = {value}\n'))


@given(NAMES)
def test_no_name_of_an_experiment_leads_out_of_the_store(tmp_path_factory, name):
    text = '"' + "".join(f"\\U{ord(c):08x}" for c in name) + '"'
    found = read(tmp_path_factory.getbasetemp(), f"name = {text}")
    if found is not None:
        root = experiment.store(found).root
        assert root.resolve().parent == root.parent.resolve() and len(root.name) <= 100
    assert read(tmp_path_factory.getbasetemp(), f'name = "x"\n[explorer]\ncompare_with = [{text}]') is None or found


@given(NAMES)
@example("../experiments/tiny")
def test_a_name_on_the_command_line_is_one_of_the_known_or_refused(name):
    found = obeys(lambda: experiment.load(name or "/"), "unknown experiment")
    assert found is None or found.name in experiment_files.known()


@pytest.mark.parametrize("url", PASSWORDS)
@pytest.mark.parametrize("key", ["corpus.path", "model.source", "corpus.revision"])
def test_a_password_in_a_setting_is_refused_and_not_repeated(tmp_path, url, key):
    path = tmp_path / "e.toml"
    path.write_text(f'name = "x"\n{key} = "{url}"\n')
    with pytest.raises(ValueError, match=f"{key} holds the user or password of a URL; take it out") as refusal:
        ExperimentConfig.from_toml(path)
    assert "sesame" not in str(refusal.value)
    path.write_text(f'name = "x"\nseed = "{url}"\n')
    with pytest.raises(ValueError, match="seed must be of type int") as refusal:
        ExperimentConfig.from_toml(path)
    assert "sesame" not in str(refusal.value)


def test_the_longest_file_that_is_read_takes_no_more_than_seconds(tmp_path):
    started = time.process_time()
    for line in (b".".join([b"a"] * 8_000) + b" = 1", b"[" + b".".join([b"a"] * 8_000) + b"]", b"a = [" * 3_000):
        read(tmp_path, line)
    assert time.process_time() - started < 10
