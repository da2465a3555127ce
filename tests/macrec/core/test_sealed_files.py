"""Sealed files: what is read is what was written, or it is absent or damaged."""

import json

import pytest

from macrec.core.sealed_files import DamagedFile, SealedFiles


@pytest.fixture
def sealed(tmp_path):
    return SealedFiles(str(tmp_path / "folder"), ".bin", "shard")


def write(sealed, tmp_path, name="a", content=b"rows"):
    path = tmp_path / "local"
    path.write_bytes(content)
    return sealed.write(name, path, {"step": 3})


def test_a_file_comes_back_with_its_facts(sealed, tmp_path):
    names = write(sealed, tmp_path)
    assert sorted(names) == sorted(sealed.storage.names()) == sorted(sealed.files("a"))
    content = sealed.read("a", tmp_path / "copy")
    assert content["step"] == 3 and (tmp_path / "copy").read_bytes() == b"rows"
    assert sealed.read("b", tmp_path / "none") is None and not (tmp_path / "none").exists()


def test_without_its_manifest_a_file_is_absent(sealed, tmp_path):
    write(sealed, tmp_path)
    (tmp_path / "folder" / "a.json").unlink()
    assert sealed.read("a", tmp_path / "copy") is None


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"content": {}, "digest": ""}'])
def test_a_manifest_that_is_none_is_damaged(sealed, tmp_path, content):
    write(sealed, tmp_path)
    path = tmp_path / "folder" / "a.json"
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="manifest"):
        sealed.read("a", tmp_path / "copy")


def test_another_fact_or_content_is_damage(sealed, tmp_path):
    file, manifest = (tmp_path / "folder" / name for name in write(sealed, tmp_path))
    for path in (file, manifest):
        path.chmod(0o644)
    good = manifest.read_text()
    changed = json.loads(good)
    changed["content"]["step"] = 4
    manifest.write_text(json.dumps(changed))
    with pytest.raises(DamagedFile, match="not what was written"):
        sealed.read("a", tmp_path / "copy")
    manifest.write_text(good)
    file.write_bytes(b"wors")
    with pytest.raises(DamagedFile, match="SHA-256"):
        sealed.read("a", tmp_path / "copy")
    file.unlink()
    with pytest.raises(DamagedFile, match="absent"):
        sealed.read("a", tmp_path / "copy")
