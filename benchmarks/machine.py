"""What a benchmark's line says of where and of what it was measured."""

import os
import platform
import resource
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
WATCHED = ("src", "components", "pipelines", "benchmarks")


def about(device: str) -> dict[str, object]:
    """Device, threads, versions, date and commit. MACREC_COMMIT names the commit of a copy that
    has no .git."""
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
    """Whether the code is that of the commit; None if nobody can tell."""
    if not git("rev-parse", "HEAD"):
        return None
    return not git("status", "--porcelain", "--", *WATCHED)


def rss_mb() -> int:
    """Most memory that this process has held so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def git(*arguments: str) -> str:
    """What git answers about the tree; nothing if the tree is no repository."""
    if not (ROOT / ".git").exists():  # git would look for one in the folders above
        return ""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
