"""Builds the report's example users: titles, small embedded images, who proposed what."""

import base64
import io
import tempfile
import warnings
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from macrec.core.artifact import Artifact, Source
from macrec.core.storage.uris import is_remote, open_storage
from macrec.data.split import Split
from macrec.ranking.fusion import Weights, best_lists
from macrec.ranking.ranker import Ranker
from macrec.report.contents import Example, Item, ProposedBy, Recommendation

SIDE: Final = 96
"""Longer side of a thumbnail in pixels."""
PROPOSED: Final[tuple[ProposedBy, ...]] = ("neighbours", "text", "image", "both")
SHOWN_HISTORY: Final = 9
SHOWN_LIST: Final = 10
MAX_FILE_BYTES: Final = 64 << 20
MAX_PIXELS: Final = 50_000_000


def choose_users(
    hits_T: npt.NDArray[np.float64], examples: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return positions of test users: half with a hit if there are enough, the rest at random."""
    hit = np.flatnonzero(hits_T > 0)
    with_hit = generator.permutation(hit)[: examples // 2]
    others = generator.permutation(np.setdiff1d(np.arange(len(hits_T)), with_hit))
    return np.sort(np.concatenate([with_hit, others[: examples - len(with_hit)]]))


def example_users(
    ranker: Ranker,
    split: Split,
    places: npt.NDArray[np.int64],
    weights: Weights,
    beams: int,
    cards: "Cards",
) -> tuple[Example, ...]:
    """Return the examples, ranked again to find what each modality's search proposed."""
    users_U = split.users_T[places]
    cases = split.test(users_U)
    candidates = ranker.candidates(cases.histories, beams)
    lists = best_lists(candidates, weights, SHOWN_LIST)
    ids = split.user_ids.take(users_U).to_pylist()
    shown: list[Example] = []
    for user, (history, target) in enumerate(zip(*cases, strict=True)):
        mine = candidates.user_P == user
        found: dict[int, ProposedBy] = {}
        for item, by in zip(
            candidates.item_P[mine].tolist(),
            (candidates.found_P["text"] + 2 * candidates.found_P["image"])[mine].tolist(),
            strict=True,
        ):
            found[item] = PROPOSED[by]
        listed = [i for i in lists.items_UK[user, :SHOWN_LIST].tolist() if i >= 0]
        shown.append(
            Example(
                user_id=ids[user],
                history=tuple(cards.card(i) for i in history[-SHOWN_HISTORY:].tolist()),
                recommended=tuple(
                    Recommendation(item=cards.card(i), proposed_by=found[i], hit=i == target)
                    for i in listed
                ),
                target=cards.card(int(target)),
            )
        )
    return tuple(shown)


class Cards:
    """The items as the report shows them; an image that cannot be shown is left out."""

    def __init__(self, items: Artifact, images: Source | None) -> None:
        self._columns = items.table(["title", "item_id", "image_uri"])
        self._images = images
        self._made: dict[int, Item] = {}
        self._folder = tempfile.TemporaryDirectory() if images and is_remote(images.uri) else None

    def card(self, item: int) -> Item:
        """Return the title (else the id) and the thumbnail of an item."""
        if item not in self._made:
            title, item_id, uri = (column[item].as_py() for column in self._columns.columns)
            self._made[item] = Item(title=title or item_id, thumbnail=self._thumbnail(uri))
        return self._made[item]

    def close(self) -> None:
        """Remove the downloaded files."""
        if self._folder:
            self._folder.cleanup()

    def _thumbnail(self, uri: str | None) -> str | None:
        if self._images is None or not uri or not _plain(uri):
            return None
        if self._folder is None:
            return thumbnail(self._images.path(), uri)
        root = Path(self._folder.name)
        target = root / uri
        target.parent.mkdir(parents=True, exist_ok=True)
        try:  # only the few images that are shown, not the whole bucket
            open_storage(self._images.uri).download(uri, target)
        except Exception:  # after any client error the report omits this image
            return None
        return thumbnail(root, uri)


def _plain(uri: str) -> bool:
    """Return whether it can be a path below a folder."""
    parts = uri.replace("\\", "/").split("/")
    absolute = parts[0] == "" or ":" in parts[0] or PurePosixPath(uri).is_absolute()
    return not absolute and ".." not in parts and "\0" not in uri


def thumbnail(root: Path, uri: str) -> str | None:
    """Return a data: URI of a small re-encoded JPEG; None if the image cannot be shown.

    None is also returned for a path that leaves the root, even by a symbolic link. The same applies
    to an image that expands to more than MAX_PIXELS.
    """
    try:
        path = (root / uri).resolve()
        if not _plain(uri) or not path.is_relative_to(root.resolve()) or not path.is_file():
            return None
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("JPEG", "PNG", "WEBP", "GIF")) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    return None
                picture.draft("RGB", (2 * SIDE, 2 * SIDE))
                upright = ImageOps.exif_transpose(picture).convert("RGBA")
        upright.thumbnail((SIDE, SIDE))
        white = Image.new("RGBA", upright.size, "white")
        encoded = io.BytesIO()
        Image.alpha_composite(white, upright).convert("RGB").save(encoded, "JPEG", quality=80)
    except Exception:  # on damaged files, Pillow's decoders raise almost any exception
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
