"""Keeps finished shards beside the artifact store until the stage has ended.

A shard is a sealed Parquet file, named by its users. A damaged or unfinished shard is computed
again. The folder belongs to one fingerprint, so a shard of the same users comes from the same code,
settings and inputs.
"""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from macrec.core.errors import TryAgain
from macrec.core.progress import log
from macrec.core.sealed_files import SealedFiles


class KeptShards:
    """Stores tables under names and finds them again.

    Args:
        uri: a local folder or gs://BUCKET/FOLDER that belongs to this fingerprint alone. Empty:
            nothing is stored and nothing is found.
    """

    def __init__(self, uri: str) -> None:
        self._files = SealedFiles(uri, ".parquet", "shard") if uri else None

    def keep(self, name: str, table: pa.Table) -> None:
        """Write the table; if the storage does not respond, the run goes on without a copy."""
        if self._files is None:
            return
        try:
            with tempfile.TemporaryDirectory(prefix="macrec-shard-") as folder:
                path = Path(folder) / "rows"
                pq.write_table(table, path, compression="zstd", write_statistics=False)
                self._files.write(name, path, {})
        except TryAgain as error:
            log.warning("shard %s is not stored: %s", name, error)

    def find(self, name: str) -> pa.Table | None:
        """Return the table stored under the name; a damaged table is logged and deleted."""
        if self._files is None:
            return None
        try:
            with tempfile.TemporaryDirectory(prefix="macrec-shard-") as folder:
                path = Path(folder) / "rows"
                found = self._files.read(name, path)
                return pq.read_table(path, memory_map=False) if found is not None else None
        except (ValueError, LookupError, TypeError, OSError) as error:
            log.warning("%s/%s: damaged, computed again (%s)", self._files.uri, name, error)
            for file in self._files.files(name):
                self._files.storage.delete(file)
            return None
