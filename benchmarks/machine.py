"""Describes the machine and the code version in the result of a benchmark."""

import os
import platform
import resource
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
WATCHED = ("src", "components", "pipelines", "benchmarks")


def about(device: str) -> dict[str, object]:
    """Return the device, the threads, library versions, the date and the commit.

    MACREC_COMMIT overrides the commit, for a copy of the tree without .git.
    """
    import torch
    import transformers

    gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if gpu else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": os.environ.get("MACREC_COMMIT") or git("rev-parse", "--short", "HEAD"),
        "clean": clean(),
    }


def clean() -> bool | None:
    """Return whether the code equals that of the commit, or None without git."""
    if not git("rev-parse", "HEAD"):
        return None
    return not git("status", "--porcelain", "--", *WATCHED)


def rss_mb() -> int:
    """Return the peak resident memory of this process in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def git(*arguments: str) -> str:
    """Return the output of a git command, or an empty string if it fails."""
    if not (ROOT / ".git").exists():  # otherwise git would search the parent folders
        return ""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
