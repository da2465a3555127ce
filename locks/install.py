"""Install PyTorch and the packages of a lock into the Python that runs this file.

    python locks/install.py LOCK      # development.txt, or stages.txt for an image

Only files whose hashes are in the locks are installed. The environment variable TORCH_INDEX names
the index of PyTorch: a URL, or `pip` for what pip itself is configured with. By default a Linux
machine without an NVIDIA GPU takes the wheel without CUDA from PyTorch's own index if that index
can be reached; every other machine takes what pip is configured with. PyPI's wheel for Linux is
built for CUDA and needs the packages of cuda.txt, which are then installed too.
"""

import http.client
import os
import platform
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from importlib import metadata
from pathlib import Path

LOCKS = Path(__file__).parent
WITHOUT_CUDA = "https://download.pytorch.org/whl/cpu"
TESTED = ("3.11", "Linux", "x86_64")
# torch.txt has the hashes of the wheels without CUDA for these alone.
LOCKED_WITHOUT_CUDA = [(version, "Linux", "x86_64") for version in ("3.11", "3.12", "3.13")]
SECONDS_TO_ANSWER = 10
LOCKED = ("install", "--require-hashes", "--no-deps")
# Settings of a user's pip that would put the packages elsewhere, or nowhere.
ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN")


def pip(*arguments: str, quiet: bool = True, advice: str = "its message is above.") -> None:
    """Run pip in this Python.

    Raises:
        SystemExit: pip failed; `advice` follows what it printed.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    environment = {n: value for n, value in os.environ.items() if n not in ELSEWHERE}
    environment |= {"PIP_USER": "0", "PIP_REQUIRE_HASHES": "0"}
    command += ["--quiet"] if quiet else []
    code = subprocess.run(command, env=environment, check=False).returncode
    if code < 0:
        advice = f"it was ended by signal {-code}. The next `make` sets up from the beginning."
    if code:
        raise SystemExit(f"locks/install.py: pip {arguments[0]} failed: {advice}")


def tell(text: str) -> None:
    """Print a line about PyTorch before pip prints its own."""
    print(f"PyTorch: {text}", flush=True)


def download_size(lock: str) -> str:
    """Return the size in the first line of a lock: the MB to download on Linux x86_64."""
    return re.findall(r"[\d,]+ MB", (LOCKS / lock).read_text().splitlines()[0])[0]


def has_nvidia_gpu() -> bool:
    """Return whether NVIDIA's driver lists a GPU."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, timeout=SECONDS_TO_ANSWER, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and b"GPU" in listed.stdout


def this_machine() -> tuple[str, str, str]:
    """Return Python's version (major.minor), the system and the processor's architecture."""
    version = ".".join(platform.python_version_tuple()[:2])
    return version, platform.system(), platform.machine()


def without_password(url: str) -> str:
    """Return a URL without the user and password that it may contain."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def choose_index() -> str | None:
    """Return the index for PyTorch, None for pip's own configuration, and print the choice."""
    index = os.environ.get("TORCH_INDEX", "").strip()
    from_pip = (
        f"from the indexes that pip is configured with. PyPI's wheel for Linux is built for CUDA: "
        f"{download_size('torch.txt')}, and {download_size('cuda.txt')} of libraries."
    )
    if index == "pip":
        tell(f"{from_pip} (TORCH_INDEX=pip)")
        return None
    if index:
        tell(f"from {without_password(index)} (TORCH_INDEX).")
        return index
    if platform.system() != "Linux":
        tell("from the indexes that pip is configured with.")
        return None
    if has_nvidia_gpu():
        tell(f"this machine has an NVIDIA GPU: {from_pip}")
        return None
    if this_machine() not in LOCKED_WITHOUT_CUDA:
        tell(f"no wheel without CUDA is locked for {' '.join(this_machine())}: {from_pip}")
        return None
    try:
        urllib.request.urlopen(f"{WITHOUT_CUDA}/torch/", timeout=SECONDS_TO_ANSWER).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        tell(
            f"{WITHOUT_CUDA} cannot be reached ({getattr(error, 'reason', error)}): {from_pip} "
            "Set TORCH_INDEX=URL for another index."
        )
        return None
    tell(f"this machine has no NVIDIA GPU: some 200 MB without CUDA from {WITHOUT_CUDA}.")
    return WITHOUT_CUDA


def install_torch(index: str | None) -> None:
    """Download PyTorch, then install it by its hash.

    Both in one step would pass over a wheel whose page states no hash, as a local folder's does.
    """
    version = re.findall(r"^torch==\S+", (LOCKS / "torch.txt").read_text(), re.MULTILINE)[0]
    source = ["--index-url", index] if index else []
    with tempfile.TemporaryDirectory() as folder:
        # A source distribution would run its own code before any hash is compared.
        wheel_alone = ["--no-deps", "--only-binary", ":all:"]
        told = (
            f"no {version} from {without_password(index)}. TORCH_INDEX must be the URL of a "
            "package index that answers (with /simple, if it has one)."
            if index
            else f"no {version} from the indexes that pip is configured with."
        )
        fetch = ("download", *wheel_alone, "--dest", folder, *source, version)
        pip(*fetch, quiet=False, advice=told)
        wheel = ["--no-index", "--find-links", folder, "-r", str(LOCKS / "torch.txt")]
        pip(*LOCKED, *wheel)


def needed_cuda() -> set[str]:
    """Return the packages of cuda.txt that the installed PyTorch requires."""
    if platform.system() != "Linux":  # requirements that a marker limits to Linux
        return set()
    locked = re.findall(r"^([\w.-]+)==", (LOCKS / "cuda.txt").read_text(), re.MULTILINE)
    required = [re.split(r"[^\w.-]", line)[0] for line in metadata.requires("torch") or []]
    return set(locked) & {re.sub(r"[-_.]+", "-", name).lower() for name in required}


def install_lock(lock: str) -> None:
    """Install the packages of a lock; setuptools first, which builds those without a wheel.

    Without build isolation, pip fetches no build dependencies, which it would not check by hash.
    """
    entries = re.split(r"^(?=\S)", (LOCKS / lock).read_text(), flags=re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        builder = Path(folder) / "setuptools.txt"
        builder.write_text("".join(entry for entry in entries if entry.startswith("setuptools==")))
        if builder.read_text():
            pip(*LOCKED, "-r", str(builder))
    packages = len([entry for entry in entries if "==" in entry])
    print(
        f"installing {packages} packages of locks/{lock}; this takes a minute or two.", flush=True
    )
    pip(*LOCKED, "--no-build-isolation", "-r", str(LOCKS / lock))


def main() -> None:
    """Install PyTorch, the lock, and CUDA's libraries if this PyTorch needs them."""
    if len(sys.argv) != 2 or not (LOCKS / sys.argv[1]).is_file():
        raise SystemExit("usage: python locks/install.py LOCK      # development.txt, stages.txt")
    if sys.version_info < (3, 11):  # noqa: UP036 (whoever runs this has not been checked)
        raise SystemExit(f"locks/install.py: Python {sys.version.split()[0]}; needs 3.11 or newer.")
    if this_machine() != TESTED:
        here = " ".join(this_machine())
        print(f"warning: tested with Python {' '.join(TESTED)}; this is {here}.", flush=True)
    install_torch(choose_index())
    cuda = needed_cuda()
    tell(f"{metadata.version('torch')} is installed, {'for' if cuda else 'without'} CUDA.")
    if cuda:
        tell(f"downloading CUDA's libraries, {download_size('cuda.txt')}.")
        pip(*LOCKED, "-r", str(LOCKS / "cuda.txt"), quiet=False)
    install_lock(sys.argv[1])
    pip("check", quiet=False)  # quiet, it does not even print what is missing


if __name__ == "__main__":
    main()
