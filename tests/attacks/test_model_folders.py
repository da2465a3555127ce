"""Model folders that want to run code, or to be more than they are: refused by the real stage."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from components.embed_image.image_encoder import ImageEncoder
from components.embed_text.text_encoder import TextEncoder
from macrec.core.artifact import Source
from macrec.core.errors import UserError
from macrec.core.storage.uris import content_digest
from tests.attacks.limited import MIB, idle_peak, run_stage


class Sentinel:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def header(folder: Path, change: Callable[[dict], object]) -> None:
    """Rewrites the header of the safetensors file, whose length stays true."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    fields = json.loads(content[8 : 8 + size])
    change(fields)
    written = json.dumps(fields).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + size :])


def length(folder: Path, forged: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", forged) + path.read_bytes()[8:])


def first(fields: dict) -> dict:
    return next(value for name, value in fields.items() if name != "__metadata__")


def pickled(folder: Path, ran: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Sentinel(ran)))


def pickled_shards(folder: Path, ran: Path) -> None:
    pickled(folder, ran)
    (folder / "pytorch_model.bin").rename(folder / "shard.bin")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "shard.bin"}}
    for name in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
        (folder / name).write_text(json.dumps(index))


def own_code(folder: Path, ran: Path) -> None:
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass C: ...\n")
    classes = {"AutoConfig": "own.C", "AutoModel": "own.C", "AutoTokenizer": ["own.C", "own.C"]}
    edit(folder / "config.json", lambda c: c.update(model_type="own", auto_map=classes))


def nested(path: Path, depth: int = 100_000) -> None:
    path.write_text('{"a":' * depth + "1" + "}" * depth)


MODELS: dict[str, Callable[[Path, Path], object]] = {
    "pickled weights": pickled,
    "pickled weights named as shards": pickled_shards,
    "code of its own": own_code,
    "length beyond the file": lambda folder, _: length(folder, 1 << 40),
    "length beyond all files": lambda folder, _: length(folder, (1 << 64) - 1),
    "no length": lambda folder, _: (folder / "model.safetensors").write_bytes(b"\0\0\0"),
    "a tensor beyond the file": lambda folder, _: header(
        folder, lambda fields: first(fields).update(data_offsets=[0, 1 << 40], shape=[1 << 38])
    ),
    "tensors on each other": lambda folder, _: header(
        folder, lambda fields: first(fields).update(data_offsets=[0, 8])
    ),
    "a shape of 2^64 numbers": lambda folder, _: header(
        folder, lambda fields: first(fields).update(shape=[1 << 32, 1 << 32, 4])
    ),
    "other shapes than it says": lambda folder, _: edit(
        folder / "config.json", lambda c: c.update(hidden_size=64)
    ),
    "sizes beyond all memory": lambda folder, _: edit(
        folder / "config.json", lambda c: c.update(hidden_size=1 << 30, intermediate_size=1 << 30)
    ),
    "a billion layers": lambda folder, _: edit(
        folder / "config.json", lambda c: c.update(num_hidden_layers=10**9)
    ),
    "a deep config": lambda folder, _: nested(folder / "config.json"),
    "a config that is a list": lambda folder, _: (folder / "config.json").write_text("[1]"),
    "a config of text": lambda folder, _: edit(
        folder / "config.json", lambda c: c.update(hidden_size="many", num_hidden_layers=None)
    ),
    "no heads": lambda folder, _: edit(
        folder / "config.json", lambda c: c.update(num_attention_heads=0)
    ),
    "weights that lead elsewhere": lambda folder, _: (
        (folder / "model.safetensors").rename(folder.parent / "weights"),
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": "../weights"}})
        ),
    ),
}
TOKENIZERS: dict[str, Callable[[Path, Path], object]] = {
    "a deep tokenizer": lambda folder, _: nested(folder / "tokenizer.json"),
    "a deep pre-tokenizer": lambda folder, _: (folder / "tokenizer.json").write_text(
        '{"version":"1.0","pre_tokenizer":' + '{"type":"Sequence","pretokenizers":[' * 50_000
    ),
    "no tokenizer": lambda folder, _: (folder / "tokenizer.json").write_text("{}"),
    "a tokenizer of its own": lambda folder, ran: (
        (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass C: ...\n"),
        edit(
            folder / "tokenizer_config.json",
            lambda c: c.update(auto_map={"AutoTokenizer": ["own.C", "own.C"]}, tokenizer_class="C"),
        ),
        (folder / "tokenizer.json").unlink(),
    ),
}


@pytest.fixture
def ran(tmp_path) -> Path:
    """A file that is there as soon as foreign code has run."""
    return tmp_path / "ran"


def hostile(encoder: Path, folder: Path, change: Callable[[Path, Path], object], ran: Path) -> Path:
    shutil.copytree(encoder, folder)
    change(folder, ran)
    return folder


@pytest.mark.case(37)
@pytest.mark.parametrize("name", [*MODELS, *TOKENIZERS])
def test_a_text_model_is_refused_and_nothing_of_it_runs(encoders, tmp_path, ran, name):
    folder = hostile(encoders.text, tmp_path / "m", {**MODELS, **TOKENIZERS}[name], ran)
    with pytest.raises(UserError, match="/m: ") as refused:
        TextEncoder(Source(str(folder)), device="cpu")
    assert len(str(refused.value)) < 1_000
    assert not ran.exists()


@pytest.mark.case(37)
@pytest.mark.parametrize("name", MODELS)
def test_a_picture_model_is_refused_and_nothing_of_it_runs(encoders, tmp_path, ran, name):
    folder = hostile(encoders.image, tmp_path / "m", MODELS[name], ran)
    with pytest.raises(UserError, match="/m: "):
        ImageEncoder(Source(str(folder)), device="cpu")
    assert not ran.exists()


@pytest.mark.case(37)
def test_pickle_would_have_run(ran):
    """The sentinel works: what the other tests look for is what an unpickling leaves."""
    pickle.loads(pickle.dumps(Sentinel(ran))).close()
    assert ran.exists()


@pytest.mark.case(37)
@pytest.mark.parametrize("name", ["code of its own"])
def test_the_stage_ends_with_its_message_and_little_memory(
    encoders, make_items, tmp_path, ran, name
):
    folder = hostile(encoders.text, tmp_path / "m", MODELS[name], ran)
    ended = run_stage(
        "embed_text",
        tmp_path,
        *("--items", make_items(tmp_path / "items", [None], ["x"]).path, "--model", folder),
        *("--set=device=cpu", "--out", tmp_path / "out"),
    )
    assert ended.code == 2 and "Traceback" not in ended.log, ended.log
    assert "code of a model folder is never run" in ended.log
    assert not ran.exists()
    held = ended.peak - idle_peak(tmp_path, "components.embed_text.text_encoder")
    assert held < 450 * MIB, f"{held / MIB:.0f} MiB"


@pytest.mark.case(37)
def test_a_model_changed_since_the_snapshot_is_refused(encoders, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(encoders.text, folder)
    known = content_digest(str(folder))
    TextEncoder(Source(str(folder), snapshot=known), device="cpu")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="/m: has changed since"):
        TextEncoder(Source(str(folder), snapshot=known), device="cpu")
