"""The sample catalogue: musical instruments with known brands and kinds.

The text of an item identifies its brand and its image shows its kind. Users follow both. An episode
of a user has a brand and a kind. The user browses other kinds of that brand and other brands of
that kind. Then they pick two items with both, and change either the brand or the kind. So a model
needs text AND images to find the next item. One of them alone leaves a brand (or a kind) of dozens
of items. Items of one brand and kind rarely occur in the same history. So counting co-occurrences
helps, but does not replace the content.
"""

import json
import random
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from macrec.core.errors import UserError
from macrec.sample.sample_texts import BRANDS, describe

KINDS = (
    "guitar", "drum", "keyboard", "trumpet", "accordion", "saxophone", "harp", "xylophone",
)  # fmt: skip

CELL = 5
"""Approximate items per brand and kind: fewer than the ten places of an HR@10 list."""

NOISE = 0.05
"""Share of interactions with a random item."""

_MOST_EPISODES = 5  # about four items each, so a history has about 20 items at most
_LOG_START = 1_672_531_200  # 2023-01-01 00:00 UTC
_DAY = 86_400

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("image", pa.string(), metadata={"doc": "file in images/; null without a picture"}),
    ]
)
INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False, metadata={"doc": "seconds since 1970"}),
    ]
)
ANSWERS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("brand", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("picture", pa.string(), nullable=False, metadata={"doc": "ok, missing, broken"}),
    ]
)


class Item(NamedTuple):
    """The hidden labels of an item: its indices in BRANDS and KINDS, and its image's state."""

    brand: int
    kind: int
    picture: str
    popularity: float


class Event(NamedTuple):
    """One interaction: indices of the user and the item, and seconds since 1970."""

    user: int
    item: int
    timestamp: int


def make_sample(out: Path, *, items: int = 300, users: int = 600, seed: int = 7) -> None:
    """Write the sample into the folder `out`, replacing an older sample.

    The same arguments give the same bytes. items.parquet, interactions.parquet and images/ are the
    data that a shop would have. answers.parquet contains each item's brand and kind, which no stage
    reads. sample.json contains the seed and the counts.

    Raises:
        UserError: `out` contains other files, or there are fewer than 20 items or 10 users.
    """
    if items < 20 or users < 10:
        raise UserError(
            f"sample: {items} items and {users} users are too few for a sample; ask for at least "
            "20 and 10"
        )
    _clear(out)
    catalogue = _plan_items(items, random.Random(f"{seed}/items"))
    events = _shop(catalogue, users, random.Random(f"{seed}/users"))
    _write_items(out, catalogue, seed)
    _write_interactions(out, events)
    _write_summary(out, catalogue, events, users=users, seed=seed)


def _clear(out: Path) -> None:
    """Remove an older sample, even an incomplete one, and nothing else."""
    own = {"items.parquet", "interactions.parquet", "answers.parquet", "sample.json", "images"}
    foreign = sorted({path.name for path in out.iterdir()} - own) if out.exists() else []
    if foreign:
        raise UserError(
            f"sample: {out} holds {len(foreign)} files that are not part of a sample (first: "
            f"{', '.join(foreign[:3])}); name a new folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in own - {"images"}:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "images", ignore_errors=True)
    (out / "images").mkdir()


def _plan_items(count: int, chance: random.Random) -> list[Item]:
    """Assign brands and kinds evenly, in random order; a few images are missing or broken."""
    side = min(len(KINDS), max(2, round((count / CELL) ** 0.5)))
    cells = [(place % side, place // side % side) for place in range(count)]
    chance.shuffle(cells)
    missing, broken = max(1, count // 50), max(1, count // 150)
    pictures = ["missing"] * missing + ["broken"] * broken
    pictures += ["ok"] * (count - len(pictures))
    chance.shuffle(pictures)
    return [
        Item(brand, kind, picture, popularity=chance.uniform(0.5, 1.5))
        for (brand, kind), picture in zip(cells, pictures, strict=True)
    ]


def _shop(catalogue: list[Item], users: int, chance: random.Random) -> list[Event]:
    """Return all users' interactions in time order; ties keep the order in which they happened."""
    events: list[Event] = []
    for user in range(users):
        history = _follow(catalogue, chance)
        moment = _LOG_START + chance.randrange(365 * _DAY)
        for item in history:
            events.append(Event(user, item, moment))
            if chance.random() >= 0.04:  # otherwise the next item is in the same basket, a tie
                moment += 60 + int(chance.expovariate(1 / (5 * _DAY)))
    return sorted(events, key=lambda event: event.timestamp)


def _follow(catalogue: list[Item], chance: random.Random) -> list[int]:
    """Return one user's items without repeats: one to five episodes of browsing and picking."""
    side = 1 + max(item.brand for item in catalogue)
    brand, kind = chance.randrange(side), chance.randrange(side)
    history: list[int] = []

    def take(wanted: Callable[[Item], bool]) -> None:
        if chance.random() < NOISE:
            wanted = _any_item
        fresh = [
            place for place, item in enumerate(catalogue) if wanted(item) and place not in history
        ]
        if fresh:
            weights = [catalogue[place].popularity for place in fresh]
            history.append(chance.choices(fresh, weights)[0])

    episodes = 1
    while episodes < _MOST_EPISODES and chance.random() < 0.5:
        episodes += 1
    for episode in range(episodes):
        if episode and chance.random() < 0.5:
            brand = (brand + chance.randrange(1, side)) % side
        elif episode:
            kind = (kind + chance.randrange(1, side)) % side
        steps = ["same brand", "same kind"]
        if episode == 0:  # with three browsing steps, the shortest history has five interactions
            steps.append(chance.choice(steps))
        chance.shuffle(steps)
        for step in [*steps, "both", "both"]:
            take(_wish(step, brand, kind))
    while len(history) < 5:  # some brand and kind had no items left
        take(_any_item)
    return history


def _wish(step: str, brand: int, kind: int) -> Callable[[Item], bool]:
    if step == "same brand":
        return lambda item: item.brand == brand and item.kind != kind
    if step == "same kind":
        return lambda item: item.kind == kind and item.brand != brand
    return lambda item: item.brand == brand and item.kind == kind


def _any_item(_: Item) -> bool:
    return True


def item_name(place: int) -> str:
    """Return the item id for an index in the catalogue."""
    return f"item-{place:04d}"


def _write_items(out: Path, catalogue: list[Item], seed: int) -> None:
    count = len(catalogue)
    numbers = random.Random(f"{seed}/numbers").sample(range(100, 100 + 3 * count), k=count)
    rows: list[dict[str, str | None]] = []
    for place, item in enumerate(catalogue):
        chance = random.Random(f"{seed}/text/{place}")
        text = describe(BRANDS[item.brand], KINDS[item.kind], numbers[place], chance)
        image = None if item.picture == "missing" else f"{item_name(place)}.jpg"
        rows.append({"item_id": item_name(place), **text._asdict(), "image": image})
        if image is not None:
            chance = random.Random(f"{seed}/picture/{place}")
            (out / "images" / image).write_bytes(_picture(item, chance))
    pq.write_table(pa.Table.from_pylist(rows, ITEMS), out / "items.parquet")
    answers = [
        {
            "item_id": item_name(place),
            "brand": BRANDS[item.brand].name,
            "kind": KINDS[item.kind],
            "picture": item.picture,
        }
        for place, item in enumerate(catalogue)
    ]
    pq.write_table(pa.Table.from_pylist(answers, ANSWERS), out / "answers.parquet")


def _picture(item: Item, chance: random.Random) -> bytes:
    """Return the bytes of a JPEG file; a broken image is cut off after a third of its bytes."""
    from macrec.sample.sample_pictures import draw_instrument

    buffer = BytesIO()
    draw_instrument(KINDS[item.kind], chance).save(buffer, "JPEG", quality=88)
    data = buffer.getvalue()
    return data[: len(data) // 3] if item.picture == "broken" else data


def _write_interactions(out: Path, events: list[Event]) -> None:
    columns = {
        "user_id": [f"user-{event.user:04d}" for event in events],
        "item_id": [item_name(event.item) for event in events],
        "timestamp": [event.timestamp for event in events],
    }
    pq.write_table(pa.table(columns, INTERACTIONS), out / "interactions.parquet")


def _write_summary(
    out: Path, catalogue: list[Item], events: list[Event], *, users: int, seed: int
) -> None:
    def names(picture: str) -> list[str]:
        return [item_name(k) for k, item in enumerate(catalogue) if item.picture == picture]

    last: dict[int, int] = {}
    ties = 0
    for event in events:
        ties += last.get(event.user) == event.timestamp
        last[event.user] = event.timestamp
    side = 1 + max(item.brand for item in catalogue)
    summary = {
        "seed": seed,
        "items": len(catalogue),
        "users": users,
        "interactions": len(events),
        "tied_timestamps": ties,
        "brands": [brand.name for brand in BRANDS[:side]],
        "kinds": list(KINDS[:side]),
        "missing_pictures": names("missing"),
        "broken_pictures": names("broken"),
    }
    text = json.dumps(summary, indent=2) + "\n"
    (out / "sample.json").write_text(text, encoding="utf-8")
