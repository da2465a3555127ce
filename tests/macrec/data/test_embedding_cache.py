"""Vectors kept by content: what is found is what was added, whatever became of the files."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from macrec.core.errors import TryAgain
from macrec.core.storage import gcs_session
from macrec.core.storage.local import LocalStorage
from macrec.core.storage.uris import open_storage
from macrec.data import embedding_cache
from macrec.data.embedding_cache import KEY, EmbeddingCache

DIM = 3


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def keys(*numbers: int | None) -> pa.Array:
    return pa.array([None if n is None else key(n) for n in numbers], KEY)


def vectors(*numbers: int) -> np.ndarray:
    return np.array([[n, n + 0.5, -n] for n in numbers], np.float32)


def filled(uri: object, *numbers: int, encoder: str = "a") -> EmbeddingCache:
    with EmbeddingCache(str(uri), {"model": encoder}, DIM) as cache:
        cache.find(keys(*numbers))
        cache.add([key(n) for n in numbers], vectors(*numbers))
    return cache


def found(uri: object, *numbers: int | None, encoder: str = "a", dim: int = DIM) -> list[object]:
    """The first component of each vector, None for one that is not there."""
    row_K, matrix = EmbeddingCache(str(uri), {"model": encoder}, dim).find(keys(*numbers))
    return [None if row < 0 or matrix is None else matrix[row : row + 1][0, 0] for row in row_K]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def test_what_was_added_is_found_in_the_order_asked_for(tmp_path: Path) -> None:
    assert found(tmp_path, 1) == [None]
    filled(tmp_path, 1, 2, 3)
    filled(tmp_path, 4)
    assert len(files(tmp_path)) == 2
    assert found(tmp_path, 4, None, 9, 2, 4, 1) == [4, None, None, 2, 4, 1]
    row_K, matrix = EmbeddingCache(str(tmp_path), {"model": "a"}, DIM).find(keys(3, 4))
    assert matrix is not None
    np.testing.assert_array_equal(matrix[row_K], vectors(3, 4))


def test_another_encoder_finds_nothing(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    assert found(tmp_path, 1, encoder="b") == [None]
    filled(tmp_path, 1, encoder="b")
    assert found(tmp_path, 1) == found(tmp_path, 1, encoder="b") == [1]


def test_without_a_place_nothing_is_kept() -> None:
    cache = filled("", 1)
    assert not cache.is_enabled and cache.find(keys(1)).row_K.tolist() == [-1]


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "foreign"])
def test_a_damaged_file_is_told_and_never_used(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, 1, 2)
    filled(tmp_path, 3)
    path = files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "foreign":  # whole, but of vectors of another length
        filled(tmp_path / "other", 1)
        [other] = files(tmp_path / "other")
        changed = other.read_bytes().replace(b"vector", b"rotcev")
        path.unlink()
        digest = hashlib.sha256(changed).hexdigest()
        path = path.with_name(f"{path.name[:9]}{digest}.parquet")
        content = bytearray(changed)
    else:
        path.chmod(0o644)
    path.write_bytes({"cut": content[:-9], "empty": b""}.get(harm, bytes(content)))
    assert found(tmp_path, 1, 2, 3) == [None, None, 3]
    assert f"{path.name}: damaged, its vectors are computed again" in caplog.text
    assert not path.exists()
    filled(tmp_path, 1, 2)
    assert found(tmp_path, 1, 2, 3) == [1, 2, 3]


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    filled(tmp_path, 1)
    assert found(tmp_path, 1) == [1]
    assert (tmp_path / "README").read_text() == "mine"


def test_vectors_are_saved_by_time_and_when_the_block_ends_badly(tmp_path: Path) -> None:
    now = [0.0]
    with (
        pytest.raises(SystemExit),
        EmbeddingCache(str(tmp_path), {"model": "a"}, DIM, 60, clock=lambda: now[0]) as cache,
    ):
        cache.add([key(1)], vectors(1))
        assert not files(tmp_path)
        now[0] = 61
        cache.add([key(2)], vectors(2))
        assert found(tmp_path, 1, 2) == [1, 2]
        cache.add([key(3)], vectors(3))
        assert found(tmp_path, 3) == [None]
        raise SystemExit(143)
    assert found(tmp_path, 1, 2, 3) == [1, 2, 3]


def test_vectors_are_saved_when_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "PENDING_BYTES", 4 * DIM * 2)
    cache = EmbeddingCache(str(tmp_path), {"model": "a"}, DIM)
    cache.add([key(1), key(2)], vectors(1, 2))
    assert not files(tmp_path)
    cache.add([key(3)], vectors(3))
    assert found(tmp_path, 1, 2, 3) == [1, 2, 3]


def test_vectors_that_are_not_finite_are_made_again(tmp_path: Path) -> None:
    with EmbeddingCache(str(tmp_path), {"model": "a"}, DIM) as cache:
        broken = vectors(1, 2)
        broken[0, 1] = np.nan
        cache.add([key(1), key(2)], broken)
    assert found(tmp_path, 1, 2) == [None, 2]


def test_a_cache_that_has_grown_keeps_what_the_last_run_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, *range(100))
    filled(tmp_path, *range(100, 200))
    with EmbeddingCache(str(tmp_path), {"model": "a"}, DIM) as cache:
        cache.find(keys(5, 105))
        cache.add([key(300)], vectors(300))
    assert found(tmp_path, 7, 300) == [7, 300]  # small enough to keep what is not used
    monkeypatch.setattr(embedding_cache, "FREE_BYTES", 1)
    monkeypatch.setattr(embedding_cache, "FILE_BYTES", 4 * DIM)
    with EmbeddingCache(str(tmp_path), {"model": "a"}, DIM) as cache:
        cache.find(keys(5, 105, 300))
        cache.add([key(301)], vectors(301))
    assert found(tmp_path, 5, 105, 300, 301, 7, 107) == [5, 105, 300, 301, None, None]
    assert len(files(tmp_path)) == 4  # three of a row each, and that of the run itself


def test_a_run_on_a_part_of_the_items_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, *range(100))
    monkeypatch.setattr(embedding_cache, "FREE_BYTES", 1)
    with EmbeddingCache(str(tmp_path), {"model": "a"}, DIM, keep_all=True) as cache:
        cache.find(keys(5))
    assert found(tmp_path, 5, 6) == [5, 6]


def test_many_small_files_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "MAX_FILES", 3)
    for number in range(3):
        filled(tmp_path, number)
    filled(tmp_path, *range(4))
    assert len(files(tmp_path)) == 2
    assert found(tmp_path, *range(4)) == [0, 1, 2, 3]


def test_caches_of_old_encoders_go(tmp_path: Path) -> None:
    for encoder in "abcdef":
        filled(tmp_path, 1, encoder=encoder)
    left = [e for e in "abcdef" if found(tmp_path, 1, encoder=e) == [1]]
    assert left == ["c", "d", "e", "f"]


def test_a_storage_that_does_not_answer_costs_the_vectors_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(self: LocalStorage, source: Path, name: str) -> None:
        raise TryAgain("no answer")

    monkeypatch.setattr(LocalStorage, "upload", silent)
    filled(tmp_path, 1)
    assert "1 vectors are not cached: no answer" in caplog.text


def test_a_bucket_is_a_place_like_any_other(gcs_server: object) -> None:
    gcs_session.client().create_bucket("embedding-cache")
    uri = "gs://embedding-cache/store/caches/embed_text"
    filled(uri, 1, 2)
    filled(uri, 3)
    assert found(uri, 3, 1, 4) == [3, 1, None]
    name = open_storage(uri).names()[0]
    open_storage(uri).delete(name)
    (_, number, digest) = (name[:16], name[17:25], name[26:90])
    assert number.isdigit() and len(digest) == 64
    assert open_storage(uri).create(name, b"not what was written")
    assert found(uri, 3, 1) == [3, None] or found(uri, 3, 1) == [None, 1]
    assert name not in open_storage(uri).names()
