"""Experiments are read strictly; digests change with what they cover and nothing else."""

import dataclasses
import re

import pytest

from resources import configuration, experiment, experiment_files
from susc_pipeline import config
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.patterning.wanted_changes import WantedChange
from susc_pipeline.susceptibility.data_changes import DataChange
from susc_pipeline.susceptibility.readouts import Observable


def written(tmp_path, text):
    path = tmp_path / "e.toml"
    path.write_text(text)
    return ExperimentConfig.from_toml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not a TOML file"),
        ("seed = 1", "key 'name' is missing"),
        ('name = "x"\nsede = 1', "unknown key 'sede'; known are"),
        ('name = "x"\n[sampler]\nstep = 1', "unknown key 'sampler'"),
        ('name = "x"\n[sampling]\nn_draws = true', "sampling.n_draws must be of type int, got True"),
        ('name = "x"\n[sampling]\nn_draws = "many"', "sampling.n_draws must be of type int, got 'many'"),
        ('name = "x"\n[sampling]\nn_draws = 0', "sampling.n_draws must be at least 1"),
        (
            'name = "x"\n[sampling]\nn_draws = 1\n[susceptibility]\nestimator = "restricted"',
            "sampling.n_draws must be at least 2 for susceptibility.estimator 'restricted'",
        ),
        ('name = "x"\n[sampling]\nn_chains = 5', "sampling.n_chains must be even and at least 4"),
        ('name = "x"\n[sampling]\nsampler = "hmc"', "sampling.sampler must be one of"),
        ('name = "x"\n[sampling]\nstep_size = -1', "sampling.step_size must be positive, got -1.0"),
        ('name = "x"\ntokens = 3', "tokens must be a section, got 3"),
        ('name = "x"\n[tokens]\nn_ground_truth_shards = 99', "between 2 and tokens.n_shards"),
        ('name = "x"\n[corpus]\nkind = "files"', "corpus.path must be given"),
        ('name = "x"\n[representation]\nlayers = [1, "2"]', r"layers\[1\] must be of type int"),
        ('name = "../x"', "name must be letters"),
        ('name = ""', "name must be letters"),
        ('name = "x"\n[data_changes]\nname = "y"', "data_changes must be of type tuple"),
        ('name = "x"\n[[data_changes]]\ncluster = 3', "key 'name' is missing"),
        ('name = "x"\n[[data_changes]]\nname = "y"', "given exactly one of documents, cluster and file"),
        ('name = "x"\n[[data_changes]]\nname = "y"\nfiles = "z"', r"unknown key 'data_changes\[0\].files'"),
        ('name = "x"\n[[data_changes]]\nname = "<b>"\ncluster = 3', "data_changes.name must be letters"),
        ('name = "x"\n[[data_changes]]\nname = "cluster-3"\ncluster = 3', "another name than cluster-N"),
        ('name = "x"' + '\n[[data_changes]]\nname = "y"\ncluster = 3' * 2, "data_changes.name must be given once"),
    ],
)
def test_mistakes_are_named_with_the_rule(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        written(tmp_path, text)


def test_an_experiment_without_data_changes_has_the_digests_it_had_before_there_were_any(tmp_path, monkeypatch):
    base, named = ExperimentConfig(name="x"), written(tmp_path, 'name = "x"\n[[data_changes]]\nname = "y"\ncluster = 3')
    counted = []
    monkeypatch.setattr(config.json, "dumps", lambda content, **_: counted.append(content) or str(content))
    assert base.digest() != named.digest() and named.digest("sampling") == base.digest("sampling")
    assert "data_changes" not in counted[0] and counted[1].pop("data_changes") and counted[0] == counted[1]
    assert (named.data_changes[0].name, named.data_changes[0].cluster) == ("y", 3)


def test_digests_cover_their_sections_the_seed_and_not_the_device(tmp_path):
    base = written(tmp_path, 'name = "x"')
    other = dataclasses.replace(base, sampling=dataclasses.replace(base.sampling, n_draws=99))
    assert base.digest("tokens") == other.digest("tokens") and base.digest("sampling") != other.digest("sampling")
    assert base.digest() != other.digest() and base.digest("tokens") != dataclasses.replace(base, seed=5).digest(
        "tokens"
    )
    moved = dataclasses.replace(base, model=dataclasses.replace(base.model, device="cuda:1"))
    assert moved.digest() == base.digest()
    fewer = dataclasses.replace(base, model=dataclasses.replace(base.model, components=("L*H*",)))
    assert fewer.digest("model") == base.digest("model") and fewer.digest() != base.digest()
    assert fewer.digest("sampling", "components") != base.digest("sampling", "components") == base.digest("sampling")
    fitted = dataclasses.replace(base, sampling=dataclasses.replace(base.sampling, target_rise=0.02))
    assert fitted.digest("sampling") != base.digest("sampling")
    louder, unheard = (
        dataclasses.replace(one, sampling=dataclasses.replace(one.sampling, largest_noise=1.0))
        for one in (fitted, base)
    )
    assert louder.digest("sampling") != fitted.digest("sampling") and unheard.digest("sampling") == base.digest(
        "sampling"
    )


def test_every_experiment_that_comes_with_the_project_loads():
    pythia = {"pythia-14m", "pythia-70m", "pythia-160m", "pythia-410m", "pythia-1.4b"}
    assert pythia | {"tiny", "gpt2", "smollm2-135m", "qwen3-0.6b", "gemma-3-270m"} == set(experiment_files.known())
    for name in experiment_files.known():
        assert experiment.load(name).name == name
    with pytest.raises(ValueError, match="unknown experiment 'huge'; known are gemma-3-270m"):
        experiment.load("huge")


def test_the_document_of_the_configuration_is_what_the_dataclasses_say():
    shown = configuration.DOCUMENT.read_text(encoding="utf-8")
    assert shown == configuration.markdown(), "python -m resources.configuration writes it anew"


def test_every_key_has_its_meaning_and_its_row():
    sections = {field.name: field.type for field in dataclasses.fields(ExperimentConfig)}
    stages = {name: stage for name, stage in sections.items() if dataclasses.is_dataclass(stage)}
    lists = {"data_changes": DataChange, "observables": Observable, "wanted_changes": WantedChange}
    document = configuration.markdown().replace("[[", "[").replace("]]", "]")
    for name, stage in (stages | lists).items():
        words, keys = dict(configuration.meanings(stage)), [field.name for field in dataclasses.fields(stage)]
        assert list(words) == keys and all(words.values()), name
        section = document.partition(f"\n## [{name}]\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == keys
    assert set(sections) - set(stages) - set(lists) == {"name", "seed"}
