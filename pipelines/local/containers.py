"""Runs the stages of a local run in containers, through the Docker SDK (Docker or podman).

kfp.local's DockerRunner reports a failed container as success if the container is gone before its
exit code is read. Here a container is created, started, followed, waited for, and only then
removed.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components.check_run.earlier_run import find_earlier_artifacts
from components.run_form import RECOMMENDER
from macrec.core.errors import EXIT_PREEMPTED, UserError
from pipelines.local.engine import connect

# A stage inherits only these environment variables of the caller. The first select numeric kernels
# and threads, which affect the bytes of results. The others give access to storage and models.
NUMERIC_PREFIXES = ("OMP_", "MKL_", "OPENBLAS_", "ATEN_", "NPY_")
PASSED_ON = (
    "GOOGLE_CLOUD_PROJECT",
    "STORAGE_EMULATOR_HOST",
    "HF_TOKEN",
    "HF_ENDPOINT",
)
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
SECONDS_TO_STOP = 10
SECONDS_FOR_LOG = 5  # how long to wait for the log follower after a container has ended
LABEL = "macrec.core.stage"


class Options(NamedTuple):
    """Settings of the containers of a run."""

    image: str
    """The image of every stage."""
    network: str = "none"
    """Network of the engine that the containers join, e.g. host or bridge."""
    user: str = ""
    """UID:GID of the processes. If empty, those of the caller, who then owns the results."""


class Mount(NamedTuple):
    """A path of this machine that is mounted at the same path in a container."""

    path: Path
    writable: bool


def of_run(options: Options, values: Mapping[str, Any], out: Path) -> "Containers":
    """Return the containers of a run, with its inputs, output folder and store mounted.

    Only the output folder and the store are writable.

    Args:
        options: settings of the containers.
        values: settings of the run by their one name, including run_store.
        out: output folder, which must exist.

    Raises:
        UserError: if no engine responds or the engine does not have the image.
    """
    writable = [Path(os.path.abspath(out)), out.resolve()]
    store = str(values["run_store"])
    if "://" not in store:
        Path(store).mkdir(parents=True, exist_ok=True)
        writable.append(Path(os.path.abspath(store)))
    given = [str(values.get(name) or "") for name in RECOMMENDER.sources]
    if previous := str(values.get("run_previous") or ""):
        given += [previous, *find_earlier_artifacts(previous).values()]
    readable = [Path(os.path.abspath(uri)) for uri in given if uri and Path(uri).exists()]
    return Containers(options, mounts(writable, readable))


def mounts(writable: Sequence[Path], readable: Iterable[Path]) -> list[Mount]:
    """Return the mounts that a stage needs: each path once, outer folders first.

    A folder inside a writable folder gets no mount of its own. Hard links cannot cross mounts, so
    the artifact store would copy every file. A model folder may contain symbolic links, as a hub's
    cache does; the folders of their targets are mounted too.
    """
    outer = {path for path in writable if not any(p in path.parents for p in writable)}
    inner = set(readable)
    for folder in [path for path in inner if path.is_dir()]:
        with os.scandir(folder) as entries:
            links = [Path(entry.path).resolve() for entry in entries if entry.is_symlink()]
        inner |= {t.parent for t in links if t.exists() and folder not in t.parents}
    found = [Mount(path, True) for path in outer] + [Mount(path, False) for path in inner - outer]
    return sorted(found, key=lambda m: len(m.path.parts))


class Containers:
    """Runs each command in its own container.

    The container's file system is read-only, except for writable mounts and /tmp.
    """

    def __init__(self, options: Options, mounted: Sequence[Mount], client: Any = None) -> None:
        """Connect to the engine.

        Args:
            options: settings of the containers.
            mounted: mounts of every container.
            client: client of the engine; None connects to the engine of this machine.

        Raises:
            UserError: if no engine responds or the engine does not have the image.
        """
        from docker.errors import ImageNotFound

        self.client = client or connect()
        self.options, self.mounted = options, mounted
        try:
            self.client.images.get(options.image)
        except ImageNotFound as error:
            raise UserError(
                f"the container engine has no image {options.image}. Make the one of these sources "
                "with `macrec images build cpu`, or pull the one you name."
            ) from error

    def __call__(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a command to its end, write its log to this terminal, and return its exit code."""
        from docker.errors import APIError

        try:
            container = self.client.containers.create(
                self.options.image, list(command), **self._settings(command, environment)
            )
        except APIError as error:
            raise UserError(f"no container of {self.options.image}: {error.explanation}") from error
        try:
            with _ended_by_sigterm():
                container.start()
                log = _FollowedLog(container)
                code = int(container.wait()["StatusCode"])
                log.finish()
                return code
        except (KeyboardInterrupt, SystemExit):
            container.stop(timeout=SECONDS_TO_STOP)  # gives the stage time to save its progress
            raise
        finally:
            container.remove(force=True, v=True)

    def _settings(self, command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
        from docker import types

        passed = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_ON or name.startswith(NUMERIC_PREFIXES)
        }
        mounted = list(self.mounted)
        if CREDENTIALS in os.environ and self.options.network != "none":
            passed[CREDENTIALS] = os.environ[CREDENTIALS]
            mounted.append(Mount(Path(passed[CREDENTIALS]), False))
        return {
            "environment": {**passed, **environment},
            **self._user(),
            "mounts": [
                types.Mount(str(m.path), str(m.path), type="bind", read_only=not m.writable)
                for m in mounted
            ],
            "network_mode": self.options.network,
            "read_only": True,
            "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},
            "shm_size": "1g",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges", "label=disable"],
            "labels": {LABEL: command[3] if command[1:3] == ["-m", "components"] else command[-1]},
        }

    def _user(self) -> dict[str, Any]:
        if self.options.user:
            return {"user": self.options.user}
        if "name=rootless" in (self.client.info().get("SecurityOptions") or []):
            return {"user": "0:0"}  # in a rootless engine, root is the caller
        groups = [str(group) for group in os.getgroups()]
        return {"user": f"{os.getuid()}:{os.getgid()}", "group_add": groups}


class _FollowedLog:
    """Writes a container's log to this terminal while the container runs.

    Podman was seen to leave the log stream open if a container ended at once. So `finish` is called
    when the container has ended, and fetches the part of the log that the follower has missed.
    """

    def __init__(self, container: Any) -> None:
        self._container, self._written = container, 0
        self._stream = container.logs(stream=True, follow=True)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for part in self._stream:
            self._write(part)

    def _write(self, part: bytes) -> None:
        self._written += len(part)
        sys.stderr.buffer.write(part)
        sys.stderr.buffer.flush()

    def finish(self) -> None:
        """Write the rest of the log of a container that has ended."""
        self._thread.join(SECONDS_FOR_LOG)
        if self._thread.is_alive():
            self._stream.close()
            self._thread.join()
            self._write(self._container.logs()[self._written :])


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Convert SIGTERM to SystemExit within the block, so that no container is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_PREEMPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
