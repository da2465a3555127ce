"""Access to the code of the models. Importing it loads all of them."""

from collections.abc import Sequence
from typing import Any, cast

from components.baselines import (
    bert4rec,
    fdsa,
    item_knn,
    missrec,
    p5_cid,
    popular,
    s3rec,
    sasrec,
    vip5,
)
from components.baselines.entries import ModelName
from components.baselines.interface import Baseline
from macrec.core.errors import UserError, check
from macrec.core.settings import fields, parse


def baseline(name: ModelName) -> Baseline:
    """Return the module of a model."""
    modules: dict[ModelName, Any] = {
        "popular": popular,
        "item_knn": item_knn,
        "sasrec": sasrec,
        "bert4rec": bert4rec,
        "fdsa": fdsa,
        "s3rec": s3rec,
        "missrec": missrec,
        "p5_cid": p5_cid,
        "vip5": vip5,
    }
    return cast(Baseline, modules[name])


def read_settings(name: ModelName, settings: Sequence[str]) -> dict[str, Any]:
    """Parse the settings of a model from NAME=VALUE into typed arguments for its `Config`.

    Raises:
        UserError: the model has no such setting, or the value has the wrong type.
    """
    known = {parameter.name: parameter for parameter in fields(baseline(name).Config)}
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        check(bool(equals), f"baselines: settings has {setting!r}; write NAME=VALUE.")
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"baselines: {name} has no setting {key}; {has}.")
        values[key] = parse(known[key], value)
    return values
