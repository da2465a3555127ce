"""Measures the semantic IDs: code usage, co-occurrence lift of prefixes, collisions, moves.

N items, L levels, M codewords, D latent dimension; R rows with codes.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from components.evaluate.curves import read_history
from components.evaluate.spec import Inputs
from macrec.core.artifact import Artifact
from macrec.data.columns import codes_matrix, embedding_matrix
from macrec.data.split import Split
from macrec.generator.tokens import MODALITIES, Modality
from macrec.report.contents import Agreement, Collisions, Prefix, Score, Tokenizer
from macrec.tokenizer.collisions import sum_codewords
from macrec.tokenizer.measures import (
    collision_rate,
    group_sizes,
    has_codes,
    measure_tokenizer,
    shared_code_share,
)
from macrec.tokenizer.prefix_lift import PrefixLift, consecutive_pairs, prefix_lift

CODEBOOKS: Final = "codebooks.safetensors"
LEARNED: Final = ("unexplained_variance", "recall", "candidates")
"""Figures that only quantize can measure, because it alone has the embeddings; its history.json
contains them."""

Figures = dict[str, float]
Lifts = dict[Literal["lift", "validation_lift"], list[PrefixLift]]


class CodeMeasures(NamedTuple):
    """The figures by name, and as the report shows them."""

    figures: Figures
    tokenizers: tuple[Tokenizer, ...]
    agreement: tuple[Agreement, ...]
    collisions: tuple[Collisions, ...]


def measure(inputs: Inputs, split: Split, codebook_size: int) -> CodeMeasures:
    """Measure the codes that the recommender was trained on, in the modalities that have any.

    Each modality has these figures in addition to those of `measure_tokenizer`:

    - the figures of quantize in LEARNED;
    - text_lift_1 and text_validation_lift_1 by length of the prefix, and text_lift_error_1 and so
      on;
    - text_collision_rate_before, text_shared_code_share_before and text_largest_group;
    - text_moved_0 by level, and text_displacement.
    """
    codes = {m: codes_matrix(inputs.semantic_ids, f"{m}_codes") for m in MODALITIES}
    final = {modality: codes_NL for modality, codes_NL in codes.items() if codes_NL.shape[1]}
    history = read_history(inputs.quantizer)
    learned: Mapping[str, float] = history["final"] if history else {}
    figures = measure_tokenizer(final, codebook_size)
    tokenizers: list[Tokenizer] = []
    collisions: list[Collisions] = []
    for modality in MODALITIES:
        if modality not in final:
            continue
        codes_NL = final[modality]
        lifts = _lifts(codes_NL, split)
        figures |= {
            name: float(value)
            for name, value in learned.items()
            if name.startswith(tuple(f"{modality}_{known}_" for known in LEARNED))
        }
        figures |= _lift_figures(modality, lifts)
        tokenizers.append(_tokenizer(modality, codes_NL.shape[1], figures, lifts))
        found = _collisions(inputs, modality, codes_NL)
        figures |= _collision_figures(inputs.latents, found)
        collisions.append(found)
    levels = range(max((codes_NL.shape[1] for codes_NL in final.values()), default=0))
    agreement = tuple(
        Agreement(
            mutual=figures[f"agreement_{level}"], adjusted=figures[f"agreement_adjusted_{level}"]
        )
        for level in levels
        if f"agreement_{level}" in figures
    )
    return CodeMeasures(figures, tuple(tokenizers), agreement, tuple(collisions))


def _lifts(codes_NL: npt.NDArray[np.int32], split: Split) -> Lifts:
    """Return the lift by length of the prefix, except that of whole codes, which are unique."""
    prefix_NL = codes_NL[:, :-1]
    items, offsets = split.sequences.items, split.sequences.offsets
    training = consecutive_pairs(items, offsets, "training")
    validation = consecutive_pairs(items, offsets, "validation")
    return {
        "lift": prefix_lift(prefix_NL, training),
        "validation_lift": prefix_lift(prefix_NL, validation),
    }


def _lift_figures(modality: Modality, lifts: Lifts) -> Figures:
    figures: Figures = {}
    for name, found in lifts.items():
        for depth, lift in enumerate(found, 1):
            figures[f"{modality}_{name}_{depth}"] = lift.lift
            figures[f"{modality}_{name}_error_{depth}"] = lift.error
    return figures


def _tokenizer(modality: Modality, levels: int, figures: Figures, lifts: Lifts) -> Tokenizer:
    def score(name: Literal["lift", "validation_lift"], depth: int) -> Score:
        if depth > len(lifts[name]):
            return Score(value=None)
        found = lifts[name][depth - 1]
        return Score(value=found.lift, low=found.lift - found.error, high=found.lift + found.error)

    prefixes = tuple(
        Prefix(
            unexplained=figures.get(f"{modality}_unexplained_variance_{depth - 1}"),
            recall=figures.get(f"{modality}_recall_{depth}"),
            candidates=figures.get(f"{modality}_candidates_{depth}"),
            lift=score("lift", depth),
            validation_lift=score("validation_lift", depth),
        )
        for depth in range(1, levels + 1)
    )
    return Tokenizer(modality=modality, prefixes=prefixes)


def _collisions(inputs: Inputs, modality: Modality, after_NL: npt.NDArray[np.int32]) -> Collisions:
    before_NL = codes_matrix(inputs.latents, f"{modality}_codes")
    moved_N = inputs.semantic_ids.table([f"{modality}_moved"]).column(0).to_numpy()
    by_level = np.bincount(moved_N[moved_N >= 0], minlength=after_NL.shape[1])
    sizes = enumerate(group_sizes(before_NL).tolist())
    return Collisions(
        modality=modality,
        rate_before=collision_rate(before_NL),
        rate_after=collision_rate(after_NL),
        moved=int(by_level.sum()),
        group_sizes={size: groups for size, groups in sizes if size > 1 and groups},
        moved_by_level=tuple(by_level.tolist()),
        displacement=_displacement(inputs, modality, before_NL, after_NL),
    )


def _displacement(
    inputs: Inputs,
    modality: Modality,
    before_NL: npt.NDArray[np.int32],
    after_NL: npt.NDArray[np.int32],
) -> float | None:
    """Return how far moved items went, relative to the mean distance of an item to its codewords.

    Codewords are those before the move. The result is 0 if no item moved, and None if the
    quantizer's folder has no codebooks of this modality.
    """
    if not inputs.quantizer.has(CODEBOOKS):
        return None
    codebooks_LMD = load_file(inputs.quantizer.file(CODEBOOKS)).get(modality)
    if codebooks_LMD is None:
        return None
    rows_R = np.flatnonzero(has_codes(before_NL))
    before_RD = sum_codewords(before_NL[rows_R], codebooks_LMD)
    latent_RD = embedding_matrix(inputs.latents, f"{modality}_latent")[rows_R]
    distance = float(np.linalg.norm(latent_RD - before_RD, axis=1).mean())
    shift_R = np.linalg.norm(sum_codewords(after_NL[rows_R], codebooks_LMD) - before_RD, axis=1)
    moved_R = (after_NL[rows_R] != before_NL[rows_R]).any(1)
    if not moved_R.any() or not distance:
        return 0.0
    return float(shift_R[moved_R].mean()) / distance


def _collision_figures(latents: Artifact, found: Collisions) -> Figures:
    before_NL = codes_matrix(latents, f"{found.modality}_codes")
    figures = {
        "collision_rate_before": collision_rate(before_NL),
        "shared_code_share_before": shared_code_share(before_NL),
        "largest_group": float(len(group_sizes(before_NL)) - 1),
    }
    figures |= {f"moved_{level}": float(n) for level, n in enumerate(found.moved_by_level)}
    if found.displacement is not None:
        figures["displacement"] = found.displacement
    return {f"{found.modality}_{name}": value for name, value in figures.items()}
