"""Import the packages that everything rests on, and make one matrix product.

    python locks/check.py [--cuda] [MODULE ...]

--cuda: fail unless PyTorch is built for CUDA. MODULE: imported besides the three of every stage.

Set-up and the build of an image end with this: a wheel that installs is not yet one that loads.
"""

import importlib
import sys

STAGES_NEED = ("torch", "transformers", "pyarrow")


def main() -> None:
    """Print the versions and the device, or fail with the traceback of what does not load."""
    names = [*STAGES_NEED, *(word for word in sys.argv[1:] if word != "--cuda")]
    modules = {name: importlib.import_module(name) for name in names}
    torch = modules["torch"]
    if "--cuda" in sys.argv and torch.version.cuda is None:
        raise SystemExit(
            f"locks/check.py: PyTorch {torch.__version__} is built without CUDA, which this image "
            "is for. pip must find PyPI's wheel: look at its find-links and indexes."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ones = torch.ones(64, 64, device=device)
    if (ones @ ones).sum().item() != 64**3:
        raise SystemExit(f"locks/check.py: a matrix product on {device} has a wrong result.")
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU is used"
    print(f"ready: Python {sys.version.split()[0]}, {versions}; device: {device} ({name})")


if __name__ == "__main__":
    main()
