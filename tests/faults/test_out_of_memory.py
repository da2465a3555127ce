"""Out of memory: nothing is committed, and the last line names the batch and what to lower."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from components.stages import stage_named
from macrec.core import executor
from macrec.core.artifact import Artifact, DatasetOutput, HtmlOutput
from macrec.core.errors import UserError
from macrec.core.shortage import explain_shortage
from macrec.core.store import ArtifactStore
from pipelines.local.pipeline_runner import StageFailed
from tests.faults.stage_runs import readable

# The address space ends 64 MiB above what the process has when the encoder gets its first batch.
LIMITED = """
import resource, sys
from components.embed_text import spec, text_encoder
from macrec.core import stage_command
original, limited = text_encoder.TextEncoder._forward, []
def forward(self, batch, ids):
    if not limited:
        pages = int(open("/proc/self/statm").read().split()[0])
        limited.append(pages * resource.getpagesize() + (64 << 20))
        resource.setrlimit(resource.RLIMIT_AS, (limited[0], limited[0]))
    return original(self, batch, ids)
text_encoder.TextEncoder._forward = forward
stage_command.main(spec.STAGE, sys.argv[1:])
"""


@pytest.mark.case(6)
def test_an_encoder_under_a_limit_of_memory(undisturbed, tmp_path, trials):
    """The advice is tried too: with the smaller batch the same limit suffices."""
    call = undisturbed["embed_text"]
    state = json.loads(call.command[call.command.index("--executor-input") + 1])
    items = state["inputs"]["artifacts"]["items"]["artifacts"][0]["uri"]
    model = state["inputs"]["parameterValues"]["model"]

    def embed(name: str, batch_tokens: int) -> subprocess.CompletedProcess[str]:
        flags = {
            "items": items, "model": model, "out": tmp_path / name, "store": tmp_path / "store",
        }  # fmt: skip
        settings = {
            "prompt": "so " * 400 + "{}", "max_tokens": 64, "batch_tokens": batch_tokens,
            "workers": 1, "device": "cpu",
        }  # fmt: skip
        listed = [part for n, v in flags.items() for part in (f"--{n}", str(v))]
        listed += [part for n, v in settings.items() for part in ("--set", f"{n}={v}")]
        command = [sys.executable, "-c", LIMITED, *listed]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    large = embed("large", 1_000_000)
    assert large.returncode == 2, large.stderr
    last = large.stderr.strip().splitlines()[-1]
    assert "embed_text: out of memory (" in last and "Nothing was committed" in last
    assert "Lower embed_text.batch_tokens (now 1000000: " in last
    assert not readable(tmp_path / "large") and not list((tmp_path / "store").glob("records/*"))
    small = embed("small", 512)
    assert small.returncode == 0, small.stderr
    assert readable(tmp_path / "small")
    trials("processes out of memory", 1)


def run_out(kind: str) -> None:
    """Asks for more memory than there is, or raises what a GPU would."""
    match kind:
        case "numpy":
            np.ones(2**58)
        case "torch":
            torch.ones(2**50)
        case "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        case "python":
            bytearray(2**60)


@pytest.mark.case(6)
@pytest.mark.parametrize("kind", ["numpy", "torch", "cuda", "python"])
def test_every_librarys_error_takes_the_same_way(toy_stage, numbers, tmp_path, kind, monkeypatch):
    original = toy_stage.code.run

    def run(*arguments):
        original(*arguments)
        run_out(kind)

    monkeypatch.setattr(toy_stage.code, "run", run)
    store = tmp_path / "store"
    with pytest.raises(UserError, match=r"toy: out of memory .* Lower toy.batch \(now 10: "):
        executor.execute(
            toy_stage.STAGE,
            toy_stage.Settings(),
            toy_stage.Inputs(numbers=Artifact.open(numbers(1))),
            toy_stage.Outputs(
                repeated=DatasetOutput(tmp_path / "repeated"), page=HtmlOutput(tmp_path / "page")
            ),
            toy_stage.Execution(),
            store=ArtifactStore(str(store)),
        )
    assert not readable(tmp_path / "repeated") and not (tmp_path / "page").exists()
    assert not list(store.rglob("*.json"))


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="half way"), explain_shortage("toy", [], []):
        raise RuntimeError("half way")


@pytest.mark.case(6)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("embed_text", ["batch_tokens"]),
        ("embed_image", ["batch_images"]),
        ("quantize", ["batch_size"]),
        ("train", ["validation_batch", "batch_size"]),
        ("evaluate", ["batch_size", "beams"]),
        ("recommend", ["batch_size", "beams"]),
        ("pseudo_label", ["batch_items"]),
    ],
)
def test_a_stage_that_computes_in_batches_names_their_setting(name, expected):
    settings = [(p, 7) for p in stage_named(name).parameters]
    with pytest.raises(UserError) as error, explain_shortage(name, settings, []):
        raise MemoryError
    for setting in expected:
        assert f"{name}.{setting} (now 7: " in str(error.value)


@pytest.mark.case(6)
@pytest.mark.parametrize("code", [-9, 137])
def test_a_stage_that_the_system_has_killed(code):
    assert str(StageFailed("train", code)) == (
        "train was killed (signal 9): most often out of memory"
    )
    assert str(StageFailed("train", 3)) == "train failed with exit code 3"
