"""Runs one after the other in one store, killed at random, with `macrec gc` between them."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.local import gc
from pipelines.local.run_record import RUNS
from tests.faults.stage_runs import ROOT, StageCall, digests, readable, run_flags

LIGHT = ("prepare_data", "resolve_collisions")
"""Stages of a second or so, which CI runs."""
ROUNDS_KEPT = 2


def salted(call: StageCall, salt: str) -> StageCall:
    """The call, to be computed anew whatever the store has."""
    command = [part.replace('"cache_salt": ""', f'"cache_salt": "{salt}"') for part in call.command]
    assert command != call.command
    return call._replace(command=command)


def sweep(place: Path, unused_since: float | None = None) -> None:
    """What nothing names, and finished work that was not used since."""
    for found in gc.find_unused(str(place), time.time()):
        if found.kind != "temporary folders":
            assert found.remove(), found
    if unused_since is not None:
        for found in gc.find_unused(str(place), unused_since, unused=True):
            assert found.kind == "temporary folders" or found.remove(), found


@pytest.mark.case(1)
@pytest.mark.slow
def test_nothing_is_lost_and_the_store_does_not_grow(undisturbed, tmp_path, sized, trials):
    stages, rounds = sized(LIGHT, tuple(undisturbed)), sized(3, 50)
    moments, store, killed = random.Random(7), tmp_path / "store", 0
    starts: list[float] = []
    sizes: list[tuple[int, int]] = []
    for number in range(rounds):
        starts.append(time.time())
        victims = moments.sample(stages, 2)
        for stage in stages:
            call = salted(undisturbed[stage], f"round {number}")
            out = tmp_path / f"round{number}" / stage
            if stage in victims:
                killed += call.kill(out, store, moments.uniform(0.2, 1.0) * call.seconds)
                assert readable(out).items() <= readable(call.folder).items()
            call.finish(out, store)
            # The manifests' own bytes tell the rounds apart: they name the fingerprint.
            assert readable(out) == readable(call.folder)
            if stage == victims[0]:
                assert ": reused" in call.finish(out, store) or stage == "check_run"
        last = starts[-ROUNDS_KEPT] if number >= ROUNDS_KEPT - 1 else None
        sweep(store, last)
        files = [p for p in store.rglob("*") if p.is_file() and "caches" not in p.parts]
        sizes.append((len(files), sum(p.stat().st_size for p in files)))
        shutil.rmtree(tmp_path / f"round{number}")
    assert killed >= rounds // 2
    # A manifest says the fingerprint, so two rounds differ in manifests and records alone.
    assert sizes[-1][0] == sizes[ROUNDS_KEPT - 1][0], sizes
    assert sizes[-1][1] <= 1.05 * sizes[ROUNDS_KEPT - 1][1], sizes
    assert len(list((store / "records").rglob("*.json"))) == ROUNDS_KEPT * len(
        [stage for stage in stages if stage != "check_run"]
    )
    trials("kills in runs one after the other", killed)


@pytest.mark.case(1)
@pytest.mark.slow
def test_a_whole_run_that_is_killed_is_run_again_until_it_ends(
    undisturbed, sample, tmp_path, sized, trials
):
    """`macrec run` with all its processes; in CI the last two stages alone are computed."""
    out, moments, killed = tmp_path / "out", random.Random(3), 0
    store = next(iter(undisturbed.values())).store
    for number in range(sized(1, 4)):
        if sized(True, False):
            shutil.copytree(store, out / "store")
            for stage in ("evaluate", "recommend"):
                shutil.rmtree(out / "store" / "records" / stage)
        seconds = sized(8.0, 0.8 * sum(call.seconds for call in undisturbed.values()))
        for after in (moments.uniform(sized(0.5, 0.1), 1.0) * seconds, None):
            killed += killed_run(run_flags(sample.flags, out), after)
            if (out / "store").is_dir():  # else it was killed before it had begun
                sweep(out)
        (last,) = [max((out / RUNS).iterdir())]
        for stage, call in undisturbed.items():
            assert digests(last / call.folder.name) == digests(call.folder), (number, stage)
        shutil.rmtree(out)
    trials("whole runs killed", killed)


def killed_run(arguments: list[str], after: float | None) -> bool:
    """Runs `macrec` and kills it with all its processes after so many seconds; whether it was."""
    command = [sys.executable, "-m", "pipelines.cli.main", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as running:  # fmt: skip
        try:
            told, _ = running.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            told, _ = running.communicate()
    assert running.returncode in (0, -signal.SIGKILL), told
    return running.returncode != 0
