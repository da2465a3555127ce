"""The artifact store: results of finished stages, found by fingerprint.

Files are stored once, under the SHA-256 of their content (`blobs/`). One record per finished stage
(`records/STAGE/FINGERPRINT.json`) lists them. A record is created last and only if none exists, so
that two identical concurrent runs cannot mix. One commits, and the other takes over its result.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from macrec.core.artifact import MANIFEST, FolderOutput, Json, Output, json_digest
from macrec.core.errors import UserError
from macrec.core.failpoint import failpoint
from macrec.core.storage.backend import Storage
from macrec.core.storage.local import sha256_file
from macrec.core.storage.uris import open_storage


class ArtifactStore:
    """Results of finished stages, at a local path or at gs://."""

    def __init__(self, uri: str) -> None:
        self.storage: Storage = open_storage(uri)

    def find(self, stage: str, fingerprint: str) -> Json | None:
        """Return the record of a finished stage, or None.

        Raises:
            UserError: the record is damaged.
        """
        content = self.storage.read(_record_name(stage, fingerprint))
        if content is None:
            return None
        try:
            record = json.loads(content)
            if record.pop("digest") != json_digest(record):
                raise ValueError("its digest does not match")
            return record
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.storage.uri}/{_record_name(stage, fingerprint)}: damaged ({error}). "
                "Delete it; the stage then runs again."
            ) from error

    def restore(self, record: Json, outputs: Mapping[str, Output]) -> bool:
        """Restore a finished stage's outputs; return False if a stored file is absent or damaged.

        Raises:
            UserError: the record lists a file outside its artifact, or an output folder holds files
                that no stage has written.
        """
        whole: list[bool] = []  # every file is checked, so that every damaged blob is deleted
        for name, output in outputs.items():
            output.prepare()
            # The manifest comes last, so it never exists without its files, even after a kill.
            for entry in sorted(record["outputs"][name], key=lambda e: e["name"] == MANIFEST):
                whole.append(self._restore_file(entry, _target(output, entry["name"])))
        failpoint("result restored")
        if all(whole):
            for output in outputs.values():
                output.finish()
            self.storage.touch(_record_name(record["stage"], record["fingerprint"]))
        return all(whole)

    def _restore_file(self, entry: Json, target: Path) -> bool:
        blob = _blob_name(entry["sha256"])
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.storage.exists(blob):
            self.storage.download(blob, target)
            if sha256_file(target) == entry["sha256"]:
                failpoint("file restored")
                return True
            self.storage.delete(blob)
        target.unlink(missing_ok=True)
        return False

    def commit(
        self,
        stage: str,
        fingerprint: str,
        outputs: Mapping[str, Output],
        metrics: Mapping[str, float],
        *,
        replace: bool = False,
    ) -> Json | None:
        """Store the outputs of a finished stage; return None, or the record of a quicker run.

        If an identical run has committed first, its record stays and is returned. With `replace`,
        the existing record is deleted first, because its files are damaged.
        """
        stored: dict[str, list[Json]] = {}
        for name, output in outputs.items():
            stored[name] = []
            for path in _files(output):
                entry = _entry(output, path)
                self.storage.upload(path, _blob_name(entry["sha256"]))
                failpoint("blob uploaded")
                stored[name].append(entry)
        record: dict[str, Any] = {
            "stage": stage,
            "fingerprint": fingerprint,
            "metrics": dict(metrics),
            "outputs": stored,
        }
        sealed = record | {"digest": json_digest(record)}
        record_name = _record_name(stage, fingerprint)
        failpoint("record not yet created")
        if replace:
            self.storage.delete(record_name)
            failpoint("record not yet replaced")
        if self.storage.create(record_name, json.dumps(sealed, indent=1).encode()):
            failpoint("record created")
            return None
        return self.find(stage, fingerprint)


def _record_name(stage: str, fingerprint: str) -> str:
    return f"records/{stage}/{fingerprint}.json"


def _blob_name(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _files(output: Output) -> list[Path]:
    if isinstance(output, FolderOutput):
        return sorted(p for p in output.path.rglob("*") if p.is_file())
    return [output.path]


def _entry(output: Output, path: Path) -> Json:
    name = path.relative_to(output.path).as_posix() if isinstance(output, FolderOutput) else ""
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _target(output: Output, name: str) -> Path:
    if not name:
        return output.path
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserError(f"artifact store: a record names the file {name!r}, outside its artifact.")
    return output.path / name
