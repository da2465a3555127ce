"""The models that there are and what each reads, without their code."""

from typing import Final, Literal, NamedTuple, get_args

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
