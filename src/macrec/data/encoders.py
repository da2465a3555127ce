"""Open and run transformers encoders, for both embedding stages.

Weights are read only from safetensors, and code in a model folder is never run.

Shape suffixes: B batch, L tokens, D components.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from macrec.compute.device import silence_progress_bars
from macrec.core.artifact import Source
from macrec.core.errors import UserError, check
from macrec.core.progress import log
from macrec.data.encoder_folder import SHARD, check_sizes

Batch = TypeVar("Batch")
Result = TypeVar("Result")

_UNREAD = ("pooler.", "mask_token", "lm_head.")
"""Weights that a checkpoint may lack, because our forward pass does not use them."""


class Location(NamedTuple):
    """The location of a model for `from_pretrained`: a local folder, or a hub id and revision."""

    name: str
    options: dict[str, Any]

    @classmethod
    def of(cls, source: Source) -> "Location":
        """Return a source's location: the fetched folder, or the hub id `name/model[@revision]`.

        Raises:
            UserError: the folder has no config.json, or has changed since its snapshot.
        """
        safe: dict[str, Any] = {"trust_remote_code": False}
        if source.is_hub:
            name, _, revision = source.uri.partition("@")
            return cls(name, {**safe, "revision": revision or "main"})
        path = source.path()
        check(
            (path / "config.json").is_file(),
            f"{source.uri}: no config.json, so this is no transformers model folder.",
        )
        source.check_unchanged()
        return cls(str(path), {**safe, "local_files_only": True})


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype for an Execution's setting; "auto": bfloat16 on a GPU, float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


@contextmanager
def explain_unusable_model(source: Source) -> Iterator[None]:
    """Convert exceptions of transformers about an unusable model into a `UserError`."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile folder can cause any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{source.uri}: cannot be opened as a transformers encoder ({reason}). It needs "
            "config.json and weights in safetensors; code of a model folder is never run."
        ) from error


def load_config(source: Source, location: Location) -> Any:
    """Return the model's transformers configuration."""
    from transformers import AutoConfig

    with explain_unusable_model(source):
        path = find_file(source, location, "config.json")
        check_sizes(json.loads(path.read_bytes()) if path else {})
        return AutoConfig.from_pretrained(location.name, **location.options)


def load_model(
    source: Source,
    location: Location,
    *,
    device: torch.device,
    dtype: torch.dtype,
    config: Any,
    class_name: str = "AutoModel",
    required: str = "",
    required_by: str = "",
) -> Any:
    """Return an encoder ready for inference, without its language-model head.

    Args:
        source: the model's source, which is named in error messages.
        location: location of the model.
        device: device to compute on.
        dtype: precision of weights and activations.
        config: the model's configuration from `load_config`.
        class_name: transformers class that opens the model.
        required: prefix of weights that the checkpoint must contain, although most encoders do not
            need them.
        required_by: the setting that requires them, as the user gives it.

    Raises:
        UserError: the model cannot be opened, or weights are missing and would be random.
    """
    import transformers

    silence_progress_bars()
    _refuse_other_weights(source, location)
    with explain_unusable_model(source):
        model, loading = getattr(transformers, class_name).from_pretrained(
            location.name,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **location.options,
        )
    _refuse_random(source, loading, required, required_by)
    return model.to(device).eval().requires_grad_(False)


def _refuse_other_weights(source: Source, location: Location) -> None:
    """Check that a shard index lists only safetensors files of the model folder.

    An index may list any file, and transformers unpickles files that are not safetensors.

    Raises:
        UserError: the index lists other files.
    """
    index = find_file(source, location, "model.safetensors.index.json")
    if index is None:
        return
    with explain_unusable_model(source):
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    other = sorted(name for name in shards if not SHARD.fullmatch(name))
    check(
        not other,
        f"{source.uri}: {index.name} names {len(other)} files that are no safetensors of the "
        f"folder itself (first: {', '.join(map(repr, other[:3]))}). The model is not read.",
    )


def _refuse_random(source: Source, loading: Any, required: str, required_by: str) -> None:
    """Check that no weights are missing, because they and the vectors would then be random.

    Raises:
        UserError: weights are missing or have another shape.
    """
    unread = tuple(prefix for prefix in _UNREAD if prefix != required)
    missing = sorted(key for key in loading["missing_keys"] if not any(u in key for u in unread))
    mismatched = sorted(str(key) for key in loading["mismatched_keys"])
    if required and missing and not mismatched and all(required in key for key in missing):
        raise UserError(
            f"{source.uri}: {required_by} needs {len(missing)} weights that the model lacks "
            f"(first: {', '.join(missing[:3])}). Set another {required_by.partition('=')[0]}."
        )
    if missing or mismatched:
        raise UserError(
            f"{source.uri}: {len(missing)} weights are missing and {len(mismatched)} have another "
            f"shape (first: {', '.join((missing + mismatched)[:3])}). They would be random."
        )


def load_tokenizer(source: Source, location: Location) -> Any:
    """Return the model's fast tokenizer, whose offsets determine where to cut a long text.

    Raises:
        UserError: the model has no fast tokenizer, or it cannot be opened.
    """
    from transformers import AutoTokenizer

    with explain_unusable_model(source):
        tokenizer = AutoTokenizer.from_pretrained(location.name, **location.options)
    check(tokenizer.is_fast, f"{source.uri}: has no fast tokenizer (tokenizer.json).")
    return tokenizer


def pool(hidden_BLD: torch.Tensor, mask_BL: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return one float32 vector per row, pooled from the tokens that are not padding -> [B, D].

    Padding must be at the end of a row.
    """
    if pooling == "cls":
        return hidden_BLD[:, 0].float()
    if pooling == "last_token":
        last_B = mask_BL.sum(1) - 1
        return hidden_BLD[torch.arange(len(last_B), device=last_B.device), last_B].float()
    assert pooling == "mean", pooling
    weight_BL1 = mask_BL[..., None].float()
    return (hidden_BLD.float() * weight_BL1).sum(1) / weight_BL1.sum(1)


class Cores:
    """Runs forward passes: on a CPU one on each core, on an accelerator one after the other.

    If several cores shared a pass, they would divide the rows of its matrices. The last bits of a
    vector would then depend on the position of its row. On one core, in a batch of a fixed shape,
    they depended only on the item in all measurements (docs/design.md).

    Args:
        device: device on which the model computes.
        threads: number of cores to use; 0 uses as many as torch would.
    """

    def __init__(self, device: torch.device, threads: int = 0) -> None:
        self._pool: ThreadPoolExecutor | None = None
        if device.type == "cpu":
            self._count = threads or torch.get_num_threads()
            self._pool = ThreadPoolExecutor(
                self._count, "encoder", initializer=torch.set_num_threads, initargs=(1,)
            )

    def map(
        self, forward: Callable[[Batch], Result], batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, Result]]:
        """Yield each batch with its result, in order; on a CPU a few batches are computed ahead."""
        if self._pool is None:
            yield from ((batch, forward(batch)) for batch in batches)
            return
        waiting: deque[tuple[Batch, Future[Result]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, self._pool.submit(forward, batch)))
                if len(waiting) > self._count:
                    done, result = waiting.popleft()
                    yield done, result.result()
            while waiting:
                done, result = waiting.popleft()
                yield done, result.result()
        finally:
            for _, result in waiting:
                result.cancel()


@contextmanager
def out_of_memory_hint(what: str, setting: str) -> Iterator[None]:
    """Log which setting to lower if the accelerator runs out of memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        log.error("out of memory at %s: lower %s", what, setting)
        raise


def find_file(source: Source, location: Location, name: str) -> Path | None:
    """Return the path of a small file of the model folder, or None if it does not exist."""
    if not source.is_hub:
        path = Path(location.name) / name
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    with explain_unusable_model(source):
        found = cached_file(
            location.name, name, revision=location.options["revision"],
            _raise_exceptions_for_missing_entries=False,
        )  # fmt: skip
    return None if found is None else Path(found)
