"""Our own systems in a bench, and where their run parameters come from.

A system is a preset for the stages of the DAG, or an ablation: MACRec with one change. Its settings
come from these places; a later one overrides an earlier one:

1. The preset.
2. The data set: the `--config` files, else the arguments of the run whose output folder it is. The
   run's arguments omit those that a preset decides (`settings_of_run`).
3. The search. An ablation uses the settings found for MACRec; otherwise it would differ from MACRec
   in the search too.
4. `--set SYSTEM.NAME=VALUE`. Those of MACRec also apply to its ablations.
5. The change of the ablation, and `--set ABLATION.NAME=VALUE`.
6. The settings that all systems of the bench share: history length, seen items, list length, seed.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from components.run_form import RECOMMENDER, flatten, preset_values, resolve
from components.stages import stage_named
from macrec.core.errors import UserError
from macrec.core.settings import fields
from pipelines.dag.config_file import read_config

Settings = dict[str, Any]
"""Settings by their one name, such as `train.d_model`."""

STAGES: Final = (
    *("embed_histories", "pseudo_label", "quantize", "resolve_collisions", "train", "evaluate"),
)
"""The stages from the vectors to the lists, in DAG order."""
SEEDS: Final = ("quantize.seed", "train.seed")
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
    changed: Settings
    """Settings in which an ablation differs from MACRec; empty for other systems."""

    @property
    def ablation(self) -> bool:
        """Return whether the system is an ablation of MACRec."""
        return bool(self.changed)


_SAME_MODALITY = ("seq_text_text", "seq_image_image")
OWN: Final = {
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
RECIPES: Final[dict[str, Recipe]] = OWN | ABLATIONS
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
    return MAIN if RECIPES[name].ablation else name


def space(settings: Mapping[str, Any], fixed: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Return the search space of a system, without the settings that are fixed."""
    default = RECOMMENDER.settings["embed_histories.dim"].default
    histories = settings.get("embed_histories.dim", default)
    whole = SPACE | (HISTORY_SPACE if histories else {})
    return {name: values for name, values in whole.items() if name not in set(fixed)}


def settable() -> list[str]:
    """Return the settings that `--set SYSTEM.NAME` accepts: those that affect a bench."""
    names = [f"{name}.{p.name}" for name in STAGES for p in fields(stage_named(name).settings)]
    return [name for name in names if name not in (*SEEDS, *SHARED)]


def preset(name: str) -> Settings:
    """Return the settings of a preset."""
    return dict(preset_values(name))


def decided_by_presets() -> set[str]:
    """Return the settings that belong to the system, not to the data set."""
    names = {name for recipe in RECIPES.values() for name in preset(recipe.preset)}
    names |= {name for recipe in ABLATIONS.values() for name in recipe.changed}
    return names - SIZES


def settings_of_run(arguments: Mapping[str, Any]) -> Settings:
    """Return the settings of a run that no preset decides, such as sizes and numbers of epochs.

    Args:
        arguments: values by field of the run form.
    """
    taken = set(settable()) - decided_by_presets()
    return {name: value for name, value in flatten(arguments).items() if name in taken}


def of_files(paths: Iterable[Path]) -> tuple[Settings, dict[str, str]]:
    """Return the settings in the data set's files, and the file that each comes from.

    A later file overrides an earlier one.
    """
    values: Settings = {}
    origins: dict[str, str] = {}
    for path in paths:
        content = flatten(read_config(path))
        values |= content
        origins |= dict.fromkeys(content, str(path))
    return values, origins


def assigned(name: str, assignments: Iterable[str]) -> Settings:
    """Return the settings in the NAME=VALUE assignments of `--set` for one system.

    Args:
        name: name of the system, for messages.
        assignments: NAME=VALUE texts, without the name of the system.

    Raises:
        UserError: if a setting is shared by all systems or has no effect in a bench.
    """
    values: Settings = {}
    for assignment in assignments:
        setting, _, value = assignment.partition("=")
        if setting in SEEDS or setting in SHARED:
            shared = f"--set {SHARED[setting]}=" if setting in SHARED else "--seeds"
            raise UserError(f"--set {name}.{setting}: the same for all systems; use {shared}.")
        if setting in RECOMMENDER.settings and setting not in settable():
            raise UserError(f"--set {name}.{setting}: changes nothing in a bench.")
        values[setting] = value
    return values


def settings_of(
    name: str,
    *,
    data: Mapping[str, Any],
    origins: Mapping[str, str],
    found: Mapping[str, Any],
    own: Mapping[str, Iterable[str]],
    shared: Mapping[str, Any],
) -> Settings:
    """Return the settings of a system, typed and checked.

    Args:
        name: name of the system.
        data: settings of the data set.
        origins: file that each of these comes from.
        found: settings that the search found.
        own: NAME=VALUE texts of `--set`, by system.
        shared: settings of the stage `baselines`.

    Raises:
        UserError: if a name is unknown or a value is invalid.
    """
    recipe = RECIPES[name]
    values = preset(recipe.preset) | dict(data) | dict(found)
    if recipe.ablation:
        values |= assigned(MAIN, own.get(MAIN, ())) | recipe.changed
    values |= assigned(name, own.get(name, ()))
    values |= {parameter: shared[setting] for parameter, setting in SHARED.items()}
    # Required fields name raw data; a bench starts from prepared data.
    return resolve(values, origins=origins, required=False)
