"""Keeps finished shards beside the artifact store until the stage has ended.

A shard is a Parquet file named by its users and its content, and a manifest with its SHA-256 that
is written last. A damaged or unfinished shard is computed again. The folder belongs to one
fingerprint, so a shard of the same users comes from the same code, settings and inputs.
"""

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from macrec.core.artifact import Json, json_digest
from macrec.core.errors import TryAgain
from macrec.core.failpoint import failpoint
from macrec.core.progress import log
from macrec.core.storage.local import sha256_file
from macrec.core.storage.uris import open_storage

FORMAT = 1
MANIFEST = ".json"


class KeptShards:
    """Stores tables under names and finds them again.

    Args:
        uri: a local folder or gs://BUCKET/FOLDER that belongs to this fingerprint alone. Empty:
            nothing is stored and nothing is found.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._storage = open_storage(uri) if uri else None

    def keep(self, name: str, table: pa.Table) -> None:
        """Write the table; if the storage does not respond, the run goes on without a copy."""
        if self._storage is None:
            return
        try:
            with tempfile.TemporaryDirectory(prefix="macrec-shard-") as folder:
                path = Path(folder) / "rows"
                pq.write_table(table, path, compression="zstd", write_statistics=False)
                checksum = sha256_file(path)
                file = f"{name}-{checksum[:16]}.parquet"
                self._storage.upload(path, file)
            failpoint("shard uploaded")
            content: Json = {"format": FORMAT, "file": file, "sha256": checksum}
            manifest = {"content": content, "digest": json_digest(content)}
            self._storage.create(name + MANIFEST, json.dumps(manifest).encode())
            failpoint("shard kept")
        except TryAgain as error:
            log.warning("shard %s is not kept: %s", name, error)

    def find(self, name: str) -> pa.Table | None:
        """Return the table stored under the name; a damaged table is logged and deleted."""
        written = self._storage.read(name + MANIFEST) if self._storage else None
        if self._storage is None or written is None:
            return None
        file = ""
        try:
            manifest = json.loads(written)
            content = manifest["content"]
            if manifest["digest"] != json_digest(content) or content["format"] != FORMAT:
                raise ValueError("its manifest is not what was written")
            file = str(content["file"])
            return self._read(file, content["sha256"])
        except (ValueError, LookupError, TypeError, OSError) as error:
            log.warning("%s/%s: damaged, computed again (%s)", self.uri, name, error)
            # deleted first, because a shard without a manifest is ignored
            self._storage.delete(name + MANIFEST)
            if file:
                self._storage.delete(file)
            return None

    def _read(self, file: str, checksum: str) -> pa.Table:
        assert self._storage is not None
        if not self._storage.exists(file):
            raise ValueError("its rows are absent")
        with tempfile.TemporaryDirectory(prefix="macrec-shard-") as folder:
            path = Path(folder) / "rows"
            self._storage.download(file, path)
            if sha256_file(path) != checksum:
                raise ValueError("its rows differ from its manifest (SHA-256)")
            return pq.read_table(path, memory_map=False)
