"""Chooses the sizes of the recommender from the catalogue where the settings leave them open."""

from dataclasses import replace
from typing import Final

from components.train.spec import Settings
from macrec.core.progress import log

LARGE_FROM: Final = 10_000  # items
SMALL: Final[dict[str, float]] = {
    "d_model": 64, "d_ff": 256, "d_kv": 16, "layers": 2, "heads": 4, "learning_rate": 3e-3,
}  # fmt: skip
LARGE: Final[dict[str, float]] = {
    "d_model": 128, "d_ff": 1024, "d_kv": 64, "layers": 4, "heads": 6, "learning_rate": 1e-3,
}  # fmt: skip


def resolve_sizes(config: Settings, items: int) -> Settings:
    """Return the settings with a positive number for every automatic size, and log the choice.

    Sizes that the settings give are kept.
    """
    chosen = SMALL if items < LARGE_FROM else LARGE
    automatic = {name: size for name, size in chosen.items() if not getattr(config, name)}
    if automatic:
        listed = ", ".join(f"{name} {size:g}" for name, size in automatic.items())
        log.info("train: %s items: %s (auto)", f"{items:,}", listed)
    return replace(config, **automatic)
