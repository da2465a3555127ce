"""What is installed is what the locks list; what is loaded runs no code of its own."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "locks"


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of every package of a lock."""
    text = (LOCKS / f"{name}.txt").read_text().replace("\\\n", "")
    entries = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {
        package: (version, hashes)
        for (package, version), hashes in ((e[0].split("=="), e[1:]) for e in entries)
    }


@pytest.mark.parametrize("name", ["torch", "cuda", "stages", "development", "encoders"])
def test_every_locked_package_has_hashes(name):
    lock = locked(name)
    assert lock
    for package, (version, hashes) in lock.items():
        assert version and hashes, package
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for h in hashes), package


def test_the_locks_hold_what_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        declared += extra
    lock = locked("development") | locked("torch")
    for requirement in map(Requirement, declared):
        version, _ = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_an_image_holds_the_versions_that_were_tested_and_fewer_packages():
    stages, development = locked("stages"), locked("development")
    assert stages.items() <= development.items()
    assert not set(stages) & {"kfp", "docker", "pytest", "kubernetes"}
    assert {"numpy", "pyarrow", "transformers", "google-cloud-storage"} <= set(stages)


def test_what_is_installed_here_is_what_is_locked():
    lock = locked("development") | locked("torch")
    found = {n: metadata.version(n).partition("+")[0] for n in lock}
    assert found == {name: version for name, (version, _) in lock.items()}


def test_a_file_that_is_not_the_locked_one_is_refused(tmp_path):
    shutil.copytree(LOCKS, tmp_path / "locks")
    lock = tmp_path / "locks" / "encoders.txt"
    lock.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", lock.read_text()))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*command, "--dest", str(tmp_path), "-r", str(lock)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and "DO NOT MATCH THE HASHES" in done.stderr, done.stderr


CODE = [
    p for f in ("src", "components", "pipelines", "benchmarks") for p in (ROOT / f).rglob("*.py")
]
# What loads code or objects with code. Weights are safetensors, other state is JSON and NumPy.
REFUSED_CALLS = {
    "eval",
    "exec",
    "pickle.load",
    "pickle.loads",
    "torch.load",
    "yaml.load",
    "os.system",
}


def calls(path: Path) -> list[tuple[str, dict[str | None, ast.expr]]]:
    """Every call in a file: its dotted name and named arguments."""
    return [
        (ast.unparse(node.func), {k.arg: k.value for k in node.keywords})
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("path", CODE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_is_run(path):
    for name, arguments in calls(path):
        assert name not in REFUSED_CALLS, name
        assert "trust_remote_code" not in arguments and "shell" not in arguments, name
        if name.endswith("np.load") or name == "load":
            assert "allow_pickle" not in arguments, name
        weights = name.endswith(".from_pretrained") and "Model" in name
        if weights and "gguf_file" not in arguments:  # which is numbers alone as well
            assert ast.unparse(arguments["use_safetensors"]) == "True", name
