"""Wheels that are made here: small packages under the names of large ones."""

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# What locks/check.py asks of torch, and nothing else.
TORCH = """
__version__ = "{version}"
class version:
    cuda = {cuda!r}
class cuda:
    is_available = staticmethod(lambda: False)
class ones:
    def __init__(self, rows, columns, device):
        self.rows = rows
    def __matmul__(self, other):
        return self
    def sum(self):
        return self
    def item(self):
        return self.rows**3
"""


def make_wheel(
    folder: Path,
    name: str,
    files: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
    version: str = "1.0",
) -> Path:
    """Write a wheel of pure Python into a folder.

    Args:
        folder: where it is written.
        name: the distribution's name.
        files: contents by path; by default one module of that name with a `__version__`.
        requires: its Requires-Dist.
        version: its version.
    """
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    contents = dict(files or {f"{module}/__init__.py": f"__version__ = '{version}'\n"})
    contents[f"{info}/METADATA"] = "\n".join(
        ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        + [f"Requires-Dist: {line}" for line in requires]
    )
    contents[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [
        f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in contents.items()
    ]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"])
    folder.mkdir(exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in contents.items():
            archive.writestr(entry, text)
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def make_torch(
    folder: Path, *, cuda: bool, files: Mapping[str, str] | None = None, broken: bool = False
) -> Path:
    """Write a wheel that stands for PyTorch; one for CUDA loads a package of NVIDIA's, as PyPI's.

    Args:
        folder: where it is written.
        cuda: built for CUDA.
        files: further files by path.
        broken: it does not load.
    """
    version = "2.0" if cuda else "2.0+cpu"
    head = "import nvidia_cuda_runtime\n" if cuda else ""
    head += "raise OSError('libtorch.so: file too short')\n" if broken else ""
    source = head + TORCH.format(version=version, cuda="13.0" if cuda else None)
    return make_wheel(
        folder,
        "torch",
        {"torch/__init__.py": source, **(files or {})},
        ['nvidia-cuda-runtime==1.0; platform_system == "Linux"'] if cuda else [],
        version,
    )


def write_lock(path: Path, *wheels: Path) -> None:
    """Write a lock of wheels, as locks/lock.py does."""
    lines = ["# Made by a test. PyPI's wheels for Linux on x86_64: 1,234 MB."]
    by_name: dict[str, list[str]] = {}
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        pin = f"{name.replace('_', '-')}=={version.partition('+')[0]}"
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        by_name.setdefault(pin, []).append(f"--hash=sha256:{digest}")
    lines += [" ".join([pin, *hashes]) for pin, hashes in by_name.items()]
    path.write_text("\n".join(lines) + "\n")
