"""Random and half-right bytes at every door: the outcome is data or a `UserError`, no crash."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.embed_image.pictures import Geometry, load_picture
from components.prepare_data.spec import Settings
from components.prepare_data.validation import validate
from macrec.core.artifact import FORMAT, MANIFEST, SEAL, Artifact, Source, json_digest
from macrec.core.errors import UserError
from macrec.data import embeddings
from tests.attacks.bombs import encoded, noise

ROOT = Path(__file__).parent.parent.parent
GEOMETRY = Geometry(16, 16, False, 3)
REASONS = {"unreadable", "format", "too_large"}
FRAGMENTS = (
    *(b"item_id,title\n", b"item_id", b"title", b'"', b",", b"\n", b"\r", b"\xef\xbb\xbf", b"\0"),
    *(b"{", b"}", b"[", b":", b'{"item_id": "a", "title": "b"}\n', b"1e999", b"NaN", b"\\ud800"),
    *(b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"PAR1", b"PK\x03\x04"),
    *(b"\t", b";", b"::", b"['a', 'b']", b"[]", b'["', b"&amp;", b"<b>", b"\x1f", b"\\N"),
    *(b"user_id", b"timestamp", b"-1", b"9" * 400, b"null", b"true", b" ", b"\\"),
)
PIECES = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=12)), max_size=40)


@pytest.fixture
def many(sized: Callable[[int, int], int]) -> Callable[..., object]:
    """Runs a property on CI's or the night's number of examples; gives the number of calls."""

    def run(strategy: st.SearchStrategy, check: Callable[[object], object], ci: int) -> int:
        calls = 0

        @settings(
            max_examples=sized(ci, 20 * ci),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def examine(value: object) -> None:
            nonlocal calls
            calls += 1
            check(value)

        examine()
        return calls

    return run


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    """The bytes cut, with some of them replaced, or with some more among them."""
    place = st.integers(0, len(whole) - 1)
    edits = st.lists(st.tuples(place, st.binary(min_size=1, max_size=4)), max_size=4)

    def apply(drawn: tuple[list[tuple[int, bytes]], int]) -> bytes:
        content = bytearray(whole)
        for where, what in drawn[0]:
            content[where : where + len(what)] = what
        return bytes(content[: drawn[1]])

    return st.tuples(edits, st.one_of(st.just(len(whole)), place)).map(apply)


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


@pytest.mark.case(31)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "csv.gz", "tsv", "csv.zst", "json"])
@pytest.mark.parametrize("door", ["items", "log"])
def test_rows_of_any_bytes(tmp_path, many, trials, suffix, door):
    good = b"user_id,item_id,timestamp\nu,a,1500000000\n"
    catalogue, log = tmp_path / f"items.{suffix}", tmp_path / "log.csv"
    log.write_bytes(good)
    if door == "log":
        catalogue, log = tmp_path / "items.csv", tmp_path / f"log.{suffix}"
        catalogue.write_text("item_id,title\na,A\nb,B\n")

    def check(pieces: list[bytes]) -> None:
        (catalogue if door == "items" else log).write_bytes(b"".join(pieces))
        found = validate(Settings(min_interactions=0), catalogue, log)
        assert found.problems  # no user has three interactions with items that are there
        assert all(isinstance(problem, str) and problem for problem in found.problems)

    trials(f"texts read as {suffix}", many(PIECES, check, 120))


@pytest.mark.case(34)
def test_parquet_of_changed_bytes(tmp_path, many, trials):
    ids = [f"i{k}" for k in range(20)]
    whole = parquet(pa.table({"item_id": ids, "title": [f"Title {k}" for k in ids]}))
    items, log = tmp_path / "items.parquet", tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu,i0,1500000000\n")

    def check(content: bytes) -> None:
        items.write_bytes(content)
        assert validate(Settings(min_interactions=0), items, log).problems

    trials("Parquet files", many(changed(whole), check, 300))


@pytest.mark.case(34)
def test_given_vectors_of_changed_bytes(tmp_path, many, make_items, trials):
    items = make_items(tmp_path / "items", [None] * 20)
    vectors = pa.array(np.ones((20, 4)).tolist(), pa.list_(pa.float32()))
    whole = parquet(pa.table({"item_id": [f"id{k}" for k in range(20)], "embedding": vectors}))

    def check(content: bytes) -> None:
        (tmp_path / "v.parquet").write_bytes(content)
        with contextlib.suppress(UserError):
            found = embeddings.read_precomputed(Source(str(tmp_path / "v.parquet")), items)
            assert sum(len(chunk.status) for chunk in found.chunks) == 20

    trials("Parquet files of vectors", many(changed(whole), check, 200))


@pytest.mark.case(22, 23)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_pictures_of_changed_bytes(tmp_path, many, trials, kind):
    whole = encoded(noise(24, 16), kind)

    def check(content: bytes) -> None:
        (tmp_path / "a").write_bytes(content)
        found = load_picture(tmp_path / "a", GEOMETRY, 1_000_000)
        assert found in REASONS if isinstance(found, str) else found.shape == (16, 16, 3)

    trials("damaged pictures", many(changed(whole), check, 200))


JSON = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        st.sampled_from(["../../x", "a\0b", "/etc/passwd", 10**400, -1, float("inf")]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = ("format", "schema", "metadata", "files", "digest", "bytes", "name", "sha256", "rows")


def entries() -> Iterator[st.SearchStrategy]:
    yield st.dictionaries(st.sampled_from(KEYS), JSON, max_size=9)
    entry = st.fixed_dictionaries({"name": JSON, "bytes": JSON}, optional={"rows": JSON})
    yield st.fixed_dictionaries(
        {"format": st.one_of(st.just(FORMAT), JSON), "schema": JSON, "metadata": JSON},
        optional={"files": st.one_of(JSON, st.lists(st.one_of(JSON, entry), max_size=3))},
    )
    yield JSON


@pytest.mark.case(15)
@pytest.mark.parametrize("kind", ["values", "bytes"])
def test_manifests_of_any_content(tmp_path, many, trials, kind):
    """Whoever forges one can make its digest right, so the digest is right here."""
    path: Path = tmp_path / MANIFEST

    def check(value: object) -> None:
        content = value if isinstance(value, bytes) else forged(value)
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            assert Artifact.open(tmp_path).rows >= 0

    whole = json.dumps(
        {"format": FORMAT, "schema": None, "metadata": {}, "files": [], "digest": "x"}
    )
    damaged = st.one_of(st.binary(max_size=60), changed(whole.encode()))
    strategy = st.one_of(*entries()) if kind == "values" else damaged
    trials("manifests", many(strategy, check, 250))


@pytest.mark.case(15)
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format": 1, "schema": null, "metadata": {}, "files": [{"name": "a", "bytes": 1e999}]}',
        b'{"format": 1, "schema": null, "metadata": {}, "files": [{"name": "a", "bytes": NaN}]}',
        b'{"format": 1, "schema": null, "metadata": NaN, "files": []}',
        b'{"format": 1, "schema": null, "metadata": "\\ud800", "files": []}',
        b"\xff\xfe{",
    ],
)
def test_manifests_that_json_readers_stumble_over(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match=MANIFEST):
        Artifact.open(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "door",
    [
        pytest.param("manifest", marks=pytest.mark.case(15)),
        pytest.param("items.csv", marks=pytest.mark.case(31)),
        pytest.param("items.jsonl", marks=pytest.mark.case(31)),
    ],
)
def test_what_coverage_leads_to(tmp_path, sized, trials, door):
    command = [sys.executable, "-m", "tests.attacks.fuzz_doors", door, sized("8", "200")]
    paths = os.pathsep.join(str(ROOT / part) for part in ("src", "."))
    done = subprocess.run(
        [*command, str(tmp_path / "fuzz")],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (runs,) = re.findall(r"Done (\d+) (?:runs )?in", done.stderr)
    assert int(runs) > 100
    trials(f"inputs led by coverage ({door})", int(runs))


def forged(value: object) -> bytes:
    """A manifest of the value with true digests, where it can have them."""
    try:
        assert isinstance(value, dict)
        named = {key: value.get(key) for key in ("format", "schema", "metadata", "files")}
        manifest = {**value, **named, "digest": json_digest(named)}
        manifest[SEAL] = json_digest({**manifest, SEAL: None})
        return json.dumps(manifest).encode()
    except (AssertionError, ValueError):
        return json.dumps(value).encode()
