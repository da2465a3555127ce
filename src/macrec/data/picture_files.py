"""Looks for the pictures that a catalogue names, by listing folders instead of opening files.

A listing is one request for a whole folder. On network storage, a request for each of a million
paths would take hours.
"""

import os
import posixpath
import re
import stat
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from macrec.core.errors import UserError
from macrec.core.storage.uris import is_remote, open_storage

FEW: Final = 3
"""Up to this many names of one folder are looked up one by one, since the folder may be large."""
MAX_LISTED: Final = 1_000_000
"""Maximum number of files that are searched for a picture with a similar path."""
MAX_MISSING: Final = "embed_image.max_missing_images"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|(file|data|https?|gs|s3):", re.IGNORECASE)
_CASE_MATTERS = sys.platform == "linux"


class PictureSearch(NamedTuple):
    """Which of the pictures of a catalogue are in the image folder."""

    root: str
    """The image folder: a local path or gs://."""
    name: str
    """The image folder as the user gave it."""
    uris: Sequence[str]
    """The distinct paths that the catalogue names."""
    absent: list[str]
    """Paths without a file."""
    outside: list[str]
    """Paths that leave the folder, each with the reason."""

    @property
    def found(self) -> int:
        """The number of pictures that are there."""
        return len(self.uris) - len(self.absent) - len(self.outside)

    def summary(self) -> str:
        """Return the share of pictures that are there, as a line to print."""
        share = self.found / max(len(self.uris), 1)
        return f"pictures found: {self.found:,} of {len(self.uris):,} ({share:.1%})"

    def problem(self, max_missing: float) -> str:
        """Return why the run must stop, or an empty string.

        Args:
            max_missing: the setting embed_image.max_missing_images.
        """
        if self.outside:
            return (
                f"images: {len(self.outside):,} of {len(self.uris):,} picture paths leave the "
                f"folder {self.name}: {', '.join(self.outside[:10])}. Write paths below the "
                "folder, without '..'."
            )
        allowed = int(max_missing * len(self.uris))
        if self.absent and self.found == 0:
            return self._describe_absent("")
        if len(self.absent) > allowed:
            return self._describe_absent(f", and {MAX_MISSING}={max_missing:g} allows {allowed:,}")
        return ""

    def warning(self) -> str:
        """Return which pictures are absent, or an empty string."""
        return self._describe_absent("") if self.absent else ""

    def _describe_absent(self, limit: str) -> str:
        similar = find_similar(self.absent, _list_files(self.root))
        first = ", ".join(self.absent[:3])
        if self.found:
            start = f"images: {len(self.absent):,} of {len(self.uris):,} pictures are not found"
            start += f" in {self.name}{limit} (first: {first})."
        else:
            start = f"images: none of {len(self.uris):,} pictures is in {self.name}"
            start += f" (first: {first})."
        hints = [hint.describe() for hint in similar]
        return " ".join([start, *hints, self._remedy(similar, bool(limit))])

    def _remedy(self, similar: "Sequence[Similar]", too_many: bool) -> str:
        explained = sum(hint.pictures for hint in similar)
        if explained == len(self.absent) and (folder := _common_folder(self.name, similar)):
            return f"Set catalog_images={folder}."
        remedies = ["correct the paths in the catalogue, or rename the files"] if similar else []
        if explained < len(self.absent):
            remedies.append("copy the missing files into the folder")
        if not self.found and not similar:
            remedies = ["check catalog_images and prepare_data.image_column"]
        if too_many:
            remedies.append(f"raise {MAX_MISSING}")
        text = ", or ".join(remedies)
        return f"{text[0].upper()}{text[1:]}."


class Similar(NamedTuple):
    """Absent pictures for which the folder has a file with a similar path."""

    kind: str
    pictures: int
    """How many there are."""
    named: str
    """The first of these paths in the catalogue."""
    there: str
    """The similar path in the folder."""
    prefixes: frozenset[tuple[str, str]]
    """Up to two pairs of what the catalogue's path and the file's path begin with."""

    def describe(self) -> str:
        """Return a sentence about these pictures."""
        return (
            f"{self.pictures:,} of them are there {self.kind}: the catalogue names {self.named!r}, "
            f"the folder has {self.there!r}."
        )


def search_pictures(root: str | Path, uris: Sequence[str], name: str = "") -> PictureSearch:
    """Look for pictures in the image folder; no file is opened.

    Args:
        root: the image folder, a local path or gs://.
        uris: distinct paths below it.
        name: the folder as the user gave it, for messages; the default is `root`.
    """
    suspicious = {uri: reason for uri in uris if (reason := explain_suspicious(uri))}
    plain = [uri for uri in uris if uri not in suspicious]
    outside = [f"{uri!r} ({reason})" for uri, reason in suspicious.items()]
    if is_remote(str(root)):
        names = set(open_storage(str(root)).names())
        absent = [uri for uri in plain if posixpath.normpath(uri) not in names]
    else:
        absent, leaving = _search_folder(str(root), plain)
        outside += [f"{uri!r} (a symbolic link leads out)" for uri in leaving]
    return PictureSearch(str(root), name or str(root), uris, absent, outside)


def explain_suspicious(uri: str) -> str:
    """Return why a path cannot be below a folder, or an empty string."""
    parts = uri.replace("\\", "/").split("/")
    if "\0" in uri:
        return "has a NUL character"
    if parts[0] == "" or re.match(r"[A-Za-z]:[\\/]", uri):
        return "absolute or empty"
    if ".." in parts:
        return "has a '..'"
    return "is a URL" if _SCHEME.match(uri) else ""


class _Folders:
    """Decides which folders below a root are really there, in spite of symbolic links.

    Only links are resolved, so that a folder costs one request.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._inside = f"{os.path.realpath(root).rstrip('/')}/"
        self._stays = {"": True}

    def stay(self, folder: str) -> bool:
        """Return whether a folder, given relative to the root, is below the root."""
        ends = [place for place, letter in enumerate(folder) if letter == "/"] + [len(folder)]
        stays = True
        for end in ends:  # from the outermost folder to the innermost
            part = folder[:end]
            if part not in self._stays:
                self._stays[part] = stays and self.stays(os.path.join(self._root, part))
            stays = self._stays[part]
        return stays

    def stays(self, path: str) -> bool:
        """Return whether a path whose folder is below the root does not lead out of it."""
        return not os.path.islink(path) or f"{os.path.realpath(path)}/".startswith(self._inside)


def _search_folder(root: str, uris: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the paths without a file, and those that leave the root by a symbolic link."""
    folders = _Folders(root)
    by_folder: dict[str, dict[str, str]] = {}
    for uri in uris:
        folder, _, name = uri.rstrip("/").rpartition("/")
        by_folder.setdefault(folder, {})[name] = uri
    absent, leaving = set[str](), set[str]()
    for folder, names in by_folder.items():
        if not folders.stay(folder):
            leaving.update(names.values())
            continue
        path = os.path.join(root, folder)
        present, links = _list_folder(path, names)
        out = {name for name in links if not folders.stays(os.path.join(path, name))}
        leaving.update(names[name] for name in out)
        absent.update(uri for name, uri in names.items() if name not in present | out)
    return [u for u in uris if u in absent], [u for u in uris if u in leaving]


def _list_folder(path: str, names: Collection[str]) -> tuple[set[str], set[str]]:
    """Return which of the names are in the folder, and which of them are symbolic links."""
    kinds: dict[str, bool] = {}  # whether each present name is a link
    with suppress(OSError, ValueError):  # no such folder, or not a valid name
        if len(names) > FEW:
            with os.scandir(path) as entries:
                files = (e for e in entries if e.name in names and not _is_folder(e))
                kinds = {e.name: e.is_symlink() for e in files}
    for name in names if len(names) <= FEW or not _CASE_MATTERS else ():
        with suppress(OSError, ValueError):
            mode = os.lstat(os.path.join(path, name)).st_mode
            if not stat.S_ISDIR(mode):
                kinds[name] = stat.S_ISLNK(mode)
    links = {name for name, is_link in kinds.items() if is_link}
    there = {name for name in links if os.path.exists(os.path.join(path, name))}
    return (kinds.keys() - links) | there, links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _list_files(root: str) -> Iterator[str]:
    """Yield the paths of all files below the folder, at most MAX_LISTED."""
    if is_remote(root):
        names: Iterable[str] = open_storage(root).names()
    else:
        names = (
            os.path.relpath(os.path.join(folder, file), root) if folder != root else file
            for folder, _, files in os.walk(root)
            for file in files
        )
    yield from islice(names, MAX_LISTED)


def _form(path: str) -> str:
    """Return a path without differences of case and Unicode form."""
    path = posixpath.normpath(path)
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()


# Sentence part -> key under which two paths are similar in this way.
_KINDS: Final[dict[str, Callable[[str], str]]] = {
    "with another case": _form,
    "with another suffix": lambda path: posixpath.splitext(_form(path))[0],
    "in another folder": lambda path: posixpath.basename(_form(path)),
}


def find_similar(absent: Sequence[str], names: Iterable[str]) -> list[Similar]:
    """Return why pictures are not found: another case, another suffix, or another folder.

    Args:
        absent: paths of the catalogue without a file.
        names: paths of the files in the folder.
    """
    files, left, found = list(names), list(absent), list[Similar]()
    for kind, key in _KINDS.items():
        if not left:
            break
        by_key = {key(name): name for name in reversed(files)}
        pairs = [(uri, by_key[k]) for uri in left if (k := key(uri)) in by_key]
        if pairs:
            prefixes = {_different_start(*pair) for pair in pairs[:1_000]}
            found.append(Similar(kind, len(pairs), *pairs[0], frozenset(prefixes)))
            matched = {uri for uri, _ in pairs}
            left = [uri for uri in left if uri not in matched]
    return found


def _different_start(named: str, there: str) -> tuple[str, str]:
    """Return what remains of two paths without their longest common end of whole parts."""
    one, two = named.split("/"), there.split("/")
    while one and two and one[-1] == two[-1]:
        one.pop()
        two.pop()
    return "/".join(one), "/".join(two)


def _common_folder(root: str, similar: Sequence[Similar]) -> str:
    """Return the folder below which all pictures are found as named, or an empty string."""
    starts = {start for hint in similar for start in hint.prefixes}
    if len(starts) != 1:
        return ""
    named, there = starts.pop()
    if not named and there:
        return f"{root.rstrip('/')}/{there}"
    tail = f"/{named}"
    if named and not there and root.rstrip("/").endswith(tail):
        return root.rstrip("/").removesuffix(tail) or "/"
    return ""


def check_folder(uri: str) -> None:
    """Check that an address is a folder that is not empty.

    Raises:
        UserError: it is a file, or there is nothing in it.
    """
    if not is_remote(uri) and Path(uri).is_file():
        raise UserError(f"catalog_images={uri}: is a file. Give the folder of the images.")
    if next(_list_files(uri), None) is None:
        raise UserError(f"catalog_images={uri}: has no file. Give the folder of the images.")
