"""The shape of the tree: who may import whom, and that what must be light is light."""

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from components.stages import CHECK_RUN, STAGES
from macrec.core.settings import fields
from macrec.core.stage import Stage

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "transformers",
    "sklearn",
    "polars",
    "PIL",
    "kfp",
    "scipy",
    "google.cloud",
    "jinja2",
    "typer",
)
# From the bottom: a file imports from its own package and from those before it in the list.
LAYERS = (
    "macrec",
    "macrec.core",
    "macrec.compute",
    "macrec.data",
    "macrec.tokenizer",
    "macrec.generator",
    "macrec.ranking",
    "macrec.metrics",
    "macrec.report",
    "macrec.sample",
    "components",
    "pipelines",
    "pipelines.dag",
    "pipelines.local",
    "pipelines.cluster",
    "pipelines.bench",
    "pipelines.cli",
)
# Basenames that stand in every stage or package.
CHECK_RUN_NEEDS = ("catalog_items", "catalog_interactions")
REPEATED = ("__init__", "__main__", "spec", "stage")
FOLDERS = ("src", "components", "pipelines")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removeprefix("src.").removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def imports(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Every import of a file, wherever it stands: the statement and the module it names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield node, below if below in MODULES else node.module


def layer(module: str) -> int:
    """The place of a module's package in LAYERS."""
    return max(k for k, name in enumerate(LAYERS) if f"{module}.".startswith(f"{name}."))


@pytest.mark.parametrize("module", MODULES)
def test_no_file_imports_from_a_layer_above_it(module):
    upward = {m for _, m in imports(MODULES[module]) if m in MODULES and layer(m) > layer(module)}
    assert not upward, f"{module} imports {upward}"


def test_no_files_import_each_other_in_a_circle():
    """An import within a function, or for types alone, counts as any other."""
    graph = {m: {i for _, i in imports(p) if i in MODULES} - {m} for m, p in MODULES.items()}
    TopologicalSorter(graph).prepare()


def test_no_basename_stands_twice():
    names = Counter(path.stem for path in SOURCES if path.stem not in REPEATED)
    assert not {name for name, count in names.items() if count > 1}


def test_a_stage_imports_no_other_stage_and_no_kfp():
    for stage in STAGES:
        for path in (ROOT / "components" / stage.name).glob("*.py"):
            wrong = {
                m
                for _, m in imports(path)
                if m.split(".")[0] in ("kfp", "pipelines")
                or (m.startswith("components.") and not m.startswith(stage.package))
            }
            if stage is CHECK_RUN:  # it checks the settings of all stages
                wrong -= {"components.run_form"}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_helpers_of_a_stage_import_its_spec_and_never_its_stage():
    for stage in STAGES:
        for path in (ROOT / "components" / stage.name).glob("*.py"):
            assert f"{stage.package}.stage" not in {m for _, m in imports(path)}, path


def test_components_import_at_the_heads_of_their_files():
    """What must be light is so by spec.py, and not by imports within functions."""
    for stage in STAGES:
        for path in (ROOT / "components" / stage.name).glob("*.py"):
            within = [node.lineno for node, _ in imports(path) if node.col_offset]
            assert not within, f"{path.relative_to(ROOT)}: lines {within}"


def test_every_stage_is_a_folder_with_both_files():
    folders = {p.parent.name for p in (ROOT / "components").glob("*/spec.py")}
    assert folders == {p.parent.name for p in (ROOT / "components").glob("*/stage.py")}
    assert folders == {stage.name for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_is_light_to_import(stage):
    """A finished stage is handed over in a second: nothing heavy is loaded to find that out."""
    program = (
        f"import sys; from components.{stage.name}.spec import STAGE\n"
        "from macrec.core.fingerprint import code_version\n"
        "code_version(STAGE)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_field_is_documented_and_has_a_default(stage: Stage):
    for cls in (stage.settings, stage.execution, stage.inputs, stage.outputs):
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
        for parameter in fields(cls):
            assert parameter.doc, f"{stage.name}.{cls.__name__}.{parameter.name} has no docstring"
    for cls in (stage.settings, stage.execution):
        for parameter in fields(cls):
            # The first task needs to know where the catalogue and the log are.
            assert not parameter.required or parameter.name in CHECK_RUN_NEEDS
        assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_no_file_speaks_of_this_machine():
    """No absolute path of a developer's machine in what is shipped."""
    home = str(Path.home())
    for path in SOURCES:
        assert home not in path.read_text()


def test_modules_can_be_imported_on_their_own():
    for module in MODULES:
        if not module.endswith("__main__"):
            importlib.import_module(module)
