"""What the KFP UI shows of a finished stage: facts about its artifacts, and names of its metrics.

The UI sorts metrics by name, both in the table of a run and where runs are compared. The most
important metrics therefore get a leading number. All ranking metrics use the usual notation:
`fused_hr_10` becomes `1 HR@10 fused`, and `text_wide_mrr_5` becomes `MRR@5 text wide`.
"""

import re
from collections.abc import Mapping

from macrec.core.artifact import Artifact, Json

FIRST = ("HR@10", "NDCG@10")
_OURS = re.compile(r"([a-z]+(?:_[a-z]+)*)_(hr|ndcg|mrr)_(\d+)")
_SHOWN = re.compile(r"(?:\d )?(HR|NDCG|MRR)@(\d+) ([a-z]+(?: [a-z]+)*)")
_VECTOR = re.compile(r"fixed_size_list<.+>\[(\d+)\]")


def artifact_metadata(artifact: Artifact, sources: Mapping[str, str]) -> Json:
    """Return an artifact's facts: its size, its vector sizes, its sources and its own metadata.

    Args:
        artifact: a dataset or a folder.
        sources: URIs of the stage's external data by name, such as the model. An empty URI means
            that the source is not set.
    """
    manifest = artifact.manifest
    facts: Json = {
        "digest": artifact.digest,
        "bytes": sum(entry["bytes"] for entry in manifest["files"]),
    }
    if manifest["schema"] is not None:
        facts["rows"] = artifact.rows
        facts |= _vector_sizes(manifest["schema"])
    for name, uri in sources.items():
        if uri and name in manifest["inputs"]:  # a stage may ignore some sources
            facts |= {name: uri, f"{name}_digest": manifest["inputs"][name]}
    return facts | artifact.metadata


def _vector_sizes(columns: list[Json]) -> Json:
    """Return `dim` if all vector columns have the same size, else `NAME_dim` for each column."""
    found = {c["name"]: m[1] for c in columns if (m := _VECTOR.fullmatch(str(c["type"])))}
    sizes = {name: int(size) for name, size in found.items()}
    if len(set(sizes.values())) == 1:
        return {"dim": next(iter(sizes.values()))}
    return {f"{name}_dim": size for name, size in sizes.items()}


def to_ui_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics under their names in the UI, in the UI's order."""
    named = {_shown(name): value for name, value in metrics.items()}
    return {name: named[name] for name in sorted(named)}


def from_ui_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics under the stage's names for them; this is the inverse of `shown`."""
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
