"""A small sample with tiny encoders, and the `macrec` command as a user calls it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    from macrec.sample.sample_catalogue import make_sample
    from macrec.sample.sample_encoders import make_tiny_encoders

    root = tmp_path_factory.mktemp("sample")
    make_sample(root / "data", items=60, users=80, seed=7)
    tiny = make_tiny_encoders(root / "encoders", seed=7)
    return Sample(root / "data", tiny.text, tiny.image)


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
