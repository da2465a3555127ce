"""A file of run parameters, as `--config` names it."""

from pathlib import Path

from macrec.core.errors import UserError


def read_config(path: Path) -> dict[str, object]:
    """The lines NAME: VALUE of a YAML file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    import yaml

    if not path.is_file():
        raise UserError(f"--config {path}: no such file.")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: no YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: expected lines NAME: VALUE.")
    return {str(name): value for name, value in content.items()}
