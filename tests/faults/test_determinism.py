"""The same input, settings and seed give the same bytes, whatever surrounds the run."""

import os
import subprocess
import sys

import pytest

from pipelines import parameters
from tests.faults.conftest import Run, smoke_flags
from tests.pipelines.conftest import ROOT

SURROUNDINGS = {
    "again": {},
    "hash seed": {"PYTHONHASHSEED": "99"},
    "locale": {"LC_ALL": "C", "LANG": "tr_TR.UTF-8"},
    "time zone": {"TZ": "Pacific/Apia"},
    "threads": {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"},
}
# The run parameters that are speed alone, away from their defaults.
SPEED = {
    "text_batch_tokens": "96",
    "text_workers": "2",
    "text_checkpoint_seconds": "0",
    "image_batch_images": "7",
    "image_workers": "3",
    "image_checkpoint_seconds": "0",
    "quantizer_memory_gib": "0.00001",
    "quantizer_resident_gib": "0",
    "quantizer_checkpoint_seconds": "0",
    "generator_checkpoint_seconds": "0",
    "generator_threads": "2",
    "generator_validation_batch": "7",
    "evaluation_batch_size": "7",
    "evaluation_threads": "2",
    "recommend_batch_size": "11",
    "recommend_threads": "2",
    "recommend_shard_users": "13",
}


def speed_parameters():
    """The run parameters of every Execution, but for those that choose hardware."""
    found = []
    for name, prefix in parameters.PREFIXES.items():
        found += [prefix + p.name for p in parameters.fields(parameters.stage(name).Execution)]
    return {n for n in found if not n.endswith(("device", "dtype", "compile", "precision"))}


@pytest.fixture
def digests(sample, tmp_path):
    """What a run in other surroundings makes of the same data."""

    def run(environment, settings, folder=ROOT):
        sets = [part for n, v in settings.items() for part in ("--set", f"{n}={v}")]
        command = [sys.executable, "-m", "pipelines.cli", "run", *smoke_flags(sample), *sets]
        command += ["--out", tmp_path / "out"]
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        env = os.environ | {"PYTHONPATH": paths} | environment
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return Run(tmp_path / "out").digests

    return run


def differing(found, expected):
    assert set(found) == set(expected) and len(found) > 8
    return [name for name in expected if found[name] != expected[name]]


def test_every_setting_of_speed_is_changed():
    assert set(SPEED) == speed_parameters()


def test_all_at_once(small_run, digests, tmp_path):
    environment = {n: v for changed in SURROUNDINGS.values() for n, v in changed.items()}
    assert not differing(digests(environment, SPEED, tmp_path), small_run.digests)


@pytest.mark.slow
@pytest.mark.parametrize("what", [*SURROUNDINGS, "folder", *SPEED])
def test_one_by_one(small_run, digests, tmp_path, sized, what):
    if not sized(False, True):
        pytest.skip("nightly: a run of the whole DAG for each")
    settings = {what: SPEED[what]} if what in SPEED else {}
    folder = tmp_path if what == "folder" else ROOT
    found = digests(SURROUNDINGS.get(what, {}), settings, folder)
    assert not differing(found, small_run.digests)
