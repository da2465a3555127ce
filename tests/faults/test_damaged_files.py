"""Files cut short and flipped bits, in everything that a run has written."""

import contextlib
import json
import random
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest

from macrec.core.artifact import MANIFEST, Artifact, json_digest
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import UserError
from macrec.core.store import ArtifactStore
from macrec.data.embedding_cache import KEY, EmbeddingCache

SEED = 14


def flipped(content, rng):
    """The content with one bit flipped; of JSON a bit that tells, not in a number's 17th digit."""
    at, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
    found = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
    with contextlib.suppress(ValueError):
        if json.loads(found) == json.loads(content):
            return flipped(content, rng)
    return found


def cuts(size, count, rng):
    """Lengths that a file may be cut to: all of them if they are few, else both ends and some."""
    if size <= count:
        return range(size)
    return sorted({0, 1, size - 1, *(rng.randrange(size) for _ in range(count - 3))})


@pytest.fixture
def copies(small_run, tmp_path):
    """Files of every artifact of the run, copies that may be damaged: by kind of file."""
    kinds = {}
    for name, path in small_run.artifacts.items():
        shutil.copytree(path, tmp_path / name)
        for file in sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()):
            file.chmod(0o644)
            kind = "manifest" if file.name == MANIFEST else file.suffix
            kinds.setdefault(kind, []).append((tmp_path / name, file))
    assert {"manifest", ".parquet", ".safetensors", ".json"} <= set(kinds)
    return kinds


def refusal(folder):
    """What a reader of the artifact is told."""
    with pytest.raises(UserError) as told:
        Artifact.open(folder).verify()
    return str(told.value)


@pytest.mark.case(14)
def test_a_flipped_bit_in_an_artifact_is_refused(copies, sized, trials):
    rng, each = random.Random(SEED), sized(15, 300)
    for kind, files in copies.items():
        for _ in range(each):
            folder, file = rng.choice(files)
            content = file.read_bytes()
            file.write_bytes(flipped(content, rng))
            assert str(file) in refusal(folder)
            file.write_bytes(content)
            Artifact.open(folder).verify()
        trials(f"flipped bits refused ({kind})", each)


@pytest.mark.case(13)
def test_a_file_of_an_artifact_that_was_cut_is_refused(copies, sized, trials):
    rng, each = random.Random(SEED), sized(40, 2000)
    for kind, files in copies.items():
        folder, file = min(files, key=lambda f: f[1].stat().st_size)
        content = file.read_bytes()
        lengths = cuts(len(content), each, rng)
        for length in lengths:
            file.write_bytes(content[:length])
            told = refusal(folder)
            assert str(file) in told
            if kind != "manifest":
                assert f"{length:,} bytes, the manifest says {len(content):,} bytes" in told
        file.unlink()
        assert ("no manifest.json" if kind == "manifest" else "absent") in refusal(folder)
        file.write_bytes(content)
        trials(f"cut files refused ({kind})", len(lengths) + 1)


def resealed(path, **changes):
    """A manifest that was changed by someone who knows how it is sealed."""
    manifest = json.loads((path / MANIFEST).read_bytes()) | changes
    content = {k: manifest[k] for k in ("format", "schema", "metadata", "files")}
    manifest["digest"] = json_digest(content)
    manifest["manifest_digest"] = json_digest({**manifest, "manifest_digest": None})
    (path / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.case(15)
def test_a_manifest_that_is_wrong_is_refused_and_surplus_files_are_ignored(copies, tmp_path):
    folder, file = next(f for f in copies[".parquet"] if f[0].name == "items")
    whole = (folder / MANIFEST).read_bytes()
    rows = Artifact.open(folder).table().num_rows
    for name in ("part-99999.parquet", "surplus.json", ".hidden"):
        shutil.copyfile(file, folder / name)
    opened = Artifact.open(folder).verify()
    assert opened.rows == opened.table().num_rows == rows and not opened.has("surplus.json")

    entry = json.loads(whole)["files"][0]
    shutil.copyfile(file, tmp_path / "outside")
    for name in ("../outside", str(tmp_path / "outside")):
        resealed(folder, files=[entry | {"name": name}])
        assert "outside of the artifact" in refusal(folder)
    (folder / "link").symlink_to(tmp_path / "outside")
    resealed(folder, files=[entry | {"name": "link"}])
    assert "outside of the artifact" in refusal(folder)
    for changes, told in [
        ({"files": [entry | {"name": "other.parquet"}]}, "other.parquet: absent"),
        ({"files": [entry | {"sha256": "0" * 64}]}, "content differs from its manifest"),
        ({"format": 99}, "artifact format 99"),
        ({"files": "none"}, "damaged"),
    ]:
        if changes.get("files") != "none":
            resealed(folder, **changes)
        else:
            (folder / MANIFEST).write_text(json.dumps(json.loads(whole) | changes))
        assert told in refusal(folder)
    for content in (b"", b"[]", b"null", b"{}", b"\xff\xfe", b"1" * 5000):
        (folder / MANIFEST).write_bytes(content)
        assert f"{MANIFEST}: damaged" in refusal(folder)


@pytest.mark.case(13, 14)
def test_a_damaged_record_of_the_store_is_refused(small_run, tmp_path, sized, trials):
    rng, each, refused = random.Random(SEED), sized(3, 30), 0
    for path in sorted((small_run.out / "store" / "records").rglob("*.json")):
        stage, name = path.parent.name, path.stem
        copy = tmp_path / "store" / "records" / stage / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        content, store = path.read_bytes(), ArtifactStore(str(tmp_path / "store"))
        changed = [flipped(content, rng) for _ in range(each)]
        changed += [content[:length] for length in cuts(len(content), each + 3, rng)]
        for damaged in changed:
            copy.write_bytes(damaged)
            with pytest.raises(UserError, match=f"{re.escape(str(copy))}: damaged"):
                store.find(stage, name)
            refused += 1
        copy.write_bytes(content)
        assert store.find(stage, name)
    trials("damaged records refused", refused)


@pytest.mark.case(13, 14)
def test_a_damaged_blob_of_the_store_is_computed_again(toy_stage, numbers, tmp_path, sized, trials):
    from macrec.core.artifact import DatasetOutput, HtmlOutput
    from macrec.core.executor import execute

    rng, given = random.Random(SEED), Artifact.open(numbers(1, 2, 3))
    store = ArtifactStore(str(tmp_path / "store"))

    def run(name):
        outputs = toy_stage.Outputs(
            repeated=DatasetOutput(tmp_path / name / "r"), page=HtmlOutput(tmp_path / name / "p")
        )
        inputs, config = toy_stage.Inputs(numbers=given), toy_stage.Settings()
        result = execute(
            toy_stage.STAGE, config, inputs, outputs, toy_stage.Execution(), store=store
        )
        return result.reused, Artifact.open(tmp_path / name / "r").verify().digest

    _, digest = run("first")
    assert run("second") == (True, digest)
    count = sized(10, 150)
    for n in range(2 * count):
        blob = rng.choice(sorted(p for p in (tmp_path / "store/blobs").rglob("*") if p.is_file()))
        content = blob.read_bytes()
        blob.unlink()  # which is a link to the file of an output
        blob.write_bytes(flipped(content, rng) if n % 2 else content[: rng.randrange(len(content))])
        assert run("again") == (False, digest)
        assert run("again") == (True, digest)
    trials("damaged blobs computed again", 2 * count)


@pytest.mark.case(13, 14)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, sized, trials):
    import torch

    states = [{"weights": torch.full((4, 3), float(n)), "step": n} for n in range(3)]

    def saved(folder):
        checkpoints = Checkpoints(str(tmp_path / folder), 0.0)
        for step in (1, 2):
            checkpoints.save(step, states[step])
        return sorted((tmp_path / folder).iterdir())[2:]  # of step 2: manifest and tensors

    rng, each = random.Random(SEED), sized(15, 300)
    for which in (0, 1):
        for n in range(2 * each):
            path = saved(f"{which}-{n}")[which]
            content = path.read_bytes()
            path.chmod(0o644)
            cut = content[: rng.randrange(len(content))]
            path.write_bytes(flipped(content, rng) if n % 2 else cut)
            found = Checkpoints(str(path.parent)).latest()
            assert found is not None and found.step == 1
            assert torch.equal(found.state["weights"], states[1]["weights"])
            shutil.rmtree(path.parent)
    trials("damaged checkpoints passed over", 4 * each)


@pytest.mark.case(13, 14)
def test_a_damaged_file_of_the_embedding_cache_is_passed_over(tmp_path, sized, trials):
    rng, vectors = random.Random(SEED), np.arange(12, dtype=np.float32).reshape(3, 4)
    keys = [bytes([n]) * 32 for n in range(3)]
    for n in range(count := sized(30, 600)):
        uri = str(tmp_path / f"cache-{n}")
        with EmbeddingCache(uri, {}, 4) as cache:
            cache.find(pa.array(keys, KEY))
            cache.add(keys, vectors)
        (path,) = (p for p in (tmp_path / f"cache-{n}").rglob("*") if p.is_file())
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(flipped(content, rng) if n % 2 else content[: rng.randrange(len(content))])
        found = EmbeddingCache(uri, {}, 4).find(pa.array(keys, KEY))
        assert found.matrix is None and (found.row_K == -1).all() and not path.exists()
    trials("damaged cache files passed over", count)
