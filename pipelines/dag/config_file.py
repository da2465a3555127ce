"""Reads the YAML files that the command line names: run parameters and resources."""

from pathlib import Path

import yaml

from macrec.core.errors import UserError


def read_config(path: Path) -> dict[str, object]:
    """Return the NAME: VALUE entries of a file of run parameters.

    Raises:
        UserError: if the file does not exist or has other content.
    """
    return read_yaml(path, "--config")


def read_yaml(path: Path, flag: str) -> dict[str, object]:
    """Return the mapping that a YAML file contains.

    Args:
        path: the file.
        flag: flag that names the file, for messages.

    Raises:
        UserError: if the file does not exist or has other content.
    """
    if not path.is_file():
        raise UserError(f"{flag} {path}: no such file.")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{flag} {path}: not valid YAML ({' '.join(str(error).split())})."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{flag} {path}: expected lines NAME: VALUE.")
    return {str(name): value for name, value in content.items()}
