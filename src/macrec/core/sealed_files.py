"""Files that are trusted only with a manifest, which is written last and states their SHA-256.

Checkpoints and finished shards use them. An attempt that was cut short leaves a file without a
manifest, which counts as absent. A file or manifest that was changed later is found as damaged.
"""

import json
from pathlib import Path

from macrec.core.artifact import Json, json_digest
from macrec.core.failpoint import failpoint
from macrec.core.storage.local import sha256_file
from macrec.core.storage.uris import open_storage

FORMAT = 2
MANIFEST = ".json"


class DamagedFile(ValueError):
    """Raised for a file that is not what was written."""


class SealedFiles:
    """Named files in a folder, each sealed by a manifest.

    Args:
        uri: a local folder or gs://BUCKET/FOLDER.
        suffix: suffix of the files, such as ".parquet".
        kind: what a file contains, for the names of the failpoints "KIND uploaded" and "KIND
            sealed".
    """

    def __init__(self, uri: str, suffix: str, kind: str) -> None:
        self.uri, self._suffix, self._kind = uri, suffix, kind
        self.storage = open_storage(uri)

    def write(self, name: str, path: Path, facts: Json) -> list[str]:
        """Store a local file, then its manifest; return the names of both.

        The file's name contains its checksum, so a file that an earlier attempt left under the same
        name has the same content.

        Args:
            name: name under which `read` finds the file.
            path: the local file.
            facts: further content of the manifest.
        """
        checksum = sha256_file(path)
        file = f"{name}-{checksum[:16]}{self._suffix}"
        self.storage.upload(path, file)
        failpoint(f"{self._kind} uploaded")
        content = {**facts, "format": FORMAT, "file": file, "sha256": checksum}
        manifest = {"content": content, "digest": json_digest(content)}
        self.storage.create(name + MANIFEST, json.dumps(manifest, allow_nan=False).encode())
        failpoint(f"{self._kind} sealed")
        return [file, name + MANIFEST]

    def read(self, name: str, to: Path) -> Json | None:
        """Copy the file to a local path and return the content of its manifest, or None if absent.

        Raises:
            DamagedFile: the file or its manifest is not what was written.
        """
        written = self.storage.read(name + MANIFEST)
        if written is None:
            return None
        try:
            manifest = json.loads(written)
            content = manifest["content"]
            intact = manifest["digest"] == json_digest(content) and content["format"] == FORMAT
        except (ValueError, LookupError, TypeError) as error:
            raise DamagedFile(f"its manifest is not readable ({error!r})") from error
        if not intact:
            raise DamagedFile("its manifest is not what was written")
        if not self.storage.exists(content["file"]):
            raise DamagedFile("its content is absent")
        self.storage.download(content["file"], to)
        if sha256_file(to) != content["sha256"]:
            raise DamagedFile("its content differs from its manifest (SHA-256)")
        return content

    def files(self, name: str) -> list[str]:
        """Return the names of the existing files of a name, the manifest first."""
        found = [n for n in self.storage.names(name) if n.endswith((MANIFEST, self._suffix))]
        return sorted(found, key=lambda n: not n.endswith(MANIFEST))
