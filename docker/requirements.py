"""Prints what stages need: the project's dependencies without those of pipelines/ alone."""

import re
import tomllib

# They compile a pipeline, run it on a machine and build images; no stage imports them.
OF_PIPELINES = {"kfp", "kfp-kubernetes", "docker"}

with open("pyproject.toml", "rb") as file:
    declared = tomllib.load(file)["project"]["dependencies"]
names = {re.split(r"[^\w.-]", line, maxsplit=1)[0]: line for line in declared}
if absent := OF_PIPELINES - set(names):
    raise SystemExit(f"pyproject.toml: no dependency {', '.join(sorted(absent))} to leave out")
print("\n".join(line for name, line in names.items() if name not in OF_PIPELINES))
