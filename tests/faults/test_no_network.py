"""Stages in a network namespace of their own: no interface is up, no name resolves."""

import os
import subprocess
import sys
import time

import pytest

from macrec.core.artifact import Artifact
from tests.pipelines.conftest import ROOT

CUT_OFF = ["unshare", "--user", "--map-root-user", "--net"]
CALLS_OUT = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"


def possible():
    """Whether this machine gives a process a network of its own."""
    try:
        return subprocess.run([*CUT_OFF, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not possible(), reason="unshare --net is not allowed here")


def cut_off(name, *flags, **environment):
    """A stage without network, ended: exit code, log, seconds."""
    command = [*CUT_OFF, sys.executable, "-m", "components", name, *map(str, flags)]
    absent = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "STORAGE_EMULATOR_HOST")
    env = {n: v for n, v in os.environ.items() if n not in absent} | environment
    started = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300, check=False
    )
    return done.returncode, done.stderr, time.monotonic() - started


def test_there_really_is_no_network():
    done = subprocess.run(
        [*CUT_OFF, sys.executable, "-c", CALLS_OUT], capture_output=True, text=True, check=False
    )
    assert done.returncode and "Network is unreachable" in done.stderr


@pytest.mark.case(21)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_local_model_needs_no_network(modality, small_run, sample, tmp_path, trials):
    flags = ["--items", small_run.artifacts["items"], "--out", tmp_path, "--set", "device=cpu"]
    if modality == "text":
        flags += ["--model", sample.text_model, "--set", "max_tokens=32"]
    else:
        flags += ["--model", sample.image_model, "--images", sample.data / "images"]
        flags += ["--set", "size=32", "--set", "max_bad_images=0.05"]
    name = f"{modality}_embeddings"
    code, log, _ = cut_off(f"embed_{modality}", *flags)
    assert code == 0, log
    assert Artifact.open(tmp_path / name).verify().digest == small_run.digests[name]
    trials("stages with a local model and no network", 1)


@pytest.mark.case(21)
def test_a_model_of_a_hub_is_told_to_be_out_of_reach(small_run, tmp_path, sized):
    """At once where it is said that there is no hub; else after the hub client's own five tries."""
    flags = ["--items", small_run.artifacts["items"], "--out", tmp_path, "--set", "device=cpu"]
    for offline in sized(["1"], ["1", "0"]):
        code, log, seconds = cut_off(
            *("embed_text", *flags, "--model", "hub:no-such-name/no-such-model@main"),
            HF_HUB_OFFLINE=offline,
            HF_HOME=str(tmp_path / "hub"),  # empty: nothing that was fetched before
        )
        assert code == 2, log
        assert "no-such-name/no-such-model@main: cannot be opened" in log
        assert "Traceback" not in log and ("Retrying" in log) == (offline == "0")
        assert seconds < {"1": 30, "0": 60}[offline]


@pytest.mark.case(20)
def test_a_bucket_is_told_to_be_out_of_reach(small_run, tmp_path):
    flags = ["--items", small_run.artifacts["items"], "--out", tmp_path]
    uri = "gs://some-bucket/store"
    code, log, seconds = cut_off("embed_text", *flags, "--store", uri, HOME=str(tmp_path))
    assert code == 2 and f"{uri}: " in log and "redentials" in log, log
    assert seconds < 10
    code, log, seconds = cut_off(
        "embed_text", *flags, "--store", uri, STORAGE_EMULATOR_HOST="http://storage.invalid"
    )
    assert code == 75 and f"{uri}: no response" in log, log
    assert seconds < 10
