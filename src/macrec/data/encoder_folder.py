"""Checks the folder of an encoder without loading its weights, and without torch."""

import json
import re
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from macrec.core.errors import UserError
from macrec.core.storage.backend import Storage
from macrec.core.storage.uris import is_remote, open_storage

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
SHARD: Final = re.compile(r"[\w.-]+\.safetensors")
LARGEST: Final = {"num_hidden_layers": 1_000, "hidden_size": 1 << 17, "intermediate_size": 1 << 20}
"""Upper limits for a model's config; building a billion layers would never finish."""
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".ckpt")
# Any of these files makes a fast tokenizer.
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tekken.json")
_LARGEST_HEADER = 100_000_000  # as in the safetensors library
_LFS = b"version https://git-lfs"


def find_encoder_problems(uri: str, modality: str) -> list[str]:
    """Return why a model folder cannot be an encoder; a hub id is not checked.

    Args:
        uri: address of the encoder, local, gs:// or hub:NAME/MODEL.
        modality: "text" or "image".
    """
    if uri.startswith("hub:"):
        return []
    if not is_remote(uri) and not Path(uri).is_dir():
        return ["is not a folder. Give a transformers model folder."]
    storage = open_storage(uri)
    names = _names(uri, storage)
    if CONFIG not in names:
        return [f"no {CONFIG}, so this is no transformers model folder."]
    try:
        config = read_object(storage, CONFIG)
        check_sizes(config)
    except ValueError as error:
        return [f"{CONFIG} cannot be used ({error})."]
    problems = _config_problems(config, modality)
    problems += _weight_problems(uri, storage, names)
    if modality == "text" and not any(n in _TOKENIZERS or n.endswith(".model") for n in names):
        problems.append("has no tokenizer (tokenizer.json). Copy it beside the weights.")
    return problems


def read_object(storage: Storage, name: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: the content is not a JSON object.
    """
    try:
        content = json.loads(storage.read(name) or b"")
    except RecursionError as error:
        raise ValueError("too deeply nested") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def check_sizes(config: dict[str, Any]) -> None:
    """Check the sizes in a config first, because transformers' config class loops over the layers.

    Raises:
        ValueError: a size is too large.
    """
    for part in (config, config.get("vision_config") or {}):
        for name, largest in LARGEST.items():
            value = part.get(name) if isinstance(part, dict) else None
            if isinstance(value, int | float) and value > largest:
                raise ValueError(f"{name}={value} is more than {largest:,}")


def _names(uri: str, storage: Storage) -> set[str]:
    if not is_remote(uri):
        return {path.name for path in Path(uri).iterdir() if path.is_file()}
    return {name for name in storage.names() if "/" not in name}


def _config_problems(config: dict[str, Any], modality: str) -> list[str]:
    kind = config.get("model_type")
    if not kind:
        return [f"{CONFIG} has no model_type, so transformers cannot open it."]
    sides = {"image_size", "patch_size"} & config.keys()
    if modality == "image" and not sides and "vision_config" not in config:
        return [
            f"model type {kind!r} has no image_size and patch_size, so it is not a vision "
            "transformer."
        ]
    is_vision = len(sides) == 2 and "vocab_size" not in config
    if modality == "text" and (config.get("is_encoder_decoder") or is_vision):
        return [f"model type {kind!r} is not a plain text encoder or decoder."]
    return []


def _weight_problems(uri: str, storage: Storage, names: Collection[str]) -> list[str]:
    if WEIGHTS in names:
        files = [WEIGHTS]
    elif INDEX in names:
        try:
            files = sorted(set(read_object(storage, INDEX)["weight_map"].values()))
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            return [f"{INDEX} cannot be read ({error!r})."]
    else:
        others = sorted(name for name in names if name.endswith(_OTHER_WEIGHTS))
        found = f" It has {', '.join(others[:3])}: save the model in safetensors." if others else ""
        return [f"has no weights in safetensors ({WEIGHTS}).{found}"]
    absent = [name for name in files if name not in names]
    if absent:
        return [
            f"{len(absent)} of {len(files)} files of weights are absent (first: {absent[0]}). Copy "
            "the whole folder."
        ]
    if is_remote(uri):
        return []
    broken = ((name, explain_damage(Path(uri) / name)) for name in files)
    return [f"{name} {reason}" for name, reason in broken if reason]


def explain_damage(path: Path) -> str:
    """Return why a safetensors file is not complete, or an empty string; no weights are read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if (start + file.read(len(_LFS) - 8)) == _LFS:
            return "is a pointer of Git LFS. Run `git lfs pull` in the folder."
        file.seek(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(size - 8, _LARGEST_HEADER):
            return "is no safetensors file, or is not complete. Copy it again."
        try:
            header = json.loads(file.read(length))
            ends = [v["data_offsets"][1] for n, v in header.items() if n != "__metadata__"]
            end = 8 + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "has a damaged header. Copy it again."
    if end != size:
        return f"has {size:,} bytes, and its header describes {end:,}. Copy it again."
    return ""


def refuse_encoder(name: str, uri: str, modality: str) -> list[str]:
    """Return the problems of an encoder, each with the setting that names it.

    Args:
        name: the setting, such as encoder_text.
        uri: its value.
        modality: "text" or "image".
    """
    try:
        return [f"{name}={uri}: {problem}" for problem in find_encoder_problems(uri, modality)]
    except (UserError, OSError) as error:
        return [f"{name}={uri}: cannot be read ({error})."]
