"""version.json: where a run stored its artifacts and how, so that later commands can use them."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.check_run.earlier_run import VERSION, read_version_file
from components.run_form import ENCODE
from components.stages import EMBED_IMAGE, EMBED_TEXT, PREPARE_DATA
from macrec.core.artifact import write_atomically
from macrec.core.errors import UserError

# The settings of these stages determine the vectors, so every later version must have the same.
_KEPT = tuple(f"{stage.name}." for stage in (PREPARE_DATA, EMBED_TEXT, EMBED_IMAGE))


class Version(NamedTuple):
    """The artifacts and settings of a run that a later version continues from."""

    artifacts: dict[str, str]
    """Folder of each artifact, by its name."""
    settings: dict[str, Any]
    """Settings for reading and embedding the catalogue, by their one name."""
    store: str
    """The artifact store of that run."""


def write(out: Path, artifacts: Mapping[str, Path], values: Mapping[str, Any]) -> None:
    """Write the locations of a run's artifacts, and its settings, to its output folder.

    Args:
        out: output folder.
        artifacts: folders of semantic_ids, latents and quantizer; a run of the whole DAG also has
            those that `macrec recommend`, `compare` and `bench` read.
        values: settings of the run by their one name, including run_store.
    """
    settings = {
        name: value
        for name, value in values.items()
        if name.startswith(_KEPT)
        and name in ENCODE.settings
        and not name.endswith(".force")  # applies to a single run
    }
    store = str(values["run_store"])
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
        content = read_version_file((out / VERSION).read_bytes(), str(out))
        artifacts, settings = content["artifacts"], dict(content["settings"])
        return Version(artifacts, settings, str(content["store"]))
    except OSError as error:
        raise UserError(
            f"--previous {out}: no {VERSION} here. Give the output folder of a `macrec run` or "
            "`macrec encode-items` that has ended; one of an older version is run again, which "
            "reuses what it has stored."
        ) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{out / VERSION}: damaged ({error!r}). Run that run again.") from error


def find_run_artifacts(out: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the folders of the named artifacts of the `macrec run` with this output folder.

    Raises:
        UserError: if no run has ended there, or it has no artifact with one of the names.
    """
    path = out / VERSION
    try:
        found = read_version_file(path.read_bytes(), str(out))["artifacts"]
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
