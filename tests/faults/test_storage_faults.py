"""Storage that fails, forgets to answer, stalls, damages or refuses: a proxy makes it happen."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import uuid

import pytest

from macrec.core.artifact import Artifact
from macrec.core.errors import TryAgain, UserError
from macrec.core.storage import gcs_session, uris
from tests.faults.fault_proxy import AFTER, BODY, FAULTS, REFUSED, FaultProxy, serving
from tests.pipelines.conftest import ROOT, SMOKE

# A stage's process with short bounds; the first argument is its name.
HASTY = (
    "import sys\n"
    "from components.stages import stage_named\n"
    "from macrec.core import stage_command\nfrom macrec.core.storage import gcs_session\n"
    "gcs_session.TRY_SECONDS, gcs_session.PAUSE_SECONDS = 1.0, 0.1\n"
    "stage_command.main(stage_named(sys.argv[1]), sys.argv[2:])\n"
)
CHUNK = 1 << 20


@pytest.fixture
def bounds(monkeypatch):
    """Short bounds, so that a test need not wait."""
    monkeypatch.setattr(gcs_session, "TRY_SECONDS", 1.0)
    monkeypatch.setattr(gcs_session, "TOTAL_SECONDS", 20.0)
    monkeypatch.setattr(gcs_session, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(gcs_session, "CHUNK_BYTES", CHUNK)


@pytest.fixture
def proxied(gcs_server, monkeypatch):
    """Starts a proxy before the server; clients of this process and of others go through it."""
    with contextlib.ExitStack() as stack:

        def start(share=0.0, **options):
            proxy = stack.enter_context(serving(FaultProxy(gcs_server.url, share, **options)))
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
            gcs_session.client.cache_clear()
            return proxy

        yield start
    gcs_session.client.cache_clear()


@pytest.fixture
def folder(bounds, proxied):
    """A folder of a new bucket behind a proxy that does nothing yet: (proxy, storage)."""
    proxy = proxied()
    bucket = f"faults-{uuid.uuid4().hex}"
    gcs_session.client().create_bucket(bucket)
    return proxy, uris.open_storage(f"gs://{bucket}/some")


def large(tmp_path, size=(9 << 20) + 1):
    """A file above the size from which an upload is resumable."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 16) * (size >> 16) + b"\1" * (size & 0xFFFF))
    return path


@pytest.mark.case(16, 17, 18, 19)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_operation_outlives_a_fault(folder, tmp_path, fault):
    proxy, opened = folder
    (tmp_path / "source").write_bytes(b"twelve bytes")
    hit = 0

    def met(call):
        nonlocal hit
        proxy.plan(fault)
        result = call()
        hit += not proxy.planned
        proxy.planned.clear()
        assert proxy.hits[fault] == hit, "a request for which there was no fault met one"
        return result

    assert met(lambda: opened.create("a.json", b"created")) is True
    met(lambda: opened.upload(tmp_path / "source", "blob"))
    assert met(lambda: opened.read("a.json")) == b"created"
    met(lambda: opened.download("blob", tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == b"twelve bytes"
    assert met(lambda: [(e.name, e.bytes) for e in opened.list()]) == [("a.json", 7), ("blob", 12)]
    assert met(lambda: opened.exists("blob")) is True
    met(lambda: opened.delete("blob"))
    assert opened.names() == ["a.json"]
    assert hit == {**dict.fromkeys(BODY, 2), **dict.fromkeys(AFTER, 3)}.get(fault, 7)


@pytest.mark.case(17)
@pytest.mark.parametrize(
    ("text", "fault"),
    [("POST ", "reply_lost"), ("upload_id", "reset_after"), ("last", "reply_lost")],
)
def test_a_large_upload_whose_reply_is_lost_is_there_once_and_whole(
    folder, tmp_path, trials, fault, text
):
    """The replies lost are that to its beginning, that to a part of it, and that to its end."""
    proxy, opened = folder
    path = large(tmp_path)
    if text == "last":
        parts = -(-path.stat().st_size // CHUNK)
        sent = proxy.fault_of

        def last_only(request):
            if sum("upload_id" in line for line in proxy.lines) == parts - 1 and not proxy.hits:
                proxy.plan(fault, text="upload_id")
            return sent(request)

        proxy.fault_of = last_only
    else:
        proxy.plan(fault, text=text)
    opened.upload(path, "blob")
    assert proxy.hits == {fault: 1}
    opened.download("blob", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    opened.upload(path, "blob")  # as a second run would
    trials("large uploads with a lost reply", 1)


@pytest.mark.case(17)
@pytest.mark.parametrize("size", [12, (8 << 20) + 1], ids=["small", "large"])
def test_another_content_under_the_name_is_a_conflict(folder, tmp_path, size):
    _, opened = folder
    assert opened.create("blob", b"of another")
    assert opened.create("blob", b"of another") and not opened.create("blob", b"ours")
    with pytest.raises(UserError, match=r"some/blob: holds 10 bytes that are not those"):
        opened.upload(large(tmp_path, size), "blob")
    assert opened.read("blob") == b"of another"


@pytest.mark.case(17)
def test_a_conflict_is_noticed_where_the_other_comes_between(folder, tmp_path, monkeypatch):
    """The other run writes after this one has looked: the precondition of the write fails."""
    _, opened = folder
    looked = opened._holds
    answers = iter([lambda *a: False])
    monkeypatch.setattr(opened, "_holds", lambda *a: next(answers, looked)(*a))
    assert opened.create("blob", b"of another")
    with pytest.raises(UserError, match="not those to be stored"):
        opened.upload(large(tmp_path, 12), "blob")


@pytest.mark.case(18)
def test_a_stalled_body_costs_one_try(folder):
    proxy, opened = folder
    assert opened.create("a", b"content" * 20)
    proxy.stall_seconds = 20
    proxy.plan("stalled")
    started = time.monotonic()
    assert opened.read("a") == b"content" * 20
    assert proxy.hits == {"stalled": 1}
    assert 1.0 <= time.monotonic() - started < 4


@pytest.mark.case(18)
@pytest.mark.parametrize("fault", ["stalled", "cut", "503"])
def test_a_fault_that_lasts_ends_with_the_budget(folder, monkeypatch, fault):
    proxy, opened = folder
    assert opened.create("a", b"content" * 20)
    monkeypatch.setattr(gcs_session, "TOTAL_SECONDS", 2.0)
    proxy.stall_seconds = 20
    proxy.plan(*[fault] * 1000)
    started = time.monotonic()
    with pytest.raises(TryAgain, match=f"{opened.uri}: no response"):
        opened.read("a")
    assert time.monotonic() - started < 5
    assert proxy.hits[fault] >= 2


@pytest.mark.case(16)
def test_a_server_that_names_a_pause_gets_it(folder, monkeypatch):
    proxy, opened = folder
    monkeypatch.setattr(gcs_session, "PAUSE_SECONDS", 1.0)
    proxy.plan("429")
    started = time.monotonic()
    opened.exists("a")
    assert proxy.hits == {"429": 1} and time.monotonic() - started >= 1


@pytest.mark.case(19)
@pytest.mark.parametrize("size", [100, 3 * CHUNK + 5], ids=["whole", "ranged"])
def test_a_corrupted_download_is_read_once_more_then_refused(folder, tmp_path, trials, size):
    proxy, opened = folder
    content = os.urandom(size)
    assert opened.create("a", content)
    proxy.plan("corrupted", "corrupted", text="alt=media")
    with pytest.raises(TryAgain, match=r"some/a: .*differs from the object's CRC32C, twice"):
        if size > CHUNK:  # the first range of the first time, the first of the second
            proxy.planned.clear()
            proxy.plan("corrupted", "corrupted")
            sent = proxy.fault_of
            proxy.fault_of = lambda request: (
                sent(request) if "bytes=0-" in str(request.headers) else ""
            )
        opened.download("a", tmp_path / "a")
    assert proxy.hits == {"corrupted": 2}
    assert list(tmp_path.iterdir()) == []
    opened.download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content
    trials("corrupted downloads refused", 1)


def test_an_object_stored_compressed_is_given_as_it_was(folder):
    import gzip

    _, opened = folder
    blob = opened._bucket.blob("some/packed.csv")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"a,b\n1,2\n"))
    assert opened.read("packed.csv") == b"a,b\n1,2\n"


@pytest.fixture(scope="module")
def items(sample, tmp_path_factory):
    """The artifact of the sample's items."""
    out = tmp_path_factory.mktemp("prepared")
    given = {"catalog": "items", "interactions": "interactions"}
    flags = [p for n, f in given.items() for p in (f"--{n}", str(sample.data / f"{f}.parquet"))]
    call = [sys.executable, "-m", "components", "prepare_data", *flags, "--out", str(out)]
    subprocess.run(call, check=True, cwd=ROOT, capture_output=True)
    return out / "items"


def stage_of(name, *flags, hasty=True, **environment):
    """A stage in a process of its own, ended: exit code, log, seconds."""
    program = ("-c", HASTY) if hasty else ("-m", "components")
    command = [*program, name, *map(str, flags)]
    started = time.monotonic()
    env = {n: v for n, v in (os.environ | environment).items() if v is not None}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=env, cwd=ROOT, timeout=300
    )
    return done.returncode, done.stderr, time.monotonic() - started


def in_bucket(sample):
    """Copies pictures and encoder of the sample into a new bucket."""
    bucket = f"shop-{uuid.uuid4().hex}"
    gcs_session.client().create_bucket(bucket)
    opened = uris.open_storage(f"gs://{bucket}")
    for prefix, root in (("image", sample.image_model), ("pictures", sample.data / "images")):
        for path in (p for p in root.rglob("*") if p.is_file()):
            opened.upload(path, f"{prefix}/{path.relative_to(root).as_posix()}")
    return f"gs://{bucket}"


@pytest.mark.case(16, 17, 18, 19)
def test_a_stage_comes_to_the_same_result_where_one_request_in_five_fails(
    proxied, sample, items, tmp_path, sized, trials
):
    root = in_bucket(sample)
    shared = ["--items", items, "--set=device=cpu", "--set=max_bad_images=0.05", "--set=size=32"]
    local = ["--images", sample.data / "images", "--model", sample.image_model]
    code, log, _ = stage_of("embed_image", *shared, *local, "--out", tmp_path / "undisturbed")
    assert code == 0, log
    expected = Artifact.open(tmp_path / "undisturbed" / "image_embeddings").verify().digest
    for seed in range(sized(1, 8)):
        proxy = proxied(0.2, seed=seed, stall_seconds=30)
        proxy.plan(*AFTER, text="/upload/")
        remote = ["--images", f"{root}/pictures", "--model", f"{root}/image"]
        out, store = tmp_path / f"out-{seed}", f"{root}/store-{seed}"
        code, log, seconds = stage_of(
            "embed_image", *shared, *remote, "--out", out, "--store", store
        )
        assert code == 0, log
        assert Artifact.open(out / "image_embeddings").verify().digest == expected
        assert set(proxy.hits) == set(FAULTS), proxy.hits
        assert proxy.hits.total() > 0.12 * proxy.requests
        assert seconds < 120
        trials("faults met by a stage that came to the same result", proxy.hits.total())


def listening():
    """A server that takes connections and says nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    return server, f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.case(20)
@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("403", 2, "access refused"),
        ("no bucket", 2, "not found"),
        ("no bucket's name", 2, "invalid bucket name"),
        ("no credentials", 2, "no credentials"),
        ("nobody listens", 75, "no response from the storage"),
        ("no answer", 75, "no response from the storage"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told_within_ten_seconds(
    proxied, items, tmp_path, what, code, told
):
    proxy, uri, env = proxied(), "gs://no-such-bucket/store", {}
    if what == "403":
        proxy.plan(*[REFUSED] * 10)
    elif what == "no bucket's name":
        uri = "gs://-bucket-/store"
    elif what == "nobody listens":
        env["STORAGE_EMULATOR_HOST"] = "http://127.0.0.1:9"
    server, address = listening()
    if what == "no answer":
        env["STORAGE_EMULATOR_HOST"] = f"http://{address}"
    if what == "no credentials":  # and a network that swallows the question for the machine's own
        absent = ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "NO_GCE_CHECK")
        env |= dict.fromkeys(absent)
        env |= {"GCE_METADATA_IP": address, "HOME": str(tmp_path), "PATH": ""}
    with server:
        ended, log, seconds = stage_of(
            *("embed_text", "--items", items, "--out", tmp_path / "out", "--store", uri),
            hasty=False,
            **env,
        )
    assert ended == code, log
    assert f"{uri}: " in log and told in log and "Traceback" not in log
    assert seconds < 10
    if what in ("403", "no bucket"):
        assert proxy.requests > 0 and bool(proxy.hits[REFUSED]) == (what == "403")


@pytest.mark.slow
def test_a_whole_run_comes_to_the_same_results(
    proxied, sample, tmp_path, macrec, sized, trials, record_property
):
    if not sized(False, True):
        pytest.skip("nightly: runs of the whole DAG")
    for number in (16, 17, 18, 19):
        record_property("case", number)
    flags = ["--config", SMOKE, *sample.flags, "--set", "embed_image.max_bad_images=0.05"]
    gcs_session.client().create_bucket("whole-run")

    def digests(name, store):
        done = macrec("run", *flags, "--out", tmp_path / name, "--store", store)
        assert done.code == 0, done.err
        run = next((tmp_path / name / "runs").iterdir())
        found = {path.parent.name: path.parent for path in run.rglob("manifest.json")}
        return {name: Artifact.open(path).verify().digest for name, path in found.items()}

    expected = digests("undisturbed", str(tmp_path / "store"))
    proxy = proxied(0.2, stall_seconds=60)
    assert digests("disturbed", "gs://whole-run/store") == expected and len(expected) > 8
    assert not set(FAULTS) - set(proxy.hits) - set(BODY), proxy.hits
    assert digests("reused", "gs://whole-run/store") == expected
    assert set(proxy.hits) == set(FAULTS), proxy.hits
    trials("faults met by whole runs that came to the same results", proxy.hits.total())
