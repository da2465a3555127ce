"""A small sample with tiny encoders, a run of it, and the `macrec` command as a user calls it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from macrec.core.artifact import Artifact
from pipelines.local import id_version
from tests.faults.stage_runs import CALLS, StageCall, read_calls, recorded_run
from tests.kfp_server import KfpServer, serving

ROOT = Path(__file__).parent.parent.parent
SMOKE = ROOT / "configs" / "smoke.yaml"


@dataclass(frozen=True)
class Called:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float


@pytest.fixture(scope="session")
def macrec() -> Callable[..., Called]:
    def call(*arguments: object) -> Called:
        command = [sys.executable, "-m", "pipelines.cli.main", *map(str, arguments)]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        return Called(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    return call


@dataclass(frozen=True)
class Sample:
    """Where the sample lies."""

    data: Path
    text_model: Path
    image_model: Path

    @property
    def flags(self) -> list[object]:
        return [
            *("--items", self.data / "items.parquet"),
            *("--interactions", self.data / "interactions.parquet"),
            *("--images", self.data / "images"),
            *("--encoder-text", self.text_model, "--encoder-image", self.image_model),
        ]


@pytest.fixture(scope="session")
def sample(made_once: Callable[..., Path]) -> Sample:
    from macrec.sample.sample_catalogue import make_sample
    from macrec.sample.sample_encoders import make_tiny_encoders

    def make(root: Path) -> None:
        make_sample(root / "data", items=60, users=80, seed=7)
        make_tiny_encoders(root / "encoders", seed=7)

    root = made_once("sample", make)
    return Sample(root / "data", root / "encoders" / "tiny-llama", root / "encoders" / "tiny-vit")


@dataclass(frozen=True)
class Run:
    """The output folder of a run of the sample."""

    out: Path

    @property
    def artifacts(self) -> dict[str, Path]:
        """The folders of the artifacts, by name."""
        run = next((self.out / "runs").iterdir())
        return {p.parent.name: p.parent for p in sorted(run.rglob("manifest.json"))}

    @property
    def digests(self) -> dict[str, str]:
        """What each artifact holds."""
        return {n: Artifact.open(path).verify().digest for n, path in self.artifacts.items()}


@dataclass(frozen=True)
class SmallRun(Run):
    """The smoke run of the sample, which nothing has disturbed. Tests read it, or copy it."""

    called: Called
    calls: dict[str, StageCall]
    """How the run has called its stages, in their order."""

    @property
    def store(self) -> Path:
        return self.out / "store"

    def copy(self, out: Path, store: Path | None = None) -> None:
        """Copies the output folder, and its store if elsewhere, so that a test may run there."""
        shutil.copytree(self.out, out, dirs_exist_ok=True)
        if store:
            (out / "store").rename(store)
        version = json.loads((out / id_version.VERSION).read_text())
        version["store"] = str(store or out / "store")
        (out / id_version.VERSION).write_text(json.dumps(version))

    def copy_results(self, store: Path, *stages: str) -> None:
        """Copies the store with the results of these stages alone, which a run then reuses."""
        shutil.copytree(self.store, store)
        for records in (store / "records").iterdir():
            if records.name not in stages:
                shutil.rmtree(records)


@pytest.fixture(scope="session")
def small_run(sample: Sample, made_once: Callable[..., Path]) -> SmallRun:
    """Made once for all processes of a test run: it takes most of a minute."""

    def make(root: Path) -> None:
        started = time.monotonic()
        done = recorded_run(sample.flags, root / "out", root / CALLS)
        seconds = time.monotonic() - started
        called = Called(done.returncode, done.stdout, done.stderr, seconds)
        assert called.code == 0, called.err
        (root / "called.json").write_text(json.dumps(asdict(called)))

    root = made_once("small_run", make)
    called = Called(**json.loads((root / "called.json").read_text()))
    return SmallRun(root / "out", called, read_calls(root / CALLS))


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KfpServer]:
    """A backend that answers, named by the environment."""
    from kfp import client

    monkeypatch.setattr(client.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "no-context.json"))
    for name in [n for n in os.environ if n.startswith(("KFP_", "KF_PIPELINES_"))]:
        monkeypatch.delenv(name)
    with serving() as server:
        monkeypatch.setenv("KFP_ENDPOINT", server.url)
        yield server


@pytest.fixture
def here(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., Called]:
    """The `macrec` command in this process: its log is `err`."""
    from pipelines.cli import main

    def call(*arguments: object) -> Called:
        caplog.clear()
        caplog.set_level("INFO")
        started = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            main.main([str(a) for a in arguments])
        seconds = time.monotonic() - started
        printed = capsys.readouterr()
        return Called(int(ended.value.code or 0), printed.out, printed.err + caplog.text, seconds)

    return call
