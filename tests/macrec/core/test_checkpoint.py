"""Checkpoints: the state comes back bit for bit, and only whole ones are taken."""

import json
import logging
import os
import signal
import uuid

import pytest
import torch

from macrec.core import sealed_files
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import TryAgain
from macrec.core.storage import gcs_session, uris


@pytest.fixture(params=["folder", "bucket"])
def uri(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "store" / "checkpoints")
    request.getfixturevalue("gcs_server")
    bucket = f"bucket-{uuid.uuid4().hex}"
    gcs_session.client().create_bucket(bucket)
    return f"gs://{bucket}/store/checkpoints"


def names(uri):
    return [entry.name for entry in uris.open_storage(uri).list()]


def steps(uri):
    return [int(name[5:17]) for name in names(uri) if name.endswith(".json")]


def trained(seed, epochs):
    """A small training whose state has everything that ours have."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().sum().backward()
        optimizer.step()
    return model, optimizer, generator


def test_a_state_comes_back_bit_for_bit(uri):
    model, optimizer, generator = trained(seed=1, epochs=3)
    weight = torch.tensor([[1.0, float("nan")]], dtype=torch.bfloat16)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "history": [{"epoch": 1, "loss": 0.1 + 0.2, "note": None, "last": True}],
        "shared": (weight.T, weight.T),
        "none": torch.zeros(0, 3),
    }
    Checkpoints(uri).save(7, state)
    found = Checkpoints(uri).latest()
    assert found is not None and found.step == 7
    assert found.state["history"] == state["history"]
    assert found.state["shared"][1].view(torch.int16).equal(weight.T.contiguous().view(torch.int16))
    assert found.state["none"].shape == (0, 3)
    other, other_optimizer, other_generator = trained(seed=2, epochs=1)
    other.load_state_dict(found.state["model"])
    other_optimizer.load_state_dict(found.state["optimizer"])
    other_generator.set_state(found.state["generator"])
    for trainee, its_optimizer, its_generator in (
        (model, optimizer, generator),
        (other, other_optimizer, other_generator),
    ):
        its_optimizer.zero_grad()
        trainee(torch.randn(4, 3, generator=its_generator)).square().sum().backward()
        its_optimizer.step()
    assert all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_two_are_kept_and_all_removed(uri):
    first = Checkpoints(uri, keep=2)
    for step in (1, 2, 10):
        first.save(step, {"value": torch.tensor(step)})
    assert steps(uri) == [2, 10] and len(names(uri)) == 4
    again = Checkpoints(uri, keep=2)  # a resumed run prunes what the first has left
    found = again.latest()
    assert found is not None and found.step == 10 and found.state["value"] == 10
    again.save(11, {})
    assert steps(uri) == [10, 11]
    Checkpoints(uri).remove()
    assert names(uri) == [] and Checkpoints(uri).latest() is None


def damage(uri, step, suffix, content):
    name = next(n for n in names(uri) if int(n[5:17]) == step and n.endswith(suffix))
    opened = uris.open_storage(uri)
    before = opened.read(name)
    opened.delete(name)
    if content is not None:
        assert opened.create(name, content(before))


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".safetensors", None),
        (".safetensors", lambda b: b[:-1]),
        (".safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        (".json", None),
        (".json", lambda b: b[: len(b) // 2]),
        (".json", lambda b: b.replace(b'["loss", 0.5]', b'["loss", 0.7]')),
        (".json", lambda _: b"[]"),
        (".json", lambda _: b'{"content": {"format": 0}, "digest": ""}'),
    ],
)
def test_a_damaged_one_is_passed_over(tmp_path, caplog, suffix, content):
    uri = str(tmp_path / "checkpoints")
    for step in (1, 2):
        state = {"value": torch.arange(4) + step, "curve": {"loss": 0.5}}
        Checkpoints(uri).save(step, state)
    damage(uri, 2, suffix, content)
    with caplog.at_level(logging.WARNING):
        found = Checkpoints(uri).latest()
    assert found is not None and found.step == 1
    assert found.state["value"].tolist() == [1, 2, 3, 4]
    absent = suffix == ".json" and content is None  # as if the save had been cut short
    assert ("damaged, skipped" in caplog.text) is not absent
    after = Checkpoints(uri)
    after.save(2, state)  # the same bytes again: nothing that is damaged stands in the way
    assert after.latest().step == Checkpoints(uri).latest().step == 2
    damage(uri, 1, ".json", lambda _: b"{")
    damage(uri, 2, ".json", lambda _: b"{")
    assert Checkpoints(uri).latest() is None


def test_it_is_due_by_time(tmp_path):
    now = 100.0
    taking = Checkpoints(str(tmp_path / "c"), every_seconds=60, clock=lambda: now)
    assert not taking.is_due()
    now += 60
    assert taking.is_due()
    taking.save(1, {})
    assert not taking.is_due()


def test_without_a_place_nothing_is_kept():
    none, before = Checkpoints(), signal.getsignal(signal.SIGTERM)
    with none.watch_for_sigterm():
        assert signal.getsignal(signal.SIGTERM) is before
    none.save(1, {})
    none.remove()
    assert none.latest() is None and not none.is_due()


def test_sigterm_is_noticed_and_then_ends_the_process(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("ended"))
    try:
        taking = Checkpoints(str(tmp_path / "c"), every_seconds=1e9)
        with pytest.raises(SystemExit) as left, taking.watch_for_sigterm():
            assert not taking.is_preempted
            os.kill(os.getpid(), signal.SIGTERM)
            assert taking.is_preempted and taking.is_due()
            taking.save(1, {})
            taking.exit_preempted()
        assert left.value.code == 143 and seen == []
        with Checkpoints(str(tmp_path / "c")).watch_for_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == []
        assert seen == ["ended"]  # nobody acted on it within the block
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_storage_without_an_answer_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    def unreachable(*_):
        raise TryAgain("gs://x: no answer from the storage")

    taking = Checkpoints(str(tmp_path / "c"))
    monkeypatch.setattr(taking._files.storage, "upload", unreachable)
    taking.save(1, {})
    assert "checkpoint of step 1 not saved" in caplog.text and not taking.is_due()


@pytest.mark.case(5)
def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    """A save that is killed leaves the checkpoint before."""
    uri = str(tmp_path / "c")
    Checkpoints(uri).save(1, {"value": torch.ones(2)})

    def killed(*_):
        raise KeyboardInterrupt

    for call in ("upload", "create"):
        taking = Checkpoints(uri)
        monkeypatch.setattr(taking._files.storage, call, killed)
        with pytest.raises(KeyboardInterrupt):
            taking.save(2, {"value": torch.zeros(2)})
        assert Checkpoints(uri).latest().step == 1
    assert len(names(uri)) == 3  # the tensors of the cut save
    later = Checkpoints(uri)
    later.save(3, {})
    later.save(4, {})
    assert steps(uri) == [3, 4] and len(names(uri)) == 4


def test_a_manifest_is_plain_json(tmp_path):
    Checkpoints(str(tmp_path / "c")).save(5, {"curve": {3: (1.5, "x")}})
    path = next((tmp_path / "c").glob("*.json"))
    content = json.loads(path.read_bytes())["content"]
    assert content["step"] == 5 and content["format"] == sealed_files.FORMAT
    assert content["state"] == {"dict": [["curve", {"dict": [[3, [1.5, "x"]]]}]]}
