"""Fuzzing that is led by coverage (atheris): the outcome at each door is data or a `UserError`.

    python -m tests.attacks.fuzz_doors manifest|items.csv|items.jsonl SECONDS FOLDER

Ends with code 0 after so many seconds; with another one and the offending bytes in FOLDER if
anything else was raised, or one input took 20 s or 2 GB.
"""

import contextlib
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["components.prepare_data", "macrec"]):
    from components.prepare_data.spec import Settings
    from components.prepare_data.validation import validate
    from macrec.core.artifact import FORMAT, MANIFEST, SEAL, Artifact, json_digest
    from macrec.core.errors import UserError

FILES = (
    b'[{"name": "a", "bytes": 1, "rows": 2, "sha256": "0"}]',
    b'[{"name": "../a", "bytes": 1}, {"name": "b", "bytes": 0}]',
    b'[{"name": "a"}]',
)
SEEDS = {
    "manifest": [b'{"schema": null, "metadata": {}, "files": %b}' % files for files in FILES],
    "items.csv": [
        b'item_id,title\na,"A, ""b"""\nb,NA\n',
        b"\xef\xbb\xbfitem_id;title\r\n",
        b"item_id\ttitle\na\t['x', 'y']\n",
        b"item_id::title\na::<b>&amp;</b>\n",
        gzip.compress(b"item_id,title\na,A\n", mtime=0),
        "item_id,title\na,A\n".encode("utf-16"),
    ],
    "items.jsonl": [b'{"item_id": "a", "title": "A"}\n{"item_id": 1}\n', b'{"item_id": "\\ud800"}'],
}


def manifest(folder: Path) -> Callable[[bytes], None]:
    """A manifest; whoever forges one can make its digests right, so they are right here."""
    (folder / "a").write_bytes(b"x")

    def check(content: bytes) -> None:
        (folder / MANIFEST).write_bytes(forged(content))
        with contextlib.suppress(UserError):
            opened = Artifact.open(folder)
            assert isinstance(opened.rows, int)
            opened.verify()

    return check


def forged(content: bytes) -> bytes:
    """The bytes themselves if they are no JSON object that a manifest can be made of."""
    drawn = atheris.FuzzedDataProvider(content)
    try:
        found = json.loads(content) if drawn.ConsumeBool() else described(drawn)
        named = {name: found.get(name) for name in ("schema", "metadata", "files")}
        named["format"] = FORMAT
        whole = {**found, **named, "digest": json_digest(named)}
        whole[SEAL] = json_digest({**whole, SEAL: None})
        return json.dumps(whole).encode()
    except (ValueError, AttributeError, RecursionError, OverflowError):
        return content


def described(drawn: atheris.FuzzedDataProvider) -> dict[str, object]:
    """A manifest of values that are right more often than not."""
    names = ("name", "bytes", "sha256", "rows", "schema", "metadata", "files", "x")
    right = [
        "a",
        1,
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        2,
        None,
        {},
    ]

    def value(place: int, depth: int = 0) -> object:
        kind = drawn.ConsumeIntInRange(0, 9 if depth < 3 else 6)
        if kind < 4:
            return right[place % len(right)]
        simple = (drawn.ConsumeUnicode(8), drawn.ConsumeInt(9), drawn.ConsumeFloat())
        if kind < 7:
            return simple[kind - 4]
        size = drawn.ConsumeIntInRange(0, 4)
        if kind == 7:
            return [value(n, depth + 1) for n in range(size)]
        return {names[n]: value(n, depth + 1) for n in range(size)}

    entries = [{names[n]: value(n) for n in range(4)} for _ in range(drawn.ConsumeIntInRange(0, 3))]
    return {"schema": value(4), "metadata": value(5), "files": entries or value(6)}


def rows(folder: Path, name: str) -> Callable[[bytes], None]:
    """A catalogue, beside a log that is good."""
    log = folder / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu,a,1500000000\n")

    def check(content: bytes) -> None:
        (folder / name).write_bytes(content)
        problems = validate(Settings(min_interactions=0), folder / name, log).problems
        assert problems and all(problems)  # no user has three interactions

    return check


def main() -> None:
    """Fuzzes one door; libFuzzer ends the process."""
    door, seconds, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    corpus, place = folder / "corpus", folder / "door"
    for path in (corpus, place):
        path.mkdir(parents=True)
    for number, seed in enumerate(SEEDS[door]):
        (corpus / str(number)).write_bytes(seed)
    check = manifest(place) if door == "manifest" else rows(place, door)
    flags = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2000", "-max_len=4096"]
    flags += [f"-artifact_prefix={folder}/", "-seed=1"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
