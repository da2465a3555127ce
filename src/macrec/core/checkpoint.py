"""Checkpoints of a training that may be cut short: saved by time, found again by fingerprint.

A checkpoint is a file of tensors (safetensors) and, written last, a manifest with the rest of the
state, the step, and the SHA-256 of both. What is damaged or unfinished is passed over. Nothing is
pickled, so reading one runs no code.
"""

import hashlib
import json
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from macrec.core.artifact import Json, canonical_json
from macrec.core.errors import EXIT_PREEMPTED, TryAgain, UserError
from macrec.core.failpoint import failpoint
from macrec.core.progress import log
from macrec.core.shortage import room_for
from macrec.core.storage.local import sha256_file
from macrec.core.storage.uris import is_remote, open_storage

if TYPE_CHECKING:
    from torch import Tensor

    from macrec.core.processes import Processes

FORMAT = 1
MANIFEST = ".json"
TENSORS = ".safetensors"
STEPS_BETWEEN_QUESTIONS = 16
"""Steps after which several processes ask each other whether to save or to end."""


class Checkpoint(NamedTuple):
    """What a training resumes from."""

    step: int
    state: Any
    """As it was saved, tensors on the CPU; a tuple comes back as a list."""


class Checkpoints:
    """Saves the state of a training now and then, and finds the newest that is whole.

    Args:
        uri: a local folder or gs://BUCKET/FOLDER that belongs to this training alone. Empty:
            nothing is kept, `due` is never true, `latest` is None.
        every_seconds: time from the end of one save to the beginning of the next.
        keep: checkpoints that stay; older ones are deleted.
        made_for: what the training's result is made from (configuration, digests of inputs); each
            checkpoint says it, and one that says something else is refused. None: any will do.
        clock: seconds, for tests.
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
        self._made_for: Json | None = json.loads(json.dumps(made_for))  # as it is read: no tuples
        self._storage = open_storage(uri) if uri else None
        self._clock, self._saved_at = clock, clock()
        self._preempted = False
        self._known: set[str] | None = None

    @property
    def preempted(self) -> bool:
        """Whether the process was asked to end; the training then saves and calls `leave`."""
        return self._preempted

    def due(self) -> bool:
        """Whether it is time to save."""
        if self._storage is None:
            return False
        return self._preempted or self._clock() - self._saved_at >= self.every_seconds

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block SIGTERM sets `preempted` instead of ending the process at once.

        At its end a signal that nobody has acted on takes its usual course.
        """
        # Without a place to save to there is nothing to wait for; only the main thread may watch.
        if self._storage is None or threading.current_thread() is not threading.main_thread():
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

    def leave(self) -> NoReturn:
        """Ends the process as a preempted one; the training goes on where it is started again."""
        log.warning("preempted: ended after a checkpoint (%s)", self.uri)
        raise SystemExit(EXIT_PREEMPTED)

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint, then deletes the old ones.

        A storage that does not answer costs the checkpoint, not the training. A full disk ends it:
        its result would find no room either, and the checkpoint before is kept.

        Args:
            step: orders the checkpoints; the highest is the latest.
            state: dicts, lists and tuples of tensors, numbers, texts, booleans and None; keys are
                texts or integers.
        """
        if self._storage is None:
            return
        tensors: dict[str, Tensor] = {}
        tree = _taken_apart(state, tensors)
        try:
            size = sum(tensor.nbytes for tensor in tensors.values())
            with room_for(Path(tempfile.gettempdir()), size):
                self._write(step, tree, tensors)
                self._prune()
        except TryAgain as error:
            log.warning("checkpoint of step %d not saved: %s", step, error)
        self._saved_at = self._clock()

    def _write(self, step: int, tree: Any, tensors: dict[str, "Tensor"]) -> None:
        from safetensors.torch import save_file

        assert self._storage is not None
        with tempfile.TemporaryDirectory(prefix="macrec-checkpoint-") as folder:
            path = Path(folder) / "tensors"
            save_file(tensors, path)
            checksum, size = sha256_file(path), path.stat().st_size
            # Named by its content: a file that an earlier attempt left is the same or another one.
            stem = f"step-{step:012d}-{checksum[:16]}"
            self._storage.upload(path, stem + TENSORS)
        failpoint("checkpoint tensors saved")
        content = {"format": FORMAT, "step": step, "state": tree, "bytes": size, "sha256": checksum}
        content["made_for"] = self._made_for
        manifest = {"content": content, "digest": _digest(content)}
        self._storage.create(stem + MANIFEST, json.dumps(manifest, allow_nan=False).encode())
        failpoint("checkpoint saved")
        self._known = {*self._names(), stem + TENSORS, stem + MANIFEST}

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; damaged ones are named in the log and deleted.

        Raises:
            UserError: it is of another training; somebody has copied it here.
        """
        if self._storage is None:
            return None
        for manifest in reversed([n for n in self._names() if n.endswith(MANIFEST)]):
            stem = manifest.removesuffix(MANIFEST)
            try:
                checkpoint = self._read(stem)
                log.info("resumed from the checkpoint of step %d (%s)", checkpoint.step, self.uri)
                return checkpoint
            except (ValueError, LookupError, TypeError, OSError) as error:
                log.warning("%s/%s: damaged, passed over (%s)", self.uri, stem, error)
                self._delete([stem + MANIFEST, stem + TENSORS])
        return None

    def _read(self, stem: str) -> Checkpoint:
        from safetensors.torch import load_file

        assert self._storage is not None
        manifest = json.loads(self._storage.read(stem + MANIFEST) or b"")
        content = manifest["content"]
        if manifest["digest"] != _digest(content) or content["format"] != FORMAT:
            raise ValueError("its manifest is not what was written")
        self._check_origin(stem, content.get("made_for") or {})
        with tempfile.TemporaryDirectory(prefix="macrec-checkpoint-") as folder:
            path = Path(folder) / "tensors"
            if not self._storage.exists(stem + TENSORS):
                raise ValueError("its tensors are absent")
            self._storage.download(stem + TENSORS, path)
            if sha256_file(path) != content["sha256"]:
                raise ValueError("its tensors differ from its manifest (SHA-256)")
            tensors = load_file(path)
        return Checkpoint(content["step"], _put_together(content["state"], tensors))

    def _check_origin(self, stem: str, found: Json) -> None:
        if self._made_for is not None and found != self._made_for:
            told = "; ".join(_differences(found, self._made_for))
            raise UserError(
                f"{self.uri}/{stem}: the checkpoint of another training ({told}). It does not lie "
                "where that training has put it: move it away, then this one starts anew."
            )

    def _names(self) -> list[str]:
        """The files that are there, sorted; asked for once, for a local list hashes every file."""
        assert self._storage is not None
        if self._known is None:
            self._known = {entry.name for entry in self._storage.list()}
        return sorted(self._known)

    def _delete(self, names: list[str]) -> None:
        assert self._storage is not None and self._known is not None
        for name in names:  # sorted, so the manifest goes first: half a checkpoint is none
            self._storage.delete(name)
            failpoint("checkpoint file deleted")
            self._known.discard(name)

    def _prune(self) -> None:
        """Deletes what is older than the checkpoints to keep, and files without a manifest."""
        kept = [n.removesuffix(MANIFEST) for n in self._names() if n.endswith(MANIFEST)]
        self._delete([name for name in self._names() if name < min(kept[-self.keep :])])

    def remove(self) -> None:
        """Deletes all checkpoints: the training has ended and its result is safe."""
        if self._storage is None:
            return
        self._known = None  # another process may have written them
        self._delete(self._names())
        if not is_remote(self.uri):
            with suppress(OSError):  # it was never made, or another run has just saved there
                Path(self.uri).rmdir()


class SharedCheckpoints:
    """Checkpoints of processes that all hold the same state: process 0 saves, all end together."""

    def __init__(self, checkpoints: Checkpoints, processes: "Processes") -> None:
        self._checkpoints, self._processes = checkpoints, processes
        self._saved_step = -1

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint; process 0 looks first, for it deletes the damaged ones."""
        found = self._checkpoints.latest() if self._processes.first else None
        if not self._processes.agree(found is not None):
            return None
        found = found or self._checkpoints.latest()
        self._saved_step = found.step if found else -1
        return found

    def save_if_due(self, step: int, state: Callable[[], Any], *, ask: bool = False) -> None:
        """Saves if it is time, a step once at most; ends the process if it was asked to end.

        Args:
            step: steps done.
            state: gives the state; process 0 alone calls it.
            ask: several processes ask each other now, whatever the step.
        """
        save, end = self._checkpoints.due(), self._checkpoints.preempted
        if self._processes.count > 1:
            if step % STEPS_BETWEEN_QUESTIONS and not ask:
                return
            import torch

            asked = torch.tensor([int(save and self._processes.first), int(end)])
            self._processes.sum(asked)
            save, end = (asked > 0).tolist()
        if (save or end) and step != self._saved_step:
            self._saved_step = step
            if self._processes.first:
                self._checkpoints.save(step, state())
        if end:
            self._checkpoints.leave()


def _differences(found: Json, wanted: Json, place: str = "") -> Iterator[str]:
    """Where two nested dicts differ, as `config.epochs: 5, here 9`."""
    for key in sorted({*found, *wanted}):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{place}{key}.")
        elif one != other:
            yield f"{place}{key}: {json.dumps(one)}, here {json.dumps(other)}"


def _digest(content: Json) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _taken_apart(value: Any, tensors: dict[str, "Tensor"]) -> Any:
    """The state as JSON: tensors go into the dict, and their name stands in their place."""
    import torch

    if isinstance(value, torch.Tensor):
        name = f"{len(tensors):06d}"
        # A copy of its own: safetensors refuses tensors that share their memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):  # pairs, for a key may be a number
        return {"dict": [[key, _taken_apart(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_taken_apart(item, tensors) for item in value]
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


def _put_together(value: Any, tensors: dict[str, "Tensor"]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _put_together(item, tensors) for key, item in value["dict"]}
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    return value
