"""How many codewords and levels, chosen by the items when the settings leave it open."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from components.quantize.spec import MAX_CODEBOOK, Settings

SMALLEST = 8
ROOM = 16  # codes for each item, at least


class Sizes(NamedTuple):
    """The sizes of a quantizer, and why they are what they are."""

    codebook_size: int
    levels: int
    reason: str


def choose(config: Settings, items: Mapping[str, int]) -> Sizes:
    """The sizes that the settings name, or those that suit `items`, the vectors by modality.

    codebook_size 0: the power of two nearest to the square root of the items of the scarcer
    modality, from 8 to the number of its items. The first code then splits the catalogue into about
    as many groups as a group has items; larger codebooks are met too rarely in histories to be
    learned, smaller ones say too little (docs/experiments.md has what was measured). levels 0: the
    fewest that offer 16 codes for each item of the richer modality, and at least 3.
    """
    few, many = min(items.values()), max(items.values())
    reasons: list[str] = []
    size = math.prod(config.fsq_levels) if config.fsq_levels else config.codebook_size
    if not size:
        root = math.sqrt(max(few, 1))
        most = min(2 ** max(int(math.log2(max(few, 1))), 1), MAX_CODEBOOK)
        least = min(SMALLEST, most)
        size = min(max(2 ** round(math.log2(root)), least), most)
        reasons.append(
            f"{size} codewords a level, of the powers of two from {least} to {most:,} the nearest "
            f"to {root:,.1f}, the root of {few:,} items"
        )
    levels = config.levels
    if not levels:
        levels = 3
        while size**levels < ROOM * many:
            levels += 1
        reasons.append(
            f"{levels} levels, which offer {size**levels / many:,.0f} codes for each of {many:,} "
            "items"
        )
    return Sizes(size, levels, "; ".join(reasons) or "as set")


def settle(config: Settings, sizes: Sizes) -> Settings:
    """The settings with every size filled in."""
    return replace(
        config,
        codebook_size=sizes.codebook_size,
        levels=sizes.levels,
        latent_dim=len(config.fsq_levels) or config.latent_dim,
    )
