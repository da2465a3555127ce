"""Encodes pixels as vectors: the model's own preprocessing, forward pass and pooling.

B batch, C channels, H height, W width, P tokens, D components
"""

import inspect
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from components.embed_image.pictures import Geometry
from macrec.compute.device import choose_device
from macrec.core.artifact import Source
from macrec.core.errors import UserError, check
from macrec.core.progress import log
from macrec.data import encoders

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BICUBIC = 3
CPU_PICTURES = 8
"""Images that one CPU core processes together; the cores work on different images."""

# The image towers of text-image models: the class without and the class with the projection into
# the shared space. The projected vector is what CLIP itself calls the image vector.
_TOWERS = {
    "clip": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "clip_vision_model": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "siglip": ("SiglipVisionModel", "SiglipVisionModel"),
}


class Preprocess(NamedTuple):
    """The conversion from an image to the numbers that the model was trained on."""

    geometry: Geometry
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class ImageEncoder:
    """Wraps a ViT of transformers (ViT, DINOv2, CLIP's vision tower) as a function of pixels.

    Attributes:
        dim: components of a vector.
        dtype: precision of the model.
        geometry: how images must be cropped before `encode`.
        size: the side that was asked for, rounded to whole patches; 0 for the model's own.
    """

    def __init__(
        self,
        source: Source,
        *,
        pooling: str = "cls",
        size: int = 0,
        resize: str = "model",
        device: str = "auto",
        dtype: str = "auto",
        batch: int = 32,
    ) -> None:
        """Open the model; at most `batch` images go through it together.

        Raises:
            UserError: the model cannot be opened, is not a ViT, or does not support the pooling.
        """
        self.device = choose_device(device)
        self.dtype = encoders.choose_dtype(dtype, self.device)
        self._batch = min(batch, CPU_PICTURES) if self.device.type == "cpu" else batch
        self._cores = encoders.Cores(self.device)
        location = encoders.Location.of(source)
        config = encoders.load_config(source, location)
        vision, native, patch = _vision(source, config)
        self.size = size = round_to_patches(size, patch)
        class_name = _TOWERS.get(config.model_type, ("AutoModel", "AutoModel"))[pooling == "pooler"]
        self._model = encoders.load_model(
            source, location, device=self.device, dtype=self.dtype, class_name=class_name,
            config=vision if class_name != "AutoModel" else config,
            required="pooler." if pooling == "pooler" else "",
            required_by="embed_image.pooling=pooler",
        )  # fmt: skip
        self._process = read_preprocess(source, location, native, size, resize)
        self.geometry, self._pooling = self._process.geometry, pooling
        side = self.geometry.side
        self._patches = (side // patch) ** 2
        accepted = inspect.signature(self._model.forward).parameters
        interpolates = side != native and "interpolate_pos_encoding" in accepted
        self._options = {"interpolate_pos_encoding": True} if interpolates else {}
        self.dim = self._try_out(source)

    def _try_out(self, source: Source) -> int:
        """Embed a black image, so that an unsuitable model fails before any image is decoded."""
        side = self.geometry.side
        try:
            return self.encode([np.zeros((side, side, 3), np.uint8)]).shape[1]
        except (ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"{source.uri}: fails on pictures of {side} px: {error}") from error

    def encode(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors of images, each uint8 [side, side, 3], as float32 [B, D].

        All batches have one size, so the vector of an image does not depend on the number of
        images.
        """
        starts = range(0, len(pixels), self._batch)
        parts = [pixels[start : start + self._batch] for start in starts]
        return np.concatenate([vectors for _, vectors in self._cores.map(self._forward, parts)])

    @torch.inference_mode()
    def _forward(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        filling = [np.zeros_like(pixels[0])] * (self._batch - len(pixels))
        raw_BHWC = torch.from_numpy(np.stack([*pixels, *filling])).to(self.device)
        mean_C = torch.tensor(self._process.mean, device=self.device)
        std_C = torch.tensor(self._process.std, device=self.device)
        normal_BHWC = (raw_BHWC.float() * self._process.factor - mean_C) / std_C
        pixels_BCHW = normal_BHWC.permute(0, 3, 1, 2).to(self.dtype)
        with encoders.out_of_memory_hint(f"{len(raw_BHWC)} pictures", "embed_image.batch_images"):
            output = self._model(pixel_values=pixels_BCHW, **self._options)
        return self._pool(output)[: len(pixels)].float().cpu().numpy()

    def _pool(self, output: Any) -> torch.Tensor:
        if self._pooling == "pooler":
            vectors_BD = output.get("image_embeds", output.get("pooler_output"))
            check(
                vectors_BD is not None,
                "embed_image.pooling=pooler: the model has no pooled vector. Set "
                "embed_image.pooling=mean.",
            )
            return vectors_BD
        hidden_BPD = output.last_hidden_state
        leading = hidden_BPD.shape[1] - self._patches  # class and register tokens
        check(hidden_BPD.ndim == 3 and leading >= 0, "the model is not a vision transformer.")
        if self._pooling == "mean":
            return hidden_BPD[:, leading:].float().mean(1)
        check(
            leading > 0,
            "embed_image.pooling=cls: the model has no class token. Set embed_image.pooling=mean.",
        )
        return hidden_BPD[:, 0]


def _vision(source: Source, config: Any) -> tuple[Any, int, int]:
    """Return the config of the image tower, and the sides of its input and of its patches."""
    vision: Any = getattr(config, "vision_config", config)
    if vision is not config and hasattr(config, "projection_dim"):
        # set by the whole model's config; the vision config's own value is ignored
        vision.projection_dim = config.projection_dim
    native, patch = _square(vision, "image_size"), _square(vision, "patch_size")
    check(
        native > 0 and patch > 0,
        f"{source.uri}: model type {config.model_type!r} has no image_size and patch_size, so it "
        "is not a vision transformer.",
    )
    return vision, native, patch


def check_image_encoder(source: Source, size: int = 0, resize: str = "model") -> None:
    """Open all of an image encoder but its weights.

    Raises:
        UserError: the model cannot be opened or is not a ViT.
    """
    location = encoders.Location.of(source)
    _, native, patch = _vision(source, encoders.load_config(source, location))
    read_preprocess(source, location, native, round_to_patches(size, patch), resize)


def round_to_patches(size: int, patch: int) -> int:
    """Return the multiple of the patch side that is nearest to a side in pixels, and log a change.

    Args:
        size: the setting embed_image.size; 0 stays 0.
        patch: side of the model's patches in pixels.
    """
    rounded = max(patch, (size + patch // 2) // patch * patch) if size else 0
    if rounded != size:
        log.info(
            "embed_image.size=%d is not a multiple of the model's patch of %d px: %d px are used",
            *(size, patch, rounded),
        )
    return rounded


def _square(config: Any, name: str) -> int:
    """Return a side given as a number or as [height, width]; 0 if there is none."""
    value = getattr(config, name, 0) or 0
    return int(value[0] if isinstance(value, list | tuple) else value)


def read_preprocess(
    source: Source, location: encoders.Location, native: int, size: int, resize: str
) -> Preprocess:
    """Return the preprocessing that the model folder states, or ImageNet's if it states none.

    Args:
        source: named in messages.
        location: where the model is.
        native: side of the model's own input in pixels.
        size: side that the user asks for; 0 for the model's own.
        resize: "model", "crop" or "squash".
    """
    fields: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = encoders.find_file(source, location, name)
        if path and not fields:
            content = json.loads(path.read_text(encoding="utf-8"))
            fields = content.get("image_processor", {} if name.startswith("proc") else content)
    try:
        return _preprocess(fields, native, size, resize)
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{source.uri}: its image processor is not supported ({error!r}). Delete its "
            "preprocessor_config.json to use the usual one."
        ) from error


def _preprocess(fields: dict[str, Any], native: int, size: int, resize: str) -> Preprocess:
    stated: Any = fields.get("size", {"shortest_edge": native})
    if isinstance(stated, int):  # in old files a number is the shorter side if the processor crops
        kind = ("shortest_edge",) if fields.get("do_center_crop") else ("height", "width")
        stated = dict.fromkeys(kind, stated)
    squash = "shortest_edge" not in stated
    resized = int(stated["height"] if squash else stated["shortest_edge"])
    crop: Any = fields.get("crop_size", resized) if fields.get("do_center_crop", True) else resized
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    side = int(crop["height"])
    keeps_aspect = not squash and not fields.get("do_center_crop", True)
    if keeps_aspect or crop["width"] != side or (squash and stated["width"] != resized):
        raise ValueError("only square inputs are supported")
    if side > resized:
        raise ValueError(f"it crops {side} out of {resized} pixels")
    if size:
        side, resized = size, round(resized * size / side)
    if resize != "model":
        squash = resize == "squash"
        resized = side if squash else resized  # squashing keeps the whole image
    normalises = fields.get("do_normalize", True)
    return Preprocess(
        Geometry(side, resized, squash, int(fields.get("resample", BICUBIC))),
        float(fields.get("rescale_factor", 1 / 255)),
        tuple(fields.get("image_mean", IMAGENET_MEAN)) if normalises else (0.0,) * 3,
        tuple(fields.get("image_std", IMAGENET_STD)) if normalises else (1.0,) * 3,
    )
