"""Two processes that train together end where one does."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.quantize import quantizer_trainer, quantizer_training
from macrec.core.artifact import Artifact
from macrec.core.checkpoint import Checkpoints
from macrec.core.launched import join_processes, leave_processes
from macrec.core.processes import Processes
from macrec.data.columns import codes_matrix
from macrec.tokenizer.quantizer import load_quantizer
from tests.planted import CPU, SMALL, make_inputs, planted, without
from tests.stage_process import StageProcess

CASES = {
    "refit": {"contrastive_weights": (0.1, 0.2, 0.3)},
    "gradient": {"codebook_update": "gradient", "align_gradient": "codebooks", "align_head": 3},
    "ema": {"codebook_update": "ema", "gradient_estimator": "rotation"},
    "shared": {"shared_levels": 1, "squared_error": "sum", "contrastive_side": "text"},
    "balanced": {"sinkhorn_epsilons": (0.1,), "contrastive_positives": "one"},
}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""float32: sums of other orders, over 3 epochs of AdamW"""


def catalogue_of():
    return without(planted(91), "image", 4, 9, 50)  # batches of 31, 30, 30: shares differ


def train_all(folder):
    """What each of the processes does; process 0 leaves the results."""
    torch.set_num_threads(1)
    together = join_processes()
    quantizer_trainer.ROWS = 16  # several chunks for each
    for case, settings in CASES.items():
        config = replace(SMALL, batch_size=31, **settings)
        trained = quantizer_training.train(catalogue_of(), config, CPU, processes=together)
        uri = str(Path(folder) / case / str(together.rank))
        state = {"model": trained.model.state_dict(), "history": trained.history}
        Checkpoints(uri).save(0, state)
    leave_processes()


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    call = f"from {__name__} import train_all; train_all({str(tmp_path)!r})"
    env = os.environ | place | {"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", call], env=env | {"RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait() for process in started] == [0, 0]
    for case, settings in CASES.items():
        alone = quantizer_training.train(
            catalogue_of(), replace(SMALL, batch_size=31, **settings), CPU
        )
        ours, theirs = (
            Checkpoints(str(tmp_path / case / str(rank))).latest().state for rank in range(2)
        )
        for name, tensor in alone.model.state_dict().items():
            assert torch.equal(ours["model"][name], theirs["model"][name]), (case, name)
            torch.testing.assert_close(
                ours["model"][name],
                tensor,
                **TOLERANCE,
                msg=lambda m, c=case, n=name: f"{c} {n} {m}",
            )
        for found, expected in zip(ours["history"], alone.history, strict=True):
            assert found == pytest.approx(expected, rel=1e-3), case


@pytest.mark.slow
def test_the_stage_under_torchrun(tmp_path):
    """Process 0 alone writes and commits; a second start is handed the result."""
    settings = {
        "codebook-size": 8, "levels": 3, "latent-dim": 4, "hidden": "12", "epochs": 3,
        "batch-size": 31, "refit-every": 2, "memory-gib": 0,
    }  # fmt: skip
    stage = StageProcess("quantize", make_inputs(tmp_path, catalogue_of()), settings, tmp_path)
    assert stage.call("two", "store", processes=2).count("quantize: finished") == 1
    assert stage.call("again", "store", processes=2).count("reused") == 1
    stage.call("one", "other")
    ours, same, alone = (
        Artifact.open(tmp_path / out / "latents") for out in ("two", "again", "one")
    )
    assert ours.digest == same.digest
    for name in ("text", "image"):
        codes = [codes_matrix(latents, f"{name}_codes") for latents in (ours, alone)]
        np.testing.assert_array_equal(*codes)
    models = [load_quantizer(tmp_path / out / "quantizer").state_dict() for out in ("two", "one")]
    for tensor, expected in zip(*(model.values() for model in models), strict=True):
        torch.testing.assert_close(tensor, expected, **TOLERANCE)
    assert len(list((tmp_path / "store" / "records").rglob("*.json"))) == 1
    manifest = json.loads((tmp_path / "two" / "latents" / "manifest.json").read_text())
    assert manifest["stage"] == "quantize"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [0, 1, 5, 31])
def test_shares_are_all_rows_once_and_differ_by_one_at_most(count, rows):
    shares = [Processes(rank, count).share(rows) for rank in range(count)]
    assert [row for share in shares for row in range(rows)[share]] == list(range(rows))
    sizes = [len(range(rows)[share]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_alone_every_exchange_changes_nothing():
    alone, tensor = Processes(), torch.arange(3.0)
    alone.sum(tensor)
    alone.spread([tensor])
    assert tensor.tolist() == [0, 1, 2] and alone.join_rows(tensor, 3) is tensor
    assert alone.agree(True) and not alone.agree(False)
