"""The quantizer model, which turns the embeddings of an item into latents and codes.

Each modality has its own encoder, decoder and L codebooks. There are three kinds:

    rqvae     MLP encoder and decoder, learned codebooks
    rqkmeans  no network: the latent is the normalised embedding, codebooks by k-means
    fsq       MLP encoder and decoder, latents bounded by tanh, codebooks on a fixed grid

Shape suffixes: N items, B batch, E embedding size, D latent size, L levels, M codebook size.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from macrec.core.errors import UserError, check
from macrec.tokenizer.residual_quantization import (
    Choose,
    Quantization,
    choose_among_present,
    nearest,
    residual_quantize,
    shared_codes,
)

MODALITIES = ("text", "image")
FORMAT = "macrec-quantizer-2"
ROWS = 8192  # items encoded at once

Tokenizer = Literal["rqvae", "rqkmeans", "fsq"]


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec:
    """All settings that determine the shapes of a quantizer; saved as config.json."""

    text_dim: int
    """Components of a text vector; 0 for a quantizer without text."""
    image_dim: int
    """Components of an image vector; 0 for a quantizer without images."""
    tokenizer: Tokenizer = "rqvae"
    latent_dim: int = 32
    """Components of a latent; "rqkmeans" uses the size of the embedding instead."""
    projection: int = 0
    """Size of a linear map before the encoder and after the decoder; 0 for none."""
    hidden: tuple[int, ...] = (256, 128)
    levels: int = 4
    codebook_size: int = 256
    shared_levels: int = 0
    """Number of first codes that the text and the image of an item share."""

    @property
    def dims(self) -> dict[str, int]:
        """Embedding size of each modality of the quantizer."""
        dims = {"text": self.text_dim, "image": self.image_dim}
        return {name: dim for name, dim in dims.items() if dim}


class Encoding(NamedTuple):
    """Latents (float32) and codes (int64) of all rows, on the model's device."""

    latents_ND: Tensor
    codes_NL: Tensor


def _mlp(sizes: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return layers[:-1]


class ModalityQuantizer(nn.Module):
    """Encoder, codebooks and decoder of one modality.

    Inputs are centred and divided by a single number, the root of the mean variance. This
    preserves angles, and a squared error of 1 per component means that nothing is explained.
    """

    mean_E: Tensor
    scale: Tensor

    def __init__(self, dim: int, spec: QuantizerSpec) -> None:
        super().__init__()
        self.dim, self.latent_dim = dim, spec.latent_dim
        if spec.tokenizer == "rqkmeans":
            self.latent_dim = dim
            self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        else:
            project = [dim, spec.projection] if spec.projection else [dim]
            sizes = [project[-1], *spec.hidden, spec.latent_dim]
            bound = [nn.Tanh()] if spec.tokenizer == "fsq" else []
            self.encoder = nn.Sequential(*_mlp(project), *_mlp(sizes), *bound)
            self.decoder = nn.Sequential(*_mlp(sizes[::-1]), *_mlp(project[::-1]))
        self.codebooks = nn.ParameterList(
            nn.Parameter(torch.randn(spec.codebook_size, self.latent_dim) * 0.1)
            for _ in range(spec.levels)
        )
        self.register_buffer("mean_E", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def normalize(self, embedding_BE: Tensor) -> Tensor:
        """Return the encoder's input, float32; it is also the target of the reconstruction."""
        return (embedding_BE.to(self.mean_E.device, self.mean_E.dtype) - self.mean_E) / self.scale

    def quantize(self, latent_BD: Tensor, **options: Any) -> Quantization:
        """Call `residual_quantize` with this modality's codebooks."""
        return residual_quantize(latent_BD, list(self.codebooks), **options)


class CrossModalQuantizer(nn.Module):
    """One `ModalityQuantizer` per modality of the spec; `seed` determines the initial weights."""

    def __init__(self, spec: QuantizerSpec, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for name, dim in spec.dims.items():
                self.add_module(name, ModalityQuantizer(dim, spec))

    def modality(self, name: str) -> ModalityQuantizer:
        """Return the part of one modality; KeyError if the quantizer does not have it."""
        part = self._modules[name]
        assert isinstance(part, ModalityQuantizer)
        return part

    def parts(self) -> dict[str, ModalityQuantizer]:
        """Return the parts by modality."""
        return {name: self.modality(name) for name in self.spec.dims}

    def quantize(
        self,
        latents: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        choose: Choose = nearest,
        *,
        live: bool = True,
    ) -> dict[str, Quantization]:
        """Quantize all modalities of a batch; `present` [B] marks the rows that have a modality."""
        given: Tensor | None = None
        if shared := self.spec.shared_levels:
            books = {name: list(part.codebooks) for name, part in self.parts().items()}
            given = shared_codes(latents, books, present, shared, choose)
        return {
            name: part.quantize(
                latents[name],
                choose=choose_among_present(present[name], choose),
                given_BS=given,
                live=live,
            )
            for name, part in self.parts().items()
        }

    @torch.no_grad()
    def encode_chunks(
        self,
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        rows: int = ROWS,
    ) -> Iterator[dict[str, Encoding]]:
        """Yield latents and codes of raw embeddings, chunk by chunk.

        The embeddings may be on another device. The codes of an item depend only on the item. Rows
        that are not present contain the latent of the mean embedding and meaningless codes.
        """
        device = next(self.parameters()).device
        count = len(next(iter(embeddings.values())))
        for start in range(0, count, rows):
            latents: dict[str, Tensor] = {}
            here: dict[str, Tensor] = {}
            for name, part in self.parts().items():
                here[name] = present[name][start : start + rows].to(device)
                normalized_BE = part.normalize(embeddings[name][start : start + rows])
                latents[name] = part.encoder(normalized_BE.where(here[name][:, None], 0.0))
            quantized = self.quantize(latents, here)
            yield {name: Encoding(latents[name], quantized[name].codes_BL) for name in latents}

    def encode(
        self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor], rows: int = ROWS
    ) -> dict[str, Encoding]:
        """Return the latents and codes of `encode_chunks`, concatenated."""
        chunks = list(self.encode_chunks(embeddings, present, rows))
        return {
            name: Encoding(
                torch.cat([chunk[name].latents_ND for chunk in chunks]),
                torch.cat([chunk[name].codes_NL for chunk in chunks]),
            )
            for name in self.spec.dims
        }

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors (MLPs, normalisation) and codebooks.safetensors.

        The codebooks are in a separate file for readers without torch. It contains one tensor
        [L, M, D] per modality, under the modality's name.
        """
        config = json.dumps({"format": FORMAT, **asdict(self.spec)}, indent=2)
        (folder / "config.json").write_text(config + "\n", encoding="utf-8")
        tensors = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        stacked = {
            name: torch.stack([tensors.pop(key) for key in self._codebook_keys(name)])
            for name in self.spec.dims
        }
        save_file(tensors, folder / "model.safetensors")
        save_file(stacked, folder / "codebooks.safetensors")

    def _codebook_keys(self, modality: str) -> list[str]:
        return [f"{modality}.codebooks.{level}" for level in range(self.spec.levels)]

    def load(self, folder: Path) -> None:
        """Load the tensors that `save` wrote; RuntimeError if their shapes differ."""
        tensors = load_file(folder / "model.safetensors")
        stacked = load_file(folder / "codebooks.safetensors")
        for name in self.spec.dims:
            keys = self._codebook_keys(name)
            tensors |= dict(zip(keys, stacked[name].unbind(), strict=True))
        self.load_state_dict(tensors, assign=True)


def load_quantizer(folder: Path, device: torch.device | str = "cpu") -> CrossModalQuantizer:
    """Load a quantizer that `save` wrote, in evaluation mode.

    Raises:
        UserError: the folder is incomplete, or was not written by `save`.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config.pop("format", None)
        check(found == FORMAT, f"{folder}/config.json: format is {found!r}, expected {FORMAT!r}")
        spec = QuantizerSpec(**{**config, "hidden": tuple(config["hidden"])})
        # Create shapes only, so that a forged size is rejected before it takes memory.
        with torch.device("meta"):
            model = CrossModalQuantizer(spec)
        model.load(folder)
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError
    ) as error:  # fmt: skip
        message = f"{folder}: not a readable quantizer ({error}); run the quantize stage again"
        raise UserError(message) from error
    return model.to(device).eval()
