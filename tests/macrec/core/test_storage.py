"""One interface: the same checks on a folder and on a bucket of a real GCS protocol server."""

import os
import shutil
import uuid

import pytest

from macrec.core.errors import TryAgain, UserError
from macrec.core.storage import gcs_session, local, uris
from macrec.core.store import ArtifactStore


@pytest.fixture(params=["folder", "bucket"])
def root(request, tmp_path):
    """An empty storage location."""
    if request.param == "folder":
        return str(tmp_path / "root")
    request.getfixturevalue("gcs_server")
    bucket = f"bucket-{uuid.uuid4().hex}"
    gcs_session.client().create_bucket(bucket)
    return f"gs://{bucket}/some/prefix"


def test_create_refuses_to_replace(root):
    opened = uris.open_storage(root)
    assert opened.create("a/b.json", b"1")
    assert opened.create("a/b.json", b"1")  # a lost reply that is retried is no conflict
    assert not opened.create("a/b.json", b"2")
    assert opened.read("a/b.json") == b"1"
    assert opened.read("absent") is None


def test_upload_list_download_delete(root, tmp_path):
    opened = uris.open_storage(root)
    (tmp_path / "source").write_bytes(b"content")
    for name in ("x/2", "x/1", "y"):
        opened.upload(tmp_path / "source", name)
    assert [(e.name, e.bytes) for e in opened.list("x/")] == [("x/1", 7), ("x/2", 7)]
    opened.download("x/1", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content"
    opened.delete("x/1")
    opened.delete("x/1")
    assert not opened.exists("x/1") and opened.exists("x/2")


def test_digest_changes_with_the_content_alone(root, tmp_path):
    opened = uris.open_storage(root)
    assert opened.create("data/a.csv", b"1")
    first = uris.content_digest(f"{root}/data")
    assert uris.content_digest(f"{root}/data") == first
    assert opened.create("data/b.csv", b"2")
    second = uris.content_digest(f"{root}/data")
    opened.delete("data/a.csv")
    assert opened.create("data/a.csv", b"3")
    assert len({first, second, uris.content_digest(f"{root}/data")}) == 3


def test_fetch_gives_local_files(root, tmp_path):
    opened = uris.open_storage(root)
    assert opened.create("data/part/a.csv", b"1")
    assert opened.create("data/b.csv", b"2")
    folder = uris.fetch(f"{root}/data", tmp_path / "cache")
    assert (folder / "part" / "a.csv").read_bytes() == b"1"
    single = uris.fetch(f"{root}/data/b.csv", tmp_path / "cache")
    assert single.name == "b.csv" and single.read_bytes() == b"2"


def test_what_is_absent_is_a_user_error(root, tmp_path):
    for call in (uris.content_digest, lambda uri: uris.fetch(uri, tmp_path)):
        with pytest.raises(UserError, match="no such file"):
            call(f"{root}/nothing")


def test_artifact_store_on_either(root, toy_stage, numbers, tmp_path):
    from macrec.core.artifact import Artifact, DatasetOutput, HtmlOutput
    from macrec.core.executor import execute

    def run(name):
        out = tmp_path / name
        return execute(
            toy_stage.STAGE,
            toy_stage.Settings(),
            toy_stage.Inputs(numbers=Artifact.open(numbers(1, 2, name=f"in-{name}"))),
            toy_stage.Outputs(repeated=DatasetOutput(out / "r"), page=HtmlOutput(out / "p")),
            toy_stage.Execution(),
            store=ArtifactStore(f"{root}/store"),
        )

    assert [run("a").reused, run("b").reused] == [False, True]
    assert Artifact.open(tmp_path / "b" / "r").verify().rows == 4


def test_a_bucket_that_is_not_there_is_a_user_error(gcs_server):
    absent = uris.open_storage("gs://no-such-bucket/x")
    with pytest.raises(UserError, match="gs://no-such-bucket/x: not found"):
        list(absent.list())


def test_a_server_that_does_not_answer_means_try_again(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(gcs_session, "TOTAL_SECONDS", 1)
    monkeypatch.setattr(gcs_session, "client", gcs_session.client.__wrapped__)
    with pytest.raises(TryAgain, match="gs://bucket/x: no response"):
        uris.open_storage("gs://bucket/x").create("a", b"1")


def test_unknown_schemes_are_refused():
    with pytest.raises(UserError, match="only local paths and gs://"):
        uris.open_storage("ftp://host/path")


def test_a_folder_that_goes_while_it_is_listed_is_left_out(tmp_path, monkeypatch):
    for folder in ("goes", "locked", "stays"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("a")
    (tmp_path / "stays" / "link").symlink_to(tmp_path / "nowhere")
    scandir = os.scandir

    def delete_it_first(path):
        if str(path).endswith("goes"):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", delete_it_first)
    found = local.LocalStorage(tmp_path)
    assert found.names() == ["locked/a", "stays/a"]

    def refused(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "refused", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError):
        found.names()
