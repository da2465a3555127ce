"""Model folders are checked without torch and without their weights."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from macrec.data import encoder_folder
from macrec.data.encoder_folder import refuse_encoder
from macrec.sample.sample_encoders import SampleEncoders, make_tiny_encoders


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SampleEncoders:
    return make_tiny_encoders(tmp_path_factory.mktemp("encoders"))


def set_config(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def shards(*names: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        weight_map = {str(k): name for k, name in enumerate(names)}
        index = {"weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def replace_weights(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def test_good_folders_have_no_problem(tiny: SampleEncoders, tmp_path: Path) -> None:
    assert refuse_encoder("encoder_text", str(tiny.text), "text") == []
    assert refuse_encoder("encoder_image", str(tiny.image), "image") == []
    assert refuse_encoder("encoder_text", "hub:org/model@main", "text") == []
    shutil.copytree(tiny.text, tmp_path / "m")
    shards("model-1.safetensors")(tmp_path / "m")
    assert refuse_encoder("encoder_text", str(tmp_path / "m"), "text") == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be used"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5), "config.json cannot"),
        (set_config(hidden_size=10**9), "hidden_size=1000000000"),
        (set_config(model_type=""), "no model_type"),
        (set_config(is_encoder_decoder=True), "not a plain text encoder"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in safetensors"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pytorch_model.bin: save the model in safetensors",
        ),
        (cut, "model.safetensors has"),
        (replace_weights(b""), "not complete"),
        (replace_weights(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (replace_weights(struct.pack("<Q", 5) + b"hello"), "damaged header"),
        (replace_weights(struct.pack("<Q", 1 << 60) + b"hello"), "not complete"),
        (shards("model-1.safetensors", "model-2.safetensors"), "1 of 2 files of weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    ],
)
def test_folders_that_are_refused(
    tiny: SampleEncoders, tmp_path: Path, change: Callable[[Path], object], part: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny.text, folder)
    change(folder)
    problems = refuse_encoder("encoder_text", str(folder), "text")
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"encoder_text={folder}: ") and part in problems[0], problems


def test_an_encoder_of_the_other_modality_is_refused(tiny: SampleEncoders, tmp_path: Path) -> None:
    (problem,) = refuse_encoder("encoder_image", str(tiny.text), "image")
    assert "not a vision transformer" in problem
    problems = refuse_encoder("encoder_text", str(tiny.image), "text")
    assert any("not a plain text encoder" in problem for problem in problems)
    (tmp_path / "file").touch()
    (problem,) = refuse_encoder("encoder_text", str(tmp_path / "file"), "text")
    assert "not a folder" in problem


def test_a_bucket_is_listed_and_only_its_config_is_read(
    tiny: SampleEncoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    class Bucket:
        def names(self) -> list[str]:
            return ["config.json", "model.safetensors"]

        def read(self, name: str) -> bytes:
            read.append(name)
            return (tiny.text / name).read_bytes()

    monkeypatch.setattr(encoder_folder, "open_storage", lambda uri: Bucket())
    (problem,) = refuse_encoder("encoder_text", "gs://shop/text", "text")
    assert "no tokenizer" in problem and read == ["config.json"]


def test_the_check_needs_no_torch(tiny: SampleEncoders) -> None:
    program = (
        "import sys; from macrec.data.encoder_folder import refuse_encoder\n"
        f"assert not refuse_encoder('encoder_text', {str(tiny.text)!r}, 'text')\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
