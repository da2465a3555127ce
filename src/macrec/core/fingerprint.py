"""The fingerprint of a result: a digest of its code, its configuration and its input content."""

import ast
import dataclasses
import hashlib
import importlib.util
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from macrec.core.artifact import FORMAT, json_digest
from macrec.core.stage import Stage

# This package moves bytes and computes nothing, so a change in it keeps finished results valid.
PLUMBING = "macrec.core"
TEMPLATES = "templates"


def code_version(stage: Stage, settings: Any = None) -> str:
    """Return a digest of the code that a stage runs: its modules and their imports of macrec.

    Imports are followed through the syntax tree, so that no heavy library is loaded. If `settings`
    are passed, the stage's `unused_imports` under these settings are not followed.
    """
    left_out = () if settings is None else stage.unused_imports(settings)
    return module_version(f"{stage.package}.stage", left_out)


def module_version(module: str, left_out: Collection[tuple[str, str]] = ()) -> str:
    """Return a digest of a module and of all its imports (see `sources`)."""
    digest = hashlib.sha256()
    for name, source in sorted(sources(module, left_out).items()):
        content = hashlib.sha256(source).hexdigest() if "/" in name else _tree_digest(source)
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def _tree_digest(source: bytes) -> str:
    """Return a digest of a source's syntax tree; comments, docstrings and layout do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [statement for statement in body if not _is_text(statement)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(statement: ast.stmt) -> bool:
    """Return whether a statement is a bare string, such as a docstring of a module or attribute."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def sources(module: str, left_out: Collection[tuple[str, str]] = ()) -> dict[str, bytes]:
    """Return the sources of a stage's module and of all that it imports, by module name.

    Only imports of macrec, except `macrec.core`, and of the module's own package are followed.
    The (importing, imported) pairs of modules in `left_out` are not followed. The templates of a
    package, which lie in its folder `templates`, are sources of its modules: `PACKAGE/FILE`.
    """
    package = module.rpartition(".")[0]
    pending, seen = [module], dict[str, bytes]()
    while pending:
        name = pending.pop()
        if name in seen or f"{name}.".startswith(f"{PLUMBING}."):
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            continue
        seen[name] = Path(spec.origin).read_bytes()
        for path in (Path(spec.origin).parent / TEMPLATES).glob("*"):
            seen[f"{name.rpartition('.')[0]}/{path.name}"] = path.read_bytes()
        found = [m for m in _imported_modules(seen[name], name) if (name, m) not in left_out]
        pending += [m for m in found if m.startswith(("macrec", package))]
    return seen


def _imported_modules(source: bytes, module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: relative imports are not followed"
            yield node.module
            for alias in node.names:
                candidate = f"{node.module}.{alias.name}"
                if candidate.startswith(("macrec.", "components.")) and _is_module(candidate):
                    yield candidate


def _is_module(name: str) -> bool:
    parent = importlib.util.find_spec(name.rpartition(".")[0])
    # A plain module has no submodules. `find_spec` below it would import it, and torch with it.
    if parent is None or parent.submodule_search_locations is None:
        return False
    return importlib.util.find_spec(name) is not None


def fingerprint(stage: Stage, settings: Any, inputs: Any, salt: str = "") -> str:
    """Return the fingerprint of a result.

    It depends on the stage's code, its settings, the content of its inputs and `salt`.
    """
    values = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    return json_digest(
        {
            "format": FORMAT,
            "stage": stage.name,
            "code_version": code_version(stage, settings),
            "config": dataclasses.asdict(settings),
            "inputs": {name: value.digest if value else None for name, value in values.items()},
            "salt": salt,
        }
    )
