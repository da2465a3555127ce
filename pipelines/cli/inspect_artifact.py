"""Describes an artifact: its digest, provenance, files, schema and first rows."""

from collections.abc import Iterator
from pathlib import Path

from macrec.core.artifact import MANIFEST, Artifact
from macrec.core.errors import UserError

FIRST_ROWS = 3
CELL_WIDTH = 72


def describe(path: Path) -> Iterator[str]:
    """Yield the description of every artifact at or below a path, after verifying its files.

    Raises:
        UserError: if there is no artifact.
    """
    folders = sorted(m.parent for m in path.rglob(MANIFEST))
    if not folders:
        raise UserError(f"{path}: no artifact in this folder or below (no {MANIFEST}).")
    for folder in folders:
        yield from _describe_one(Artifact.open(folder).verify())
        yield ""


def _describe_one(artifact: Artifact) -> Iterator[str]:
    manifest = artifact.manifest
    files = manifest["files"]
    yield str(artifact.path)
    yield f"  digest       {artifact.digest}"
    yield f"  made by      {manifest['stage']} (code {manifest['code_version']})"
    yield f"  fingerprint  {manifest['fingerprint']}"
    for name, digest in manifest["inputs"].items():
        yield f"  from         {name} {digest}"
    for name, value in sorted(manifest["config"].items()):
        yield f"  config       {name} = {value}"
    for name, value in sorted(artifact.metadata.items()):
        yield f"  metadata     {name} = {value}"
    yield f"  files        {len(files)}, {sum(f['bytes'] for f in files):,} bytes, verified"
    if manifest["schema"] is None:
        yield from (f"    {f['name']} {f['bytes']:,} bytes" for f in files)
        return
    yield f"  rows         {artifact.rows:,}"
    for column in manifest["schema"]:
        optional = ", may be null" if column["nullable"] else ""
        yield f"    {column['name']}: {column['type']}{optional}"
    for batch in artifact.batches(batch_size=FIRST_ROWS):
        for row in batch.to_pylist():
            cells = (f"{name}={_short(value)}" for name, value in row.items())
            yield "    " + "  ".join(cells)
        return


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"
