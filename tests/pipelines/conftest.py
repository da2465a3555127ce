"""A small sample with tiny encoders, and the `macrec` command as a user calls it."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

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
        command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
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
            *("--text-model", self.text_model, "--image-model", self.image_model),
        ]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    from macrec.sample import make_sample
    from macrec.sample_encoders import make_tiny_encoders

    root = tmp_path_factory.mktemp("sample")
    make_sample(root / "data", items=60, users=80, seed=7)
    tiny = make_tiny_encoders(root / "encoders", seed=7)
    return Sample(root / "data", tiny.text, tiny.image)
