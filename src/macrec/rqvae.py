"""The cross-modal residual quantizer (arXiv 2511.15122, "cross-modal quantization").

Each modality has an encoder, a decoder and L codebooks of its own; the losses tie them together.

    z = encoder(x);  r_0 = z;  c_l = argmin_k |r_l - e_l,k|;  r_l+1 = r_l - sg[e_l,c];
    zhat = sum_l e_l,c;  the decoder reads z + sg[zhat - z] (straight-through).

Where the gradient of each loss goes (the tests hold every line of this table):

    reconstruction     encoder (straight-through) and decoder, no codebook
    rq, codebook part  the codebook of its own level
    rq, commitment     encoder
    contrastive at l   encoder, through r_l; no codebook, because r_l takes the codewords detached
    align              what `align_gradient` says: "codebooks" takes the raw sum of codewords, whose
                       gradient reaches all levels' codebooks and NOT the encoder; the encoder then
                       follows only by commitment to the codewords that moved. "encoder" is the
                       straight-through sum, "both" gives the same gradient to both.

Shape suffixes: N items, B batch, E embedding size, D latent size, L levels, M codebook size,
Q pairs.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from macrec.errors import UserError, check

MODALITIES = ("text", "image")
FORMAT = "macrec-quantizer-1"

AlignGradient = Literal["codebooks", "encoder", "both"]
SquaredError = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec:
    """Everything that fixes the shapes of a quantizer; saved as config.json."""

    text_dim: int
    image_dim: int
    latent_dim: int = 32
    projection: int = 0
    """Size of a linear map before the encoder and after the decoder; 0 for none."""
    hidden: tuple[int, ...] = (256, 128)
    levels: int = 4
    codebook_size: int = 256


class Quantized(NamedTuple):
    """What residual quantization of a batch gives; `residuals[l]` is what level l quantizes."""

    codes_BL: Tensor
    residuals: list[Tensor]  # L of [B, D]
    codewords: list[Tensor]  # L of [B, D]
    codeword_sum_BD: Tensor


class Encoded(NamedTuple):
    """Latents (float32) and codes (int64) of all rows, on the model's device."""

    latents_ND: Tensor
    codes_NL: Tensor


def nearest_codes(residual_BD: Tensor, codebook_MD: Tensor) -> Tensor:
    """Index of the nearest codeword of each row, int64 [B]; the lowest index wins a tie."""
    # |r|^2 is the same for every codeword of a row, so the order does not need it.
    partial_BM = codebook_MD.square().sum(1) - 2 * residual_BD @ codebook_MD.T
    return partial_BM.argmin(1)


def residual_quantize(latent_BD: Tensor, codebooks: Sequence[Tensor]) -> Quantized:
    """Quantizes level by level; `codebooks` are L tensors [M, D]."""
    residual_BD = latent_BD
    codes: list[Tensor] = []
    residuals: list[Tensor] = []
    codewords: list[Tensor] = []
    for codebook_MD in codebooks:
        codes_B = nearest_codes(residual_BD.detach(), codebook_MD.detach())
        codeword_BD = codebook_MD[codes_B]
        codes.append(codes_B)
        residuals.append(residual_BD)
        codewords.append(codeword_BD)
        # Detached, not straight-through: r - (r + sg[e - r]) has no gradient at all, and nothing
        # past level 0 would train; not raw, or the losses of a level would pull the levels above.
        residual_BD = residual_BD - codeword_BD.detach()
    codeword_sum_BD = torch.stack(codewords).sum(0)
    return Quantized(torch.stack(codes, 1), residuals, codewords, codeword_sum_BD)


def straight_through(latent_BD: Tensor, codeword_sum_BD: Tensor) -> Tensor:
    """The value of the codeword sum with the gradient of the latent."""
    return latent_BD + (codeword_sum_BD - latent_BD).detach()


# Losses. Every one leaves out the rows whose mask is False or whose label is negative, and is 0
# when no row is left.


def _mean_over(values_B: Tensor, mask_B: Tensor) -> Tensor:
    kept_B = torch.where(mask_B, values_B, torch.zeros_like(values_B))
    return kept_B.sum() / mask_B.sum().clamp(min=1)


def squared_error(a_BX: Tensor, b_BX: Tensor, mask_B: Tensor, reduce: SquaredError) -> Tensor:
    """Mean over present rows of |a - b|^2, "sum"med (as printed) or "mean" over components."""
    error_BX = (a_BX - b_BX).square()
    return _mean_over(error_BX.sum(1) if reduce == "sum" else error_BX.mean(1), mask_B)


def rq_loss(
    quantized: Quantized, mask_B: Tensor, commitment: float, reduce: SquaredError
) -> Tensor:
    """Codebook loss + commitment * commitment loss, SUMMED over levels as the paper has it."""
    loss = quantized.codeword_sum_BD.new_zeros(())
    for residual_BD, codeword_BD in zip(quantized.residuals, quantized.codewords, strict=True):
        loss = loss + squared_error(residual_BD.detach(), codeword_BD, mask_B, reduce)
        to_encoder = squared_error(residual_BD, codeword_BD.detach(), mask_B, reduce)
        loss = loss + commitment * to_encoder
    return loss


def positive_pairs(label_B: Tensor) -> Tensor:
    """bool [B, B]: two different rows with the same label; a negative label pairs with none."""
    same_BB = (label_B[:, None] == label_B[None, :]) & (label_B >= 0)[:, None]
    return same_BB & ~torch.eye(len(label_B), dtype=torch.bool, device=label_B.device)


def contrastive_loss(residual_BD: Tensor, label_B: Tensor, temperature: float) -> Tensor:
    """Multi-positive InfoNCE of one level's residuals; `label_B` is the OTHER modality's label.

    For anchor i with positives P(i) (same label) and negatives N(i) (another label), mean over the
    anchors that have a positive of

        1/|P(i)| sum_p -log( exp s_ip / (exp s_ip + sum_{n in N(i)} exp s_in) ),

    s = cosine / temperature. Rows of the anchor's own label never stand among its negatives, and
    rows with label -1 (this modality or that label is missing) are neither. A residual shorter
    than a tenth of the batch's mean length is divided by that tenth, not by its own length:
    an item that sits on its codeword has a residual of rounding noise, whose direction means
    nothing and whose gradient would be divided by almost zero.
    """
    known_B = label_B >= 0
    length_B = residual_BD.norm(dim=1)
    shortest = _mean_over(length_B.detach(), known_B).clamp(min=1e-12) / 10
    unit_BD = residual_BD / torch.maximum(length_B, shortest)[:, None]
    score_BB = unit_BD @ unit_BD.T / temperature
    negative_BB = (label_B[:, None] != label_B[None, :]) & known_B[:, None] & known_B[None, :]
    # A large finite number, for a row without negatives: log-sum-exp of -inf alone has no gradient.
    negatives_B = score_BB.masked_fill(~negative_BB, -1e4).logsumexp(1)
    # Positives are few, so they are listed (Q pairs) rather than masked out of [B, B].
    anchor_Q, positive_Q = positive_pairs(label_B).nonzero(as_tuple=True)
    # -log(e^p / (e^p + e^n)) = softplus(n - p), which cannot overflow.
    loss_Q = F.softplus(negatives_B[anchor_Q] - score_BB[anchor_Q, positive_Q])
    count_B = torch.bincount(anchor_Q, minlength=len(label_B))
    return (loss_Q / count_B[anchor_Q]).sum() / (count_B > 0).sum().clamp(min=1)


def align_loss(a_BD: Tensor, b_BD: Tensor, mask_B: Tensor, temperature: float) -> Tensor:
    """InfoNCE between the two modalities of an item, both directions summed; cosine over tau."""
    score_BB = F.normalize(a_BD, dim=1) @ F.normalize(b_BD, dim=1).T / temperature
    score_BB = score_BB.masked_fill(~(mask_B[:, None] & mask_B[None, :]), -1e4)
    own_B = score_BB.diagonal()
    forward = _mean_over(score_BB.logsumexp(1) - own_B, mask_B)
    return forward + _mean_over(score_BB.logsumexp(0) - own_B, mask_B)


def align_view(latent_BD: Tensor, quantized: Quantized, gradient: AlignGradient) -> Tensor:
    """The codeword sum, its gradient going where `gradient` says (see the head of the file)."""
    if gradient == "encoder":
        return straight_through(latent_BD, quantized.codeword_sum_BD)
    if gradient == "both":
        return quantized.codeword_sum_BD + (latent_BD - latent_BD.detach())
    return quantized.codeword_sum_BD


def _mlp(sizes: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return layers[:-1]


class ModalityQuantizer(nn.Module):
    """Encoder, codebooks and decoder of one modality.

    Inputs are centred and divided by one number (the root of the mean variance), so that angles
    are kept and a squared error of 1 per component means "nothing explained".
    """

    mean_E: Tensor
    scale: Tensor

    def __init__(self, dim: int, spec: QuantizerSpec) -> None:
        super().__init__()
        project = [dim, spec.projection] if spec.projection else [dim]
        sizes = [project[-1], *spec.hidden, spec.latent_dim]
        self.encoder = nn.Sequential(*_mlp(project), *_mlp(sizes))
        self.decoder = nn.Sequential(*_mlp(sizes[::-1]), *_mlp(project[::-1]))
        self.codebooks = nn.ParameterList(
            nn.Parameter(torch.randn(spec.codebook_size, spec.latent_dim) * 0.1)
            for _ in range(spec.levels)
        )
        self.register_buffer("mean_E", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def normalize(self, embedding_BE: Tensor) -> Tensor:
        """The target of the reconstruction, and the encoder's input."""
        return (embedding_BE - self.mean_E) / self.scale

    def quantize(self, latent_BD: Tensor) -> Quantized:
        """`residual_quantize` with this modality's codebooks."""
        return residual_quantize(latent_BD, list(self.codebooks))

    @torch.no_grad()
    def encode(self, embedding_NE: Tensor, batch_size: int = 8192) -> Encoded:
        """Latents and codes of raw embeddings, which may lie on another device."""
        latents: list[Tensor] = []
        codes: list[Tensor] = []
        for embedding_BE in embedding_NE.split(batch_size):
            normalized_BE = self.normalize(embedding_BE.to(self.mean_E.device, torch.float32))
            latents.append(self.encoder(normalized_BE))
            codes.append(self.quantize(latents[-1]).codes_BL)
        return Encoded(torch.cat(latents), torch.cat(codes))


class CrossModalQuantizer(nn.Module):
    """One `ModalityQuantizer` for text and one for image; the weights follow from `seed`."""

    def __init__(self, spec: QuantizerSpec, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.text = ModalityQuantizer(spec.text_dim, spec)
            self.image = ModalityQuantizer(spec.image_dim, spec)

    def save(self, folder: Path) -> None:
        """Writes config.json, model.safetensors (MLPs, normalisation) and codebooks.safetensors.

        The codebooks are apart, as "text" and "image" [L, M, D], for readers without torch.
        """
        config = json.dumps({"format": FORMAT, **asdict(self.spec)}, indent=2)
        (folder / "config.json").write_text(config + "\n", encoding="utf-8")
        tensors = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        stacked = {
            name: torch.stack([tensors.pop(key) for key in self._codebook_keys(name)])
            for name in MODALITIES
        }
        save_file(tensors, folder / "model.safetensors")
        save_file(stacked, folder / "codebooks.safetensors")

    def _codebook_keys(self, modality: str) -> list[str]:
        return [f"{modality}.codebooks.{level}" for level in range(self.spec.levels)]

    def load(self, folder: Path) -> None:
        """Takes over the tensors that `save` wrote; RuntimeError if their shapes differ."""
        tensors = load_file(folder / "model.safetensors")
        stacked = load_file(folder / "codebooks.safetensors")
        for name in MODALITIES:
            keys = self._codebook_keys(name)
            tensors |= dict(zip(keys, stacked[name].unbind(), strict=True))
        self.load_state_dict(tensors, assign=True)


def load_quantizer(folder: Path, device: torch.device | str = "cpu") -> CrossModalQuantizer:
    """Reads what `save` wrote, in evaluation mode. Raises UserError on a foreign or torn folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config.pop("format", None)
        check(found == FORMAT, f"{folder}/config.json: format is {found!r}, expected {FORMAT!r}")
        spec = QuantizerSpec(**{**config, "hidden": tuple(config["hidden"])})
        # Shapes only, so that a forged size is refused before it takes memory.
        with torch.device("meta"):
            model = CrossModalQuantizer(spec)
        model.load(folder)
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError
    ) as error:  # fmt: skip
        message = f"{folder}: not a readable quantizer ({error}); run the quantize stage again"
        raise UserError(message) from error
    return model.to(device).eval()
