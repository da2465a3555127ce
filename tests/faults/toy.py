"""A stage that passes every point of `core.failpoint`, and what a killed one leaves behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core import failpoint
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput, HtmlOutput, Output
from macrec.core.errors import UserError
from macrec.core.store import ArtifactStore

SPEC = '''
"""What the stage of tests is."""
from dataclasses import dataclass
from macrec.core.artifact import DatasetOutput, FolderOutput, HtmlOutput
from macrec.core.settings import settings_class
from macrec.core.stage import Pool, Stage

@settings_class
class Settings:
    parts: int = 3
    """Parts of the dataset."""
    steps: int = 0
    """Steps of a training; each is saved."""

@settings_class
class Execution:
    wait_for: str = ""
    """A file that is waited for in the midst of the work."""
    batch_rows: int = 10
    """Rows at a time."""
    signed: bool = False
    """The result says which process has made it."""

@dataclass(frozen=True, kw_only=True)
class Inputs:
    """None."""

@dataclass(frozen=True, kw_only=True)
class Outputs:
    rows: DatasetOutput
    """Parts."""
    model: FolderOutput
    """Two files."""
    page: HtmlOutput
    """A page."""

STAGE = Stage(
    name="toy",
    summary="Write parts, a folder and a page.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    resumable=True,
    cached=True,
)
'''
CODE = '''
"""A stage of tests that writes parts, a folder, a page, checkpoints, shards and cached vectors."""
import os
import time
from pathlib import Path
import numpy as np
import pyarrow as pa
from components.recommend.shards import KeptShards
from macrec.data import embedding_cache
from macrec.data.embedding_cache import EmbeddingCache

SCHEMA = pa.schema([pa.field("value", pa.int64(), nullable=False)])

def run(job):
    config, outputs, execution = job.settings, job.outputs, job.execution
    if config.steps:
        train(config.steps, job.checkpoints(every_seconds=300))
    embedding_cache.MAX_FILES = 0  # a new generation takes the place of earlier files every time
    keys = [bytes([k]) * 32 for k in range(config.parts + 1)]
    with EmbeddingCache(job.cache_uri, {"of": "toy"}, 2, every_seconds=0) as cache:
        found = cache.find(pa.array(keys, embedding_cache.KEY)).row_K
        for key in [k for k, row in zip(keys, found) if row < 0]:
            cache.add([key], np.full((1, 2), key[0], np.float32))
    number = os.getpid() if execution.signed else 0
    shards = KeptShards("" if execution.signed else job.checkpoint_uri)
    with outputs.rows.dataset(SCHEMA) as out:
        for part in range(config.parts):
            table = shards.find(f"part-{part}")
            if table is None:
                table = pa.table({"value": [number, part, part]}, schema=SCHEMA)
                shards.keep(f"part-{part}", table)
            out.open_part()
            out.write(table)
    while execution.wait_for and not Path(execution.wait_for).exists():
        Path(execution.wait_for + ".waiting").with_suffix(f".{os.getpid()}").touch()
        time.sleep(0.02)
    for name in ("weights", "vocabulary"):
        (outputs.model.path / name).write_text(f"{name} of {config.parts} by {number}")
    outputs.page.write_text(f"<p>{config.parts} by {number}</p>")
    return {"made_by": float(number)}

def train(steps, checkpoints):
    import torch
    found = checkpoints.latest()
    total = found.state["total"] if found else torch.zeros(4)
    for step in range(found.step if found else 0, steps):
        total = total + step
        checkpoints.save(step + 1, {"total": total})
    assert total[0] == steps * (steps - 1) / 2

'''


class Toy(NamedTuple):
    """The stage, started as processes; outputs and stores lie in `folder`."""

    folder: Path

    def write(self) -> None:
        """Writes the stage's module."""
        package = self.folder / "components" / "toy"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "spec.py").write_text(SPEC)
        (package / "stage.py").write_text(CODE)

    def start(
        self, out: Path, store: Path | str | None, point: str = "", before: str = "", **flags: Any
    ) -> subprocess.Popen[str]:
        """The running stage, to be killed at a point; `before` is Python that runs ahead of it."""
        program = (
            f"import components; components.__path__.append({str(self.folder / 'components')!r})\n"
            f"{before}\nimport sys; from components.toy.spec import STAGE\n"
            "from macrec.core import stage_command; stage_command.main(STAGE, sys.argv[1:])"
        )
        given = {"out": out, **({"store": store} if store else {}), **flags}
        places = ("out", "store", "cache_salt")
        listed = [
            part
            for n, v in given.items()
            for part in (
                (f"--{n.replace('_', '-')}", str(v)) if n in places else ("--set", f"{n}={v}")
            )
        ]
        return subprocess.Popen(
            [sys.executable, "-c", program, *listed],
            env=os.environ | {failpoint.VARIABLE: point, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, out: Path, store: Path | str | None, point: str = "", **flags: Any) -> "Ended":
        """How the stage ended."""
        with self.start(out, store, point, **flags) as running:
            assert running.stderr is not None
            told = running.stderr.read()
        return Ended(running.returncode, told)


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    told: str


def outputs(out: Path) -> dict[str, Output]:
    """The toy's outputs below a folder."""
    return {
        "rows": DatasetOutput(out / "rows"),
        "model": FolderOutput(out / "model"),
        "page": HtmlOutput(out / "page"),
    }


def content(out: Path) -> dict[str, str]:
    """What can be read of the outputs, verified, by name."""
    found: dict[str, str] = {}
    for name in ("rows", "model"):
        try:
            found[name] = Artifact.open(out / name).verify().digest
        except UserError:
            continue
    if (out / "page").exists():
        found["page"] = (out / "page").read_text()
    return found


def stored(store: str, folder: Path) -> list[dict[str, str]]:
    """What the records of a store hand over; {} for one whose files are damaged."""
    opened, found = ArtifactStore(store), list[dict[str, str]]()
    for number, name in enumerate(sorted(opened.storage.names())):
        if not (name.startswith("records/") and name.endswith(".json")):
            continue
        if "/." in name:  # a file that is being written
            continue
        _, stage, fingerprint = name.removesuffix(".json").split("/")
        record = opened.find(stage, fingerprint)
        assert record is not None
        out = folder / str(number)
        found.append(content(out) if opened.restore(record, outputs(out)) else {})
    return found


def tree(*folders: Path) -> set[str]:
    """The files below some folders."""
    return {str(p.relative_to(f.parent)) for f in folders for p in f.rglob("*") if p.is_file()}
