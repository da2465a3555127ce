"""Writes docs/licences.md: the licence of every package that is locked and installed."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """# Licences of the packages

Made by `python locks/licences.py` (pip-licenses) from what the packages say of themselves. *Stages*
are the packages in an image; the others are for running, testing and the bundled sample. A GPU
image also holds the CUDA libraries of PyTorch (`locks/cuda.txt`), under NVIDIA's own terms.

| package | version | licence | stages |
|---|---|---|---|
"""


def names(lock: str) -> set[str]:
    """Return the names of the packages in a lock file."""
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    return set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


def main() -> None:
    """Write the page."""
    command = [sys.executable, "-m", "uv", "tool", "run", "pip-licenses", "--from=mixed"]
    command += ["--format=json", "--with-system", f"--python={sys.executable}"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    by_name = {re.sub(r"[-_.]+", "-", p["Name"]).lower(): p for p in found}
    stages = names("stages") | names("torch")
    locked = sorted(stages | names("development"))
    if absent := [name for name in locked if name not in by_name]:
        raise SystemExit(f"locked and not installed here: {', '.join(absent)}. Run make setup.")
    rows = [
        f"| {name} | {by_name[name]['Version'].partition('+')[0]} "
        f"| {by_name[name]['License'].splitlines()[0]} | {'yes' if name in stages else ''} |"
        for name in locked
    ]
    (ROOT / "docs" / "licences.md").write_text(HEAD + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
