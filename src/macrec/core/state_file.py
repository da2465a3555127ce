"""The content of a checkpoint: tensors in a safetensors file, the rest of the state as JSON.

Nothing is pickled, so reading a state runs no code.
"""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor


class StateFile(NamedTuple):
    """A training state, split into JSON and tensors."""

    tree: Any
    """The state as JSON. A tensor is replaced by its name."""
    tensors: dict[str, Tensor]

    @classmethod
    def split(cls, state: Any) -> "StateFile":
        """Split a state of dicts, lists, tuples, tensors, numbers, texts and None."""
        tensors: dict[str, Tensor] = {}
        return cls(_split(state, tensors), tensors)

    @classmethod
    def read(cls, path: Path, tree: Any) -> "StateFile":
        """Read the tensors of a state.

        Raises:
            SafetensorError: the file is damaged.
        """
        return cls(tree, load_file(path))

    @property
    def size(self) -> int:
        """Size of the tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, path: Path) -> None:
        """Write the tensors to a file."""
        save_file(self.tensors, path)

    def join(self) -> Any:
        """Return the state. Tensors are on the CPU, and tuples come back as lists."""
        return _join(self.tree, self.tensors)


def _split(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        # Copied, because safetensors rejects tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):  # pairs, because a key may be a number
        return {"dict": [[key, _split(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(item, tensors) for item in value]
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _join(item, tensors) for key, item in value["dict"]}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value
