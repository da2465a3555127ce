"""The shape of the tree: who may import whom, and that what must be light is light."""

import ast
import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from macrec.core.parameters import fields
from pipelines.dag.run_form import STAGES, stage

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "sklearn", "polars", "PIL", "kfp", "scipy", "google.cloud")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_macrec_imports_neither_components_nor_pipelines():
    for path in sources("src/macrec"):
        upward = {m for m in imports(path) if m.split(".")[0] in ("components", "pipelines", "kfp")}
        assert not upward, f"{path.relative_to(ROOT)} imports {upward}"


def test_a_stage_imports_no_other_stage_and_no_kfp():
    shared = {"components.kfp_component"}
    for name in STAGES:
        own = f"components.{name}"
        for path in sources(f"components/{name}"):
            found = imports(path) - ({"kfp"} | shared if path.name == "component.py" else set())
            wrong = {
                m
                for m in found
                if m.split(".")[0] in ("kfp", "pipelines")
                or (m.startswith("components.") and not m.startswith(own))
            }
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_every_stage_is_a_folder_with_both_files():
    folders = {p.parent.name for p in (ROOT / "components").glob("*/component.py")}
    assert folders == {p.parent.name for p in (ROOT / "components").glob("*/main.py")}
    assert folders == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_light_to_import(name):
    """A finished stage is handed over in a second: nothing heavy is loaded to find that out."""
    program = (
        f"import sys, components.{name}.main as stage\n"
        "from macrec.core.fingerprint import code_version\n"
        "code_version(stage)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", STAGES)
def test_every_field_is_documented_and_has_a_default(name):
    module = stage(name)
    for cls in (module.Config, module.Execution, module.Inputs, module.Outputs):
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
        for parameter in fields(cls):
            assert parameter.doc, f"{name}.{cls.__name__}.{parameter.name} has no docstring"
    for cls in (module.Config, module.Execution):
        for parameter in fields(cls):
            assert parameter.default is not dataclasses.MISSING
        assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_no_file_speaks_of_this_machine():
    """No absolute path of a developer's machine in what is shipped."""
    home = str(Path.home())
    for path in [*sources("src"), *sources("components"), *sources("pipelines")]:
        assert home not in path.read_text()


def test_modules_can_be_imported_on_their_own():
    for path in [*sources("src/macrec"), *sources("components"), *sources("pipelines")]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("src.")
        importlib.import_module(module.removesuffix(".__init__"))
