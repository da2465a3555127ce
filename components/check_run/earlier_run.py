"""Finds the artifacts of an earlier run that a new run reuses or compares itself with."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from macrec.core.artifact import MANIFEST
from macrec.core.errors import UserError
from macrec.core.storage.uris import is_remote, open_storage

VERSION: Final = "version.json"
"""File in the output folder of a local run that states where its artifacts are."""
# Artifact -> tasks that may have written it, the latest version first.
_WRITTEN_BY: Final = {
    "semantic_ids": ("encode-items", "resolve-collisions"),
    "latents": ("encode-items", "quantize"),
    "quantizer": ("quantize",),
}


def find_earlier_artifacts(uri: str) -> dict[str, str]:
    """Return the addresses of semantic_ids, latents and quantizer of an earlier run.

    Args:
        uri: output folder of `macrec run` or `macrec encode-items`, or a folder with the outputs of
            a KFP run (PIPELINE_ROOT/macrec/RUN_ID), local or gs://.

    Raises:
        UserError: an artifact is missing, or a folder contains several runs.
    """
    storage = open_storage(uri)
    content = storage.read(VERSION)
    if content is not None:
        return _from_version_file(uri, content)
    found: dict[str, str] = {}
    paths = [name for name in storage.names() if name.endswith(f"/{MANIFEST}")]
    for artifact, tasks in _WRITTEN_BY.items():
        candidates = [
            path.removesuffix(f"/{MANIFEST}")
            for task in tasks
            for path in paths
            if path.startswith(f"{task}/") and path.endswith(f"/{artifact}/{MANIFEST}")
        ]
        if not candidates:
            raise UserError(
                f"run_previous={uri}: neither {VERSION} nor the artifact {artifact} is in this "
                "folder. Name the output folder of a finished `macrec run`, or the folder of one "
                "finished KFP run in the pipeline root."
            )
        task = candidates[0].partition("/")[0]
        several = [path for path in candidates if path.startswith(f"{task}/")]
        if len(several) > 1:
            raise UserError(
                f"run_previous={uri}: {len(several)} versions of {artifact} are in this folder: "
                f"{', '.join(several)}. Name a folder that contains a single one of each."
            )
        found[artifact] = f"{uri.rstrip('/')}/{candidates[0]}"
    return found


def _from_version_file(uri: str, content: bytes) -> dict[str, str]:
    try:
        artifacts = read_version_file(content, uri)["artifacts"]
        return {name: artifacts[name] for name in _WRITTEN_BY}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{uri}/{VERSION}: damaged ({error!r}). Run that run again.") from error


def read_version_file(content: bytes, folder: str) -> Mapping[str, Any]:
    """Return the content of a version file, with the artifacts' addresses made absolute.

    Raises:
        ValueError, KeyError, AttributeError, TypeError: the content is damaged.
    """
    version = json.loads(content)
    artifacts = {n: _below(folder, path) for n, path in version["artifacts"].items()}
    return {**version, "artifacts": artifacts}


def _below(folder: str, path: str) -> str:
    if not is_remote(folder):
        return str((Path(folder) / path).resolve())
    return f"{folder.rstrip('/')}/{os.path.normpath(path)}"
