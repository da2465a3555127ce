"""Our own systems in a bench, and the sources of their settings.

A system is a preset for the stages of the DAG, or an ablation: MACRec with one change. Its settings
have these sources; a later one overrides an earlier one:

1. The preset.
2. The data set: the `--config` files, else the settings of the run whose output folder it is. The
   settings that a preset decides are left out of those of a run (`settings_of_run`).
3. The search. An ablation uses the settings chosen for MACRec; otherwise it would differ from
   MACRec in the search too.
4. `--set SYSTEM.NAME=VALUE`. Those of MACRec also apply to its ablations.
5. The change of the ablation, and `--set ABLATION.NAME=VALUE`.
6. The settings that all systems of the bench share: history length, seen items, list length, seed.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from components.run_form import (
    RECOMMENDER,
    current_name,
    flatten,
    preset_values,
    resolve,
    with_preset,
)
from components.stages import stage_named
from macrec.core.errors import UserError, check
from macrec.core.settings import fields
from macrec.core.stage_command import split_assignment
from pipelines.dag.config_file import read_config

Settings = dict[str, Any]
"""Settings by their one name, such as `train.d_model`."""

STAGES: Final = (
    *("embed_histories", "pseudo_label", "quantize", "resolve_collisions", "train", "evaluate"),
)
"""The stages from the vectors to the lists, in DAG order."""
SEEDS: Final = ("quantize.seed", "train.seed")
"""Settings that `--seeds` sets."""
SHARED: Final = {
    "train.max_history": "max_history",
    "train.seen_items": "seen_items",
    "evaluate.seen_items": "seen_items",
    "evaluate.top_k": "top_k",
}
"""Setting -> setting of the stage `baselines` that it must equal."""
SIZES: Final = frozenset(
    {
        *("pseudo_label.clusters", "quantize.codebook_size", "quantize.levels"),
        *("quantize.latent_dim", "quantize.epochs", "quantize.batch_size"),
        *("train.d_model", "train.d_ff", "train.d_kv", "train.layers", "train.heads"),
        "train.learning_rate",
    }
)
"""Settings that the data set decides, even if a preset sets them."""


class Recipe(NamedTuple):
    """The definition of a system: a preset and, for an ablation, a change."""

    title: str
    preset: str
    """Name of a preset of the run form."""
    change: Settings
    """Settings in which an ablation differs from MACRec; empty for other systems."""

    @property
    def is_ablation(self) -> bool:
        """Return whether the system is an ablation of MACRec."""
        return bool(self.change)


_SAME_MODALITY: Final = ("seq_text_text", "seq_image_image")
PRESET_SYSTEMS: Final = {
    "tiger": Recipe("TIGER", "tiger", {}),
    "mql4grec": Recipe("MQL4GRec", "mql4grec", {}),
    "paper": Recipe("MACRec, losses as printed", "paper", {}),
    "macrec": Recipe("MACRec", "macrec", {}),
}
ABLATIONS: Final = {
    "no_con": Recipe("MACRec without L_con", "macrec", {"quantize.contrastive_weights": ()}),
    "no_align": Recipe("MACRec without L_align", "macrec", {"quantize.align_weight": 0.0}),
    "no_implicit": Recipe(
        "MACRec without implicit alignment", "macrec", {"train.implicit_weight": 0.0}
    ),
    "no_explicit": Recipe(
        "MACRec without explicit alignment", "macrec", {"train.tasks": _SAME_MODALITY}
    ),
    "one_direction": Recipe(
        "MACRec, L_con on text alone", "macrec", {"quantize.contrastive_side": "text"}
    ),
    "no_neighbours": Recipe(
        "MACRec, the generator alone", "macrec", {"evaluate.neighbour_weights": ()}
    ),
    "no_histories": Recipe(
        "MACRec without histories in the codes", "macrec", {"embed_histories.dim": 0}
    ),
}
RECIPES: Final[dict[str, Recipe]] = PRESET_SYSTEMS | ABLATIONS
MAIN: Final = "macrec"
"""The system that the ablations change."""

SPACE: Final[dict[str, tuple[Any, ...]]] = {
    "train.learning_rate": (1e-3, 2e-3, 3e-3, 5e-3),
    "train.batch_size": (128, 256, 512),
    "train.dropout": (0.1, 0.2, 0.3),
    "train.history_dropout": (0.0, 0.1, 0.2),
    "train.label_smoothing": (0.0, 0.1),
    "train.average_decay": (0.0, 0.99, 0.999),
    "train.epochs": (8, 16, 24),
    "train.decay": (0.25, 0.5, 1.0),
}
HISTORY_SPACE: Final[dict[str, tuple[Any, ...]]] = {"quantize.history_weight": (0.5, 1.0, 2.0)}
"""Additional settings to search if the codes contain histories."""


def searched_as(name: str) -> str:
    """Return the system whose search provides the settings: itself, or MACRec for an ablation."""
    return MAIN if RECIPES[name].is_ablation else name


def search_space(
    settings: Mapping[str, Any], constants: Iterable[str]
) -> dict[str, tuple[Any, ...]]:
    """Return the candidate values of each setting that the search of a system draws.

    Args:
        settings: settings of the system.
        constants: settings that the search must not change.
    """
    default = RECOMMENDER.settings["embed_histories.dim"].default
    histories = settings.get("embed_histories.dim", default)
    space = SPACE | (HISTORY_SPACE if histories else {})
    return {name: values for name, values in space.items() if name not in set(constants)}


def bench_settings() -> list[str]:
    """Return the settings that affect a bench and may differ between systems."""
    names = [f"{name}.{p.name}" for name in STAGES for p in fields(stage_named(name).settings)]
    return [name for name in names if name not in (*SEEDS, *SHARED)]


def preset_settings() -> set[str]:
    """Return the settings that belong to a system, not to the data set."""
    names = {name for recipe in RECIPES.values() for name in preset_values(recipe.preset)}
    names |= {name for recipe in ABLATIONS.values() for name in recipe.change}
    return names - SIZES


def settings_of_run(arguments: Mapping[str, Any]) -> Settings:
    """Return the settings of a run that no preset decides, such as sizes and numbers of epochs.

    Args:
        arguments: values by field of the run form.
    """
    names = set(bench_settings()) - preset_settings()
    # The record of an older run has the names of that version.
    values = with_preset({current_name(n): v for n, v in flatten(arguments).items()})
    return {name: value for name, value in values.items() if name in names}


def settings_of_files(paths: Iterable[Path]) -> tuple[Settings, dict[str, str]]:
    """Return the settings in the data set's files, and the file that each comes from.

    A later file overrides an earlier one.

    Raises:
        UserError: a file cannot be read or chooses a preset.
    """
    values: Settings = {}
    origins: dict[str, str] = {}
    for path in paths:
        content = flatten(read_config(path))
        check(
            "preset" not in content,
            f"--config {path}: remove preset. Each system of a bench has its own preset.",
        )
        values |= content
        origins |= dict.fromkeys(content, str(path))
    return values, origins


def parse_assignments(name: str, assignments: Iterable[str]) -> Settings:
    """Return the settings in the NAME=VALUE assignments of `--set` for one system.

    Args:
        name: name of the system, for messages.
        assignments: NAME=VALUE texts, without the name of the system.

    Raises:
        UserError: if a setting is shared by all systems or has no effect in a bench.
    """
    values: Settings = {}
    for assignment in assignments:
        setting, value = split_assignment(assignment)
        if setting in SEEDS or setting in SHARED:
            shared = f"--set {SHARED[setting]}=VALUE" if setting in SHARED else "--seeds"
            raise UserError(
                f"--set {name}.{setting}: all systems of a bench have the same value. Use {shared}."
            )
        if setting in RECOMMENDER.settings and setting not in bench_settings():
            raise UserError(f"--set {name}.{setting}: this setting has no effect in a bench.")
        values[setting] = value
    return values


def settings_of_system(
    name: str,
    *,
    data: Mapping[str, Any],
    origins: Mapping[str, str],
    searched: Mapping[str, Any],
    assignments: Mapping[str, Iterable[str]],
    shared: Mapping[str, Any],
) -> Settings:
    """Return the settings of a system, typed and checked.

    Args:
        name: name of the system.
        data: settings of the data set.
        origins: file that each of these comes from.
        searched: settings that the search chose.
        assignments: NAME=VALUE texts of `--set`, by system.
        shared: settings of the stage `baselines`.

    Raises:
        UserError: if a name is unknown or a value is invalid.
    """
    recipe = RECIPES[name]
    values = preset_values(recipe.preset) | dict(data) | dict(searched)
    if recipe.is_ablation:
        values |= parse_assignments(MAIN, assignments.get(MAIN, ())) | recipe.change
    values |= parse_assignments(name, assignments.get(name, ()))
    values |= {setting: shared[source] for setting, source in SHARED.items()}
    # Required fields name raw data; a bench starts from prepared data.
    return resolve(values, origins=origins, required=False)
