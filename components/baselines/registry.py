"""The models that there are, what each reads, and where its code is."""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, cast, get_args

from components.baselines.interface import Baseline
from macrec.core.errors import UserError, check
from macrec.core.parameters import fields, parse

ModelName = Literal[
    "popular", "item_knn", "sasrec", "bert4rec", "fdsa", "s3rec", "missrec", "p5_cid", "vip5"
]
MODELS: Final[tuple[ModelName, ...]] = get_args(ModelName)
VECTORS: Final = ("text_embeddings", "image_embeddings")


class Entry(NamedTuple):
    """What is known of a model before its code is loaded."""

    title: str
    """Its name in a table."""
    seeded: bool
    """Whether another seed gives another model."""
    reads: tuple[str, ...] = ()
    """Inputs of the stage besides sequences and items."""


ENTRIES: Final[dict[ModelName, Entry]] = {
    "popular": Entry("most popular", seeded=False),
    "item_knn": Entry("item-kNN", seeded=False),
    "sasrec": Entry("SASRec", seeded=True),
    "bert4rec": Entry("BERT4Rec", seeded=True),
    "fdsa": Entry("FDSA", seeded=True, reads=VECTORS),
    "s3rec": Entry("S3-Rec", seeded=True, reads=VECTORS),
    "missrec": Entry("MISSRec", seeded=True, reads=VECTORS),
    "p5_cid": Entry("P5-CID", seeded=True),
    "vip5": Entry("VIP5", seeded=True, reads=("image_embeddings",)),
}


def baseline(name: ModelName) -> Baseline:
    """The module of a model; torch is loaded with it."""
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
    """Settings of a model from NAME=VALUE, typed; its Config takes them.

    Raises:
        UserError: the model has no such setting, or not of that value.
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
