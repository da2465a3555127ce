"""The same input, settings and seed give the same bytes, whatever surrounds the run.

Two exceptions: torch takes sums in parts, so that the number of threads of the CPU shows in the
last bits of what is trained, and that and the number of users decoded together in those of scores.
"""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from components.run_form import RECOMMENDER
from macrec.core.artifact import Artifact
from macrec.core.settings import fields
from tests.faults.conftest import smoke_flags
from tests.pipelines.conftest import ROOT, Run

SURROUNDINGS = {
    "again": {},
    "hash seed": {"PYTHONHASHSEED": "99"},
    "locale": {"LC_ALL": "C", "LANG": "tr_TR.UTF-8"},
    "time zone": {"TZ": "Pacific/Apia"},
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
THREADS = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
TRAINED = {"latents", "quantizer", "recommender", "predictions", "recommendations"}
"""Artifacts that depend on the number of threads; all the others do not."""
SCORES = 1e-5
"""How far scores may differ; measured were 3e-6."""
# The run parameters that are speed alone, away from their defaults.
SPEED = {
    "embed_text.batch_tokens": "96",
    "embed_text.workers": "2",
    "embed_text.checkpoint_seconds": "0",
    "embed_image.batch_images": "7",
    "embed_image.workers": "3",
    "embed_image.checkpoint_seconds": "0",
    "quantize.memory_gib": "0.00001",
    "quantize.resident_gib": "0",
    "quantize.checkpoint_seconds": "0",
    "train.checkpoint_seconds": "0",
    "train.validation_batch": "7",
}
# Those that scores show in their last bits, or a training; tried stage by stage.
NEARLY = {
    "evaluate": {"batch_size": 7, "threads": 2},
    "recommend": {"batch_size": 11, "threads": 2, "shard_users": 13},
    "train": {"threads": 2},
}


def speed_parameters():
    """The run parameters of every Execution, but for those that choose hardware."""
    found = []
    for stage in RECOMMENDER.stages:
        found += [f"{stage.name}.{p.name}" for p in fields(stage.execution)]
    return {n for n in found if not n.endswith(("device", "dtype", "compile", "precision"))}


@pytest.fixture
def digests(sample, tmp_path):
    """What a run in other surroundings makes of the same data."""

    def run(environment, settings, folder=ROOT):
        sets = [part for n, v in settings.items() for part in ("--set", f"{n}={v}")]
        command = [sys.executable, "-m", "pipelines.cli.main", "run", *smoke_flags(sample), *sets]
        command += ["--out", tmp_path / "out"]
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        env = os.environ | {"PYTHONPATH": paths} | ONE_THREAD | environment
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
    nearly = {f"{stage}.{n}" for stage, found in NEARLY.items() for n in found}
    assert set(SPEED) | nearly == speed_parameters() and not set(SPEED) & nearly


def test_all_at_once(small_run, digests, tmp_path):
    environment = {n: v for changed in SURROUNDINGS.values() for n, v in changed.items()}
    assert not differing(digests(environment, SPEED, tmp_path), small_run.digests)


def lists(path):
    """Every column but the scores, and the scores."""
    table = Artifact.open(path).table()
    name = next(n for n in table.column_names if n.startswith("score"))
    scores = table.column(name).combine_chunks()
    flat = scores.flatten() if pa.types.is_list(scores.type) else scores
    return table.drop_columns([name]), np.asarray(flat)


@pytest.mark.parametrize("name", ["evaluate", "recommend"])
def test_lists_are_the_same_whatever_is_decoded_together(small_run, tmp_path, name):
    """By other batches and threads no item changes its place, and scores hardly their values."""
    output = {"evaluate": "predictions", "recommend": "recommendations"}[name]
    made = Artifact.open(small_run.artifacts[output]).manifest
    flags = {
        n: ",".join(map(str, v)) if isinstance(v, list) else v for n, v in made["config"].items()
    }
    flags |= NEARLY[name] | {"device": "cpu"}
    places = {n: small_run.artifacts[n] for n in made["inputs"] if n in small_run.artifacts}
    places["out"] = tmp_path
    argv = [f"--{n.replace('_', '-')}={path}" for n, path in places.items()]
    argv += [f"--set={n}={v}" for n, v in flags.items()]
    call = [sys.executable, "-m", "components", name, *argv]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (expected, scores), (found, others) = map(
        lists, (small_run.artifacts[output], tmp_path / output)
    )
    assert found.equals(expected)
    np.testing.assert_allclose(others, scores, rtol=0, atol=SCORES)


@pytest.mark.slow
@pytest.mark.parametrize("what", [*SURROUNDINGS, "folder", *SPEED])
def test_one_by_one(small_run, digests, tmp_path, sized, what):
    if not sized(False, True):
        pytest.skip("nightly: a run of the whole DAG for each")
    settings = {what: SPEED[what]} if what in SPEED else {}
    folder = tmp_path if what == "folder" else ROOT
    found = digests(SURROUNDINGS.get(what, {}), settings, folder)
    assert not differing(found, small_run.digests)


@pytest.mark.slow
def test_threads_show_in_what_is_trained_alone(small_run, digests, sized):
    if not sized(False, True):
        pytest.skip("nightly: a run of the whole DAG")
    assert set(differing(digests(THREADS, {}), small_run.digests)) <= TRAINED
