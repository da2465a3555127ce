"""A stage started as a process of its own, alone or several by torchrun, as a cluster starts it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


def flags(inputs: Any, settings: Mapping[str, object], places: Mapping[str, object]) -> list[str]:
    """A stage's command line: its input artifacts, its settings and other values, by name."""
    given = {name: artifact.path for name, artifact in vars(inputs).items() if artifact}
    named = given | dict(places)
    result = [part for n, v in named.items() for part in (f"--{n.replace('_', '-')}", str(v))]
    return result + [
        part for n, v in settings.items() for part in ("--set", f"{n.replace('-', '_')}={v}")
    ]


class StageProcess(NamedTuple):
    """How the stage is started; outputs and stores lie in `folder`."""

    stage: str
    inputs: Any
    settings: dict[str, Any]
    """Settings of the stage, by name."""
    folder: Path
    progress_seconds: int = 30

    def start(self, out: str, store: str, processes: int = 1) -> subprocess.Popen[str]:
        """The running stage; what it logs comes from `stderr`."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command = [sys.executable, *([*torchrun, str(processes)] if processes > 1 else [])]
        command += ["-m", "components", self.stage]
        places = {"out": self.folder / out, "store": self.folder / store}
        command += flags(self.inputs, {"device": "cpu"} | self.settings, places)
        limits = {
            "OMP_NUM_THREADS": "1",
            "MACREC_PROGRESS_SECONDS": str(self.progress_seconds),
        }
        return subprocess.Popen(command, env=os.environ | limits, stderr=subprocess.PIPE, text=True)

    def call(self, out: str, store: str, processes: int = 1) -> str:
        """What a stage that ends well has logged."""
        with self.start(out, store, processes) as running:
            assert running.stderr is not None
            told = running.stderr.read()
        assert running.returncode == 0, told
        return told
