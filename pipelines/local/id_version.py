"""version.json: where a run stored its artifacts and how, so that later commands can use them."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core.artifact import write_atomically
from macrec.core.errors import UserError
from pipelines.dag.run_form import PREVIOUS, SOURCES, encode_parameters

VERSION = "version.json"
# Settings with these prefixes determine the vectors, so every later version must have the same.
_KEPT = ("catalog_", "text_", "image_")


class Version(NamedTuple):
    """The artifacts and settings of a run that a later version continues from."""

    artifacts: dict[str, str]
    """Folder of each artifact, by the run parameter of the encoding pipeline that takes it."""
    settings: dict[str, Any]
    """Run parameters for reading and embedding the catalogue."""
    store: str
    """The artifact store of that run."""


def write(out: Path, artifacts: Mapping[str, Path], arguments: Mapping[str, Any]) -> None:
    """Write the locations of a run's artifacts, and its settings, to its output folder.

    Args:
        out: output folder.
        artifacts: folders of semantic_ids, latents and quantizer; a run of the whole DAG also has
            those that `macrec recommend`, `compare` and `bench` read.
        arguments: run parameters of the run, including the store.
    """
    settings = {
        name: value
        for name, value in arguments.items()
        if name.startswith(_KEPT)
        and name in encode_parameters()
        and name not in SOURCES.values()
        and not name.endswith("_force")  # applies to a single run
    }
    store = str(arguments["store"])
    content = {
        "artifacts": {name: os.path.relpath(path, out) for name, path in artifacts.items()},
        "settings": settings,
        "store": store if "://" in store else str(Path(store).resolve()),
    }
    write_atomically(out / VERSION, (json.dumps(content, indent=1) + "\n").encode())


def read(out: Path) -> Version:
    """Read the version that the last run with this output folder stored.

    Raises:
        UserError: if no run has ended there, or the file is damaged.
    """
    try:
        content = json.loads((out / VERSION).read_bytes())
        found = _artifacts(content, out)
        artifacts = {
            parameter: found[parameter.removeprefix("previous_")] for parameter in PREVIOUS.values()
        }
        return Version(artifacts, dict(content["settings"]), str(content["store"]))
    except OSError as error:
        raise UserError(
            f"--previous {out}: no {VERSION} here. Give the output folder of a `macrec run` or "
            "`macrec encode-items` that has ended; one of an older version is run again, which "
            "reuses what it has stored."
        ) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{out / VERSION}: damaged ({error!r}). Run that run again.") from error


def left_by(out: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the folders of the named artifacts of the `macrec run` with this output folder.

    Raises:
        UserError: if no run has ended there, or it has no artifact with one of the names.
    """
    path = out / VERSION
    try:
        found = _artifacts(json.loads(path.read_bytes()), out)
    except OSError as error:
        raise UserError(
            f"{out}: no {VERSION} here. Give the output folder of a `macrec run` that has ended."
        ) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r}). Run that run again.") from error
    absent = [name for name in names if name not in found]
    if absent:
        raise UserError(
            f"{path}: names no {', '.join(absent)}. Give the output folder of a `macrec run`; one "
            "of an older version is run again, which reuses what it has stored."
        )
    return {name: Path(found[name]) for name in names}


def _artifacts(content: Mapping[str, Any], out: Path) -> dict[str, str]:
    return {name: str((out / path).resolve()) for name, path in content["artifacts"].items()}
