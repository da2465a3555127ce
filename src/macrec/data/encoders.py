"""Opening transformers encoders, the way both embedding stages do.

Weights come from safetensors alone and no code of a model folder is ever run.

B batch, L tokens, D components
"""

import json
import re
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

Batch = TypeVar("Batch")
Result = TypeVar("Result")

_SHARD = re.compile(r"[\w.-]+\.safetensors")
_UNREAD = ("pooler.", "mask_token", "lm_head.")
"""Weights that a checkpoint may lack, as our forward pass does not read them."""

_LARGEST = {"num_hidden_layers": 1_000, "hidden_size": 1 << 17, "intermediate_size": 1 << 20}
"""What a model's config may ask for; building a billion layers would not end."""


class Location(NamedTuple):
    """Where `from_pretrained` finds a model: a local folder, or a hub id with a revision."""

    name: str
    options: dict[str, Any]

    @classmethod
    def of(cls, source: Source) -> "Location":
        """Fetches a local or gs:// folder; a hub id `name/model[@revision]` stays one."""
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
    """The precision of an Execution: "auto" is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


@contextmanager
def opening(source: Source) -> Iterator[None]:
    """Turns what transformers raises over an unusable model into a `UserError`."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # over a damaged or hostile folder the libraries raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{source.uri}: cannot be opened as a transformers encoder ({reason}). It needs "
            "config.json and weights in safetensors; code of a model folder is never run."
        ) from error


def load_config(source: Source, location: Location) -> Any:
    """The model's transformers configuration."""
    from transformers import AutoConfig

    with opening(source):
        _check_sizes(find_file(source, location, "config.json"))
        return AutoConfig.from_pretrained(location.name, **location.options)


def _check_sizes(path: Path | None) -> None:
    """Before transformers sees them: already its configuration loops over the layers."""
    written = json.loads(path.read_bytes()) if path else {}
    for part in (written, written.get("vision_config") or {}):
        for name, largest in _LARGEST.items():
            if (part.get(name) or 0) > largest:
                raise ValueError(f"{name}={part[name]} is more than {largest:,}")


def load_model(
    source: Source,
    location: Location,
    *,
    device: torch.device,
    dtype: torch.dtype,
    config: Any,
    class_name: str = "AutoModel",
    required: str = "",
) -> Any:
    """An encoder ready for inference, without its language-model head.

    Args:
        source: named in messages.
        location: where it is.
        device: where it computes.
        dtype: precision of weights and activations.
        config: its configuration, as `load_config` gave it.
        class_name: transformers class to open it with.
        required: prefix of weights that must be there although most encoders do without.

    Raises:
        UserError: it cannot be opened, or weights are missing, which would be random otherwise.
    """
    import transformers

    silence_progress_bars()
    _refuse_other_weights(source, location)
    with opening(source):
        model, loading = getattr(transformers, class_name).from_pretrained(
            location.name,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **location.options,
        )
    _refuse_random(source, loading, required)
    return model.to(device).eval().requires_grad_(False)


def _refuse_other_weights(source: Source, location: Location) -> None:
    """An index of shards may name any file, and transformers unpickles what is no safetensors."""
    index = find_file(source, location, "model.safetensors.index.json")
    if index is None:
        return
    with opening(source):
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    other = sorted(name for name in shards if not _SHARD.fullmatch(name))
    check(
        not other,
        f"{source.uri}: {index.name} names {len(other)} files that are no safetensors of the "
        f"folder itself (first: {', '.join(map(repr, other[:3]))}). Nothing of it is read.",
    )


def _refuse_random(source: Source, loading: Any, required: str) -> None:
    """Weights that the checkpoint lacks would be random, and the vectors with them."""
    unread = tuple(prefix for prefix in _UNREAD if prefix != required)
    missing = sorted(key for key in loading["missing_keys"] if not any(u in key for u in unread))
    mismatched = sorted(str(key) for key in loading["mismatched_keys"])
    if missing or mismatched:
        raise UserError(
            f"{source.uri}: {len(missing)} weights are missing and {len(mismatched)} have another "
            f"shape (first: {', '.join((missing + mismatched)[:3])}). They would be random."
        )


def load_tokenizer(source: Source, location: Location) -> Any:
    """The model's fast tokenizer, whose offsets tell where to cut a long text."""
    from transformers import AutoTokenizer

    with opening(source):
        tokenizer = AutoTokenizer.from_pretrained(location.name, **location.options)
    check(tokenizer.is_fast, f"{source.uri}: has no fast tokenizer (tokenizer.json).")
    return tokenizer


def pool(hidden_BLD: torch.Tensor, mask_BL: torch.Tensor, pooling: str) -> torch.Tensor:
    """One float32 vector a row from the tokens that are not padding -> [B, D].

    Padding stands at the end of a row.
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

    Several cores that shared a pass would share out the rows of its matrices, and then the last
    bits of a vector depend on where its row stands. On one core, and in a batch of a fixed shape,
    they depended on nothing but the item wherever this was measured (docs/design.md).

    Args:
        device: where the model computes.
        threads: cores to use; 0 for as many as torch would.
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
        """Each batch with its result, in order; a few batches are worked on ahead."""
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
    """Says what to lower when the accelerator's memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError:
        log.error("out of memory at %s: lower %s", what, setting)
        raise


def find_file(source: Source, location: Location, name: str) -> Path | None:
    """A small file of the model folder, or None where it has none."""
    if not source.is_hub:
        path = Path(location.name) / name
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    with opening(source):
        found = cached_file(
            location.name, name, revision=location.options["revision"],
            _raise_exceptions_for_missing_entries=False,
        )  # fmt: skip
    return None if found is None else Path(found)
