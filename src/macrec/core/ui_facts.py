"""What the KFP UI shows of a finished stage: facts about its artifacts, names of its metrics.

The UI sorts metrics by name, in the table of a run and where runs are compared. What is looked at
first gets a number in front, and all ranking metrics read as they are written everywhere:
`fused_hr_10` is `1 HR@10 fused`, `text_wide_mrr_5` is `MRR@5 text wide`.
"""

import re
from collections.abc import Mapping

from macrec.core.artifact import Artifact, Json

FIRST = ("HR@10", "NDCG@10")
_OURS = re.compile(r"([a-z]+(?:_[a-z]+)*)_(hr|ndcg|mrr)_(\d+)")
_SHOWN = re.compile(r"(?:\d )?(HR|NDCG|MRR)@(\d+) ([a-z]+(?: [a-z]+)*)")
_VECTOR = re.compile(r"fixed_size_list<.+>\[(\d+)\]")


def facts(artifact: Artifact, sources: Mapping[str, str]) -> Json:
    """Metadata of an artifact: its size, its vectors, what its stage says of it, where it is from.

    Args:
        artifact: a dataset or a folder.
        sources: URIs of the stage's external data by name, such as the model; empty: not given.
    """
    manifest = artifact.manifest
    told: Json = {
        "digest": artifact.digest,
        "bytes": sum(entry["bytes"] for entry in manifest["files"]),
    }
    if manifest["schema"] is not None:
        told["rows"] = artifact.rows
        told |= _vector_sizes(manifest["schema"])
    for name, uri in sources.items():
        if uri and name in manifest["inputs"]:  # a stage need not read all that it is given
            told |= {name: uri, f"{name}_digest": manifest["inputs"][name]}
    return told | artifact.metadata


def _vector_sizes(columns: list[Json]) -> Json:
    """`dim` if all vectors of a row have one size, else the size of each."""
    found = {c["name"]: m[1] for c in columns if (m := _VECTOR.fullmatch(str(c["type"])))}
    sizes = {name: int(size) for name, size in found.items()}
    if len(set(sizes.values())) == 1:
        return {"dim": next(iter(sizes.values()))}
    return {f"{name}_dim": size for name, size in sizes.items()}


def shown(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics under their names for the UI, in its order."""
    named = {_shown(name): value for name, value in metrics.items()}
    return {name: named[name] for name in sorted(named)}


def ours(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics under the names that the stage gave them."""
    return {_ours(name): value for name, value in metrics.items()}


def _shown(name: str) -> str:
    found = _OURS.fullmatch(name)
    if found is None:
        return name
    system, metric, cut = found.groups()
    measure = f"{metric.upper()}@{cut}"
    place = f"{FIRST.index(measure) + 1} " if measure in FIRST else ""
    return f"{place}{measure} {system.replace('_', ' ')}"


def _ours(name: str) -> str:
    found = _SHOWN.fullmatch(name)
    if found is None:
        return name
    metric, cut, system = found.groups()
    return f"{system.replace(' ', '_')}_{metric.lower()}_{cut}"
