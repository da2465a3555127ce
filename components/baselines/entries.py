"""The names of the baselines and the inputs that each reads. Importing it loads no model code."""

from typing import Final, Literal, NamedTuple, get_args

ModelName = Literal[
    "popular", "item_knn", "sasrec", "bert4rec", "fdsa", "s3rec", "missrec", "p5_cid", "vip5"
]
MODELS: Final[tuple[ModelName, ...]] = get_args(ModelName)
VECTORS: Final = ("text_embeddings", "image_embeddings")


class Entry(NamedTuple):
    """Properties of a model that are needed before its code is loaded."""

    title: str
    """Display name in tables."""
    seeded: bool
    """Whether the model depends on the seed."""
    reads: tuple[str, ...] = ()
    """Inputs of the stage that the model reads in addition to sequences and items."""


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
