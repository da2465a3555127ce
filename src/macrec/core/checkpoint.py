"""Checkpoints of a training run that may be interrupted: saved at intervals, found by fingerprint.

A checkpoint is a sealed file of tensors (safetensors). Its manifest holds the rest of the state and
the step. Damaged or unfinished checkpoints are skipped. Nothing is pickled, so reading a checkpoint
runs no code.
"""

import json
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from macrec.core.artifact import Json
from macrec.core.errors import EXIT_PREEMPTED, TryAgain, UserError
from macrec.core.failpoint import failpoint
from macrec.core.processes import Processes
from macrec.core.progress import log
from macrec.core.sealed_files import MANIFEST, DamagedFile, SealedFiles
from macrec.core.shortage import room_for
from macrec.core.storage.uris import is_remote

if TYPE_CHECKING:
    from macrec.core.state_file import StateFile

TENSORS = ".safetensors"
STEPS_BETWEEN_QUESTIONS = 16
"""Number of steps between two exchanges in which the processes agree whether to save or to end."""


class Checkpoint(NamedTuple):
    """The state from which a training run resumes."""

    step: int
    state: Any
    """The state as it was saved. Tensors are on the CPU, and tuples come back as lists."""


class Checkpoints:
    """Saves the state of a training run at intervals, and finds the newest intact checkpoint.

    Args:
        uri: a local folder or gs://BUCKET/FOLDER that belongs to this training run alone. If it is
            empty, nothing is saved, `due` is never true and `latest` returns None.
        every_seconds: time from the end of one save to the start of the next.
        keep: number of checkpoints to keep; older ones are deleted.
        made_for: provenance of the training's result (configuration, digests of inputs). Each
            checkpoint contains it, and one with a different provenance is rejected. None accepts
            any checkpoint.
        clock: returns the time in seconds; tests replace it.
    """

    def __init__(
        self,
        uri: str = "",
        every_seconds: float = 300.0,
        keep: int = 2,
        made_for: Json | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uri, self.every_seconds, self.keep = uri, every_seconds, keep
        self._made_for: Json | None = json.loads(json.dumps(made_for))  # as read back: no tuples
        self._files = SealedFiles(uri, TENSORS, "checkpoint") if uri else None
        self._clock, self._saved_at = clock, clock()
        self._preempted = False
        self._known: set[str] | None = None

    @property
    def is_preempted(self) -> bool:
        """Return whether the process was asked to end; training then saves and calls `leave`."""
        return self._preempted

    def is_due(self) -> bool:
        """Return whether it is time to save."""
        if self._files is None:
            return False
        return self._preempted or self._clock() - self._saved_at >= self.every_seconds

    @contextmanager
    def watch_for_sigterm(self) -> Iterator[None]:
        """Make SIGTERM set `preempted` within the block instead of ending the process at once.

        If nothing has acted on the signal when the block ends, the signal is raised again.
        """
        # Without a storage nothing is saved. Only the main thread can install a signal handler.
        if self._files is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._notice)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        if self._preempted:
            signal.raise_signal(signal.SIGTERM)

    def _notice(self, *_: object) -> None:
        self._preempted = True

    def exit_preempted(self) -> NoReturn:
        """End the process as preempted; training resumes when it is started again."""
        log.warning("preempted: ended after a checkpoint (%s)", self.uri)
        raise SystemExit(EXIT_PREEMPTED)

    def save(self, step: int, state: Any) -> None:
        """Write a checkpoint, then delete the old ones.

        If the storage does not respond, the checkpoint is lost but training continues. A full disk
        ends training, because its result would not fit either. The previous checkpoint is kept.

        Args:
            step: number of steps done; the checkpoint with the highest step is the latest.
            state: dicts, lists and tuples of tensors, numbers, strings, booleans and None; keys are
                strings or integers.

        Raises:
            UserError: the disk is full.
        """
        if self._files is None:
            return
        # Loads torch, which a stage whose result is reused does not need.
        from macrec.core.state_file import StateFile

        content = StateFile.split(state)
        try:
            with room_for(Path(tempfile.gettempdir()), content.size):
                self._write(step, content)
                self._prune()
        except TryAgain as error:
            log.warning("checkpoint of step %d not saved: %s", step, error)
        self._saved_at = self._clock()

    def _write(self, step: int, content: "StateFile") -> None:
        assert self._files is not None
        with tempfile.TemporaryDirectory(prefix="macrec-checkpoint-") as folder:
            path = Path(folder) / "tensors"
            content.write(path)
            facts = {"step": step, "state": content.tree, "made_for": self._made_for}
            facts["bytes"] = path.stat().st_size
            written = self._files.write(f"step-{step:012d}", path, facts)
        self._known = {*self._names(), *written}

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None; damaged ones are logged and deleted.

        Raises:
            UserError: the checkpoint belongs to another training run and was copied here.
        """
        if self._files is None:
            return None
        for manifest in reversed([n for n in self._names() if n.endswith(MANIFEST)]):
            stem = manifest.removesuffix(MANIFEST)
            try:
                checkpoint = self._read(stem)
                log.info("resumed from the checkpoint of step %d (%s)", checkpoint.step, self.uri)
                return checkpoint
            except (ValueError, LookupError, TypeError, OSError) as error:
                log.warning("%s/%s: damaged, skipped (%s)", self.uri, stem, error)
                self._delete([name for name in self._names() if name.startswith(stem)])
        return None

    def _read(self, stem: str) -> Checkpoint:
        from macrec.core.state_file import StateFile  # loads torch

        assert self._files is not None
        with tempfile.TemporaryDirectory(prefix="macrec-checkpoint-") as folder:
            path = Path(folder) / "tensors"
            content = self._files.read(stem, path)
            if content is None:
                raise DamagedFile("its manifest is absent")
            self._check_origin(stem, content.get("made_for") or {})
            state = StateFile.read(path, content["state"]).join()
        return Checkpoint(content["step"], state)

    def _check_origin(self, stem: str, found: Json) -> None:
        if self._made_for is not None and found != self._made_for:
            changes = "; ".join(_differences(found, self._made_for))
            raise UserError(
                f"{self.uri}/{stem}: checkpoint of another training ({changes}). It is not in the "
                "folder of that training. Move it away; this training then starts anew."
            )

    def _names(self) -> list[str]:
        """Return the names of the existing files, sorted; the storage is listed only once."""
        assert self._files is not None
        if self._known is None:
            self._known = set(self._files.storage.names())
        return sorted(self._known)

    def _delete(self, names: list[str]) -> None:
        assert self._files is not None and self._known is not None
        # The manifests go first: a file without a manifest counts as absent.
        for name in sorted(names, key=lambda name: not name.endswith(MANIFEST)):
            self._files.storage.delete(name)
            failpoint("checkpoint file deleted")
            self._known.discard(name)

    def _prune(self) -> None:
        """Delete all files older than the checkpoints to keep, even tensors without a manifest."""
        kept = [n.removesuffix(MANIFEST) for n in self._names() if n.endswith(MANIFEST)]
        self._delete([name for name in self._names() if name < min(kept[-self.keep :])])

    def remove(self) -> None:
        """Delete all checkpoints, once training has ended and its result is stored."""
        if self._files is None:
            return
        self._known = None  # another process may have written them
        self._delete(self._names())
        if not is_remote(self.uri):
            with suppress(OSError):  # it never existed, or another run has just saved there
                Path(self.uri).rmdir()


class SharedCheckpoints:
    """Checkpoints of processes that all hold the same state.

    Process 0 alone saves, and all processes end together.
    """

    def __init__(self, checkpoints: Checkpoints, processes: Processes) -> None:
        self._checkpoints, self._processes = checkpoints, processes
        self._saved_step = -1

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None.

        Process 0 looks first, because it deletes the damaged ones.
        """
        found = self._checkpoints.latest() if self._processes.is_first else None
        if not self._processes.agree(found is not None):
            return None
        found = found or self._checkpoints.latest()
        self._saved_step = found.step if found else -1
        return found

    def save_if_due(self, step: int, state: Callable[[], Any], *, ask: bool = False) -> None:
        """Save if it is time, at most once per step; end the process if it was asked to end.

        Args:
            step: number of steps done.
            state: returns the state; only process 0 calls it.
            ask: whether several processes agree now, instead of every 16th step
                (`STEPS_BETWEEN_QUESTIONS`).
        """
        save, end = self._checkpoints.is_due(), self._checkpoints.is_preempted
        if self._processes.count > 1:
            if step % STEPS_BETWEEN_QUESTIONS and not ask:
                return
            save, end = self._processes.any([save and self._processes.is_first, end])
        if (save or end) and step != self._saved_step:
            self._saved_step = step
            if self._processes.is_first:
                self._checkpoints.save(step, state())
        if end:
            self._checkpoints.exit_preempted()


def _differences(found: Json, wanted: Json, place: str = "") -> Iterator[str]:
    """Yield where two nested dicts differ, in the form `config.epochs: 5, here 9`."""
    for key in sorted({*found, *wanted}):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{place}{key}.")
        elif one != other:
            yield f"{place}{key}: {json.dumps(one)}, here {json.dumps(other)}"
