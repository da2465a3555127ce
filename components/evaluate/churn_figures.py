"""Measures how the semantic IDs differ from those of an earlier run, if one is given."""

from components.evaluate.spec import Inputs
from macrec.core.artifact import Artifact
from macrec.tokenizer.churn import Churn, compare


def measure_churn(inputs: Inputs) -> dict[str, Churn]:
    """Return the churn by modality; {} without an earlier run.

    Raises:
        UserError: the earlier run's artifact does not contain semantic IDs.
    """
    if inputs.previous_semantic_ids is None:
        return {}
    earlier = Artifact.open(inputs.previous_semantic_ids.path())
    return compare(earlier, inputs.semantic_ids)


def figures(churn: dict[str, Churn]) -> dict[str, float]:
    """Return text_ids_kept, text_ids_moved, text_ids_new, text_ids_gone and text_churn.

    Those of images have the prefix image_.
    """
    found: dict[str, float] = {}
    for modality, counts in churn.items():
        named = counts._asdict().items()
        found |= {f"{modality}_ids_{name}": float(count) for name, count in named}
        found[f"{modality}_churn"] = counts.share
    return found
