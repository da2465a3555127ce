"""Runs the stages of a local run in containers, by the docker SDK (Docker's engine or podman's).

kfp.local's own DockerRunner reports a failed container as success when the container is gone before
it is asked for its exit code. Here a container is created, started, followed, waited for and only
then removed.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core.errors import EXIT_PREEMPTED, UserError
from pipelines.dag.run_form import PREVIOUS, SOURCES
from pipelines.local import images
from pipelines.local.engine import connect

# Of the caller's environment, a stage gets what chooses its numeric kernels and its threads, on
# which the bytes of results depend, and what gives it access to storage.
NUMERIC_PREFIXES = ("OMP_", "MKL_", "OPENBLAS_", "ATEN_", "NPY_")
PASSED_ON = (
    "GOOGLE_CLOUD_PROJECT",
    "STORAGE_EMULATOR_HOST",
    "HF_TOKEN",
    "HF_ENDPOINT",
)
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
SECONDS_TO_STOP = 10
SECONDS_FOR_LOG = 5  # after the end of a container, until its follower is given up
LABEL = "macrec.core.stage"


class Options(NamedTuple):
    """How the containers of a run are made."""

    image: str
    """The image of every stage."""
    network: str = "none"
    """The engine's network that they join, e.g. host or bridge."""
    user: str = ""
    """UID:GID of the processes; empty: the caller's, to whom the results then belong."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What makes a local run one in containers."""
    parser.add_argument(
        "--containers",
        nargs="?",
        const="",
        metavar="IMAGE",
        help="run each stage in a container (default image: the cpu image of these sources)",
    )
    parser.add_argument(
        "--network", default="none", help="network of the containers: none (default), host, ..."
    )


def given(options: argparse.Namespace) -> Options | None:
    """What the flags say; None: no containers."""
    if options.containers is None:
        return None
    return Options(options.containers or images.reference("cpu"), options.network)


class Mount(NamedTuple):
    """A path of this machine that a stage sees under the same name."""

    path: Path
    writable: bool


def of_run(options: Options, arguments: Mapping[str, Any], out: Path) -> "Containers":
    """Containers that see what a run reads, and may write to its output folder and its store.

    Args:
        options: how the containers are made.
        arguments: the run parameters.
        out: the output folder; it exists.

    Raises:
        UserError: no engine answers, or it does not have the image.
    """
    writable = [Path(os.path.abspath(out)), out.resolve()]
    store = str(arguments["store"])
    if "://" not in store:
        Path(store).mkdir(parents=True, exist_ok=True)
        writable.append(Path(os.path.abspath(store)))
    given = [str(arguments.get(name) or "") for name in (*SOURCES.values(), *PREVIOUS.values())]
    readable = [Path(os.path.abspath(uri)) for uri in given if uri and Path(uri).exists()]
    return Containers(options, mounts(writable, readable))


def mounts(writable: Sequence[Path], readable: Iterable[Path]) -> list[Mount]:
    """What a stage must see of this machine, outer folders first, each place once.

    A folder inside a writable one needs no mount of its own: across two mounts no hard link can be
    made, and the artifact store would copy every file. A model folder may be full of links (a hub's
    cache is); what its links lead to is mounted with it.
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
    """Runs each command in a container of its own: read-only but for its mounts and /tmp."""

    def __init__(self, options: Options, mounted: Sequence[Mount], client: Any = None) -> None:
        """Connects to the engine.

        Raises:
            UserError: no engine answers, or it does not have the image.
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
        """Runs a command to its end, its log on this terminal; returns its exit code."""
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
            container.stop(timeout=SECONDS_TO_STOP)  # a stage may save what it has
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
            return {"user": "0:0"}  # in an engine without root, that is the caller
        groups = [str(group) for group in os.getgroups()]
        return {"user": f"{os.getuid()}:{os.getgid()}", "group_add": groups}


class _FollowedLog:
    """Writes a container's log to this terminal while it runs.

    Podman was seen never to end the log of a container that ended at once, so the end is that of
    the container, and what the follower has not had by then is asked for.
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
        """Writes what is left of the log of a container that has ended."""
        self._thread.join(SECONDS_FOR_LOG)
        if self._thread.is_alive():
            self._stream.close()
            self._thread.join()
            self._write(self._container.logs()[self._written :])


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM unwind the stack, so that no container is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_PREEMPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
