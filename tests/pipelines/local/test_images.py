"""The names of the images, what goes in, and what the commands ask of an engine (a stand-in)."""

import io
import json
import re
import shutil
import tarfile
from types import SimpleNamespace

import pytest
import yaml
from docker.errors import ImageNotFound

from macrec.core.errors import UserError
from pipelines.cli import main
from pipelines.dag import compile as dag_compile
from pipelines.dag.compile import locked_images
from pipelines.local import images

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def tree(tmp_path):
    """The sources, to be edited."""
    for path in images.source_files():
        target = tmp_path / path.relative_to(images.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "locks/stages.txt",
        "locks/install.py",
        "docker/Dockerfile",
        "docker/install.sh",
        "docker/sbom.py",
        "src/macrec/generator/model.py",
        "components/train/main.py",
    ],
)
def test_the_tag_follows_every_source(tree, name):
    before = images.tag(tree)
    assert re.fullmatch(r"src-[0-9a-f]{16}", before) and before == images.tag()
    with (tree / name).open("a") as file:
        file.write("# changed\n")
    assert images.tag(tree) != before


def test_a_renamed_or_new_source_is_another_tag(tree):
    tags = {images.tag(tree)}
    (tree / "src/macrec/new.py").touch()
    tags.add(images.tag(tree))
    (tree / "src/macrec/new.py").rename(tree / "src/macrec/newer.py")
    tags.add(images.tag(tree))
    assert len(tags) == 3


def test_what_is_no_source_leaves_the_tag_as_it_is(tree):
    before = images.tag(tree)
    for name in (
        "docker/images.lock",  # else it could not hold the tag
        "pipeline.yaml",
        "README.md",
        "pipelines/local/pipeline_runner.py",
        "components/train/component.yaml",
        "src/macrec/__pycache__/store.cpython-311.pyc",
        "src/macrec.egg-info/PKG-INFO",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("new")
    (tree / "src/macrec/core/store.py").touch()
    (tree / "src/macrec/core/store.py").chmod(0o600)
    assert images.tag(tree) == before


def test_what_is_sent_to_the_engine_is_what_is_hashed(tree):
    (tree / "src/macrec/core/store.py").chmod(0o600)  # a stage of another user must read it
    sent = images.context(tree)
    with tarfile.open(fileobj=sent) as tar:
        entries = tar.getmembers()
        assert [e.name for e in entries] == [
            p.relative_to(tree).as_posix() for p in images.source_files(tree)
        ]
        assert {(e.mode, e.uid, e.mtime) for e in entries} == {(0o644, 0, 0)}
    assert sent.getvalue() == images.context().getvalue()  # of the tree that this is a copy of


def test_the_dockerfile_copies_nothing_that_is_not_hashed():
    copied = re.findall(r"^COPY (.+) \S+$", (images.ROOT / images.DOCKERFILE).read_text(), re.M)
    names = {word for line in copied for word in line.split()}
    assert names <= {*images.SOURCES, *images.FOLDERS} and {"src", "components"} <= names


def test_nothing_in_the_image_needs_the_packages_that_are_left_out():
    """kfp_component.py alone imports kfp, and it runs where pipelines are made."""
    program = (images.ROOT / "locks" / "lock.py").read_text()
    left_out = re.search(r"OF_PIPELINES = \((.+)\)", program)
    assert left_out
    packages = "|".join(name.strip('" ').replace("-", "_") for name in left_out[1].split(","))
    importing = {
        path.name
        for folder in images.FOLDERS
        for path in (images.ROOT / folder).rglob("*.py")
        if re.search(rf"^\s*(from|import) ({packages})\b", path.read_text(), re.M)
    }
    assert importing == {"kfp_component.py"}


def test_outside_of_a_checkout_there_is_no_tag(tmp_path):
    with pytest.raises(UserError, match=r"no docker/Dockerfile.*checkout"):
        images.tag(tmp_path)


class Engine:
    """An engine that notes what is built and pushed."""

    def __init__(self, events=(), known=True, packages=()):
        self.events, self.known, self.asked = list(events), known, []
        listed = [
            {"name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
            for name, version in packages
        ]
        listed.append({"name": "nvidia-driver", "version": "1", "purl": "pkg:deb/debian/nvidia"})
        self.packages = json.dumps({"components": listed}).encode()
        self.api = self.images = self.containers = self
        self.attrs = {"Size": 1.5e9}

    def build(self, **settings):
        self.asked.append(settings)
        return iter(self.events)

    def push(self, name, tag, **_):
        self.asked.append(f"{name}:{tag}")
        return iter(self.events)

    def get(self, name):
        if not self.known:
            raise ImageNotFound(name)
        return self

    def create(self, name, command):
        return self

    def get_archive(self, path):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            entry = tarfile.TarInfo("sbom.cdx.json")
            entry.size = len(self.packages)
            tar.addfile(entry, io.BytesIO(self.packages))
        return iter([content.getvalue()]), {}

    def remove(self, force):
        assert force


@pytest.fixture
def run(monkeypatch, tmp_path, here):
    """Runs a command of `macrec images` with an engine; the project's own files stay."""
    monkeypatch.setattr(images, "MADE", tmp_path / "made")
    monkeypatch.setattr(images, "IMAGES_LOCK", tmp_path / "images.lock")
    monkeypatch.setattr(images, "PIPELINE_YAML", tmp_path / "pipeline.yaml")
    monkeypatch.setattr(images, "write_components", lambda images: None)

    def run(engine, *arguments):
        monkeypatch.setattr(images, "connect", lambda: engine)
        return here("images", *arguments)

    return SimpleNamespace(command=run, folder=tmp_path)


@pytest.mark.parametrize(
    ("packages", "torch"),
    [
        ([("torch", "2.0+cpu")], "PyTorch 2.0+cpu without CUDA"),
        ([("torch", "2.0"), ("nvidia-cublas", "13.1")], "PyTorch 2.0 with CUDA"),
    ],
)
def test_build_names_the_image_after_its_sources_and_writes_its_packages(
    run, caplog, packages, torch
):
    lines = "STEP 1/2: FROM base\nCollecting torch\nPyTorch: from an index.\nready: Python\n"
    engine = Engine([{"stream": lines}, {"aux": {"ID": "sha256:1"}}], packages=packages)
    called = run.command(
        engine,
        "build",
        "cpu",
        "--repository",
        "shop/macrec",
        "--base-image",
        "b",
        "--build-arg",
        "A=1",
    )
    (asked,) = engine.asked
    assert asked["tag"] == f"shop/macrec-cpu:{images.tag()}" and asked["target"] == "cpu"
    assert asked["buildargs"] == {"A": "1", "BASE_IMAGE": "b"}
    listed = run.folder / "made" / images.tag() / "cpu.cdx.json"
    assert listed.read_bytes() == engine.packages
    assert called.out == f"{asked['tag']}  1.50 GB  {torch}  packages: {listed}\n"
    shown = [record.message for record in caplog.records]
    assert shown[1:] == ["STEP 1/2: FROM base", "PyTorch: from an index.", "ready: Python"]


def test_a_build_that_fails_says_what_came_before(run):
    events = [{"stream": "Collecting torch\n"}, {"error": "install.sh: exit status 1\n"}]
    called = run.command(Engine(events), "build", "cpu")
    assert called.code == 2 and "exit status 1\n  Collecting torch" in called.err


def test_push_then_lock_names_digests_and_compiles_with_them(run):
    engine = Engine([{"status": "Pushing"}, {"status": f"src-0: digest: {DIGEST} size: 349"}])
    pushed = run.command(engine, "push", "--repository", "host:5000/shop/macrec")
    name = f"host:5000/shop/macrec-{{}}:{images.tag()}"
    assert engine.asked == [name.format("cpu"), name.format("gpu")]
    written = run.command(engine, "lock", "--repository", "host:5000/shop/macrec")
    locked = json.loads((run.folder / "images.lock").read_text())
    assert locked == {pool: f"{name.format(pool)}@{DIGEST}" for pool in ("cpu", "gpu")}
    spec, _ = yaml.safe_load_all((run.folder / "pipeline.yaml").read_text())
    named = {e["container"]["image"] for e in spec["deploymentSpec"]["executors"].values()}
    assert named == set(locked.values())
    images.check_lock(locked)
    assert (pushed.out + written.out).count(DIGEST) == 4


def test_lock_without_a_push_names_tags_and_says_so(run):
    called = run.command(None, "lock", "--repository", "shop/macrec")
    locked = json.loads((run.folder / "images.lock").read_text())
    assert locked == {pool: f"shop/macrec-{pool}:{images.tag()}" for pool in ("cpu", "gpu")}
    assert called.out.count("not pushed from here") == 2


def test_what_is_not_built_is_not_pushed(run):
    called = run.command(Engine(known=False), "push", "cpu")
    assert called.code == 2
    assert re.search(r"no image macrec-cpu:src-\w+: run `macrec images build`", called.err)


def test_a_registry_that_refuses_is_a_user_error(run):
    called = run.command(Engine([{"error": "denied"}]), "push", "cpu")
    assert called.code == 2 and re.search(r"pushing macrec-cpu.*denied", called.err)
    assert not (run.folder / "made").exists()


def test_pools_and_build_arguments_are_checked(run):
    engine = Engine()
    wrong = run.command(engine, "build", "tpu")
    assert wrong.code == 2 and all(part in wrong.err for part in ("tpu", "cpu", "gpu"))
    wrong = run.command(engine, "build", "--build-arg", "A")
    assert wrong.code == 2 and "--build-arg A: write NAME=VALUE" in wrong.err
    assert not engine.asked


def test_a_lock_of_other_sources_is_refused():
    of_these = f"shop/macrec-cpu:{images.tag()}@{DIGEST}"
    images.check_lock({"cpu": of_these, "gpu": "macrec-gpu:0.1.0"})
    with pytest.raises(UserError, match=r"gpu=shop/macrec-gpu:src-0+@.*images build") as refused:
        images.check_lock({"cpu": of_these, "gpu": f"shop/macrec-gpu:src-{'0' * 16}@{DIGEST}"})
    assert of_these not in str(refused.value)


def test_the_committed_lock_is_not_of_other_sources():
    """On the trunk it names no build; in a release it must be of what is released."""
    images.check_lock(locked_images())


def test_compile_refuses_a_lock_of_other_sources(macrec, monkeypatch, tmp_path):
    behind = {"cpu": "shop/macrec-cpu:src-0", "gpu": "shop/macrec-gpu:src-0"}
    (tmp_path / "images.lock").write_text(json.dumps(behind))
    monkeypatch.setattr(dag_compile, "IMAGES_LOCK", tmp_path / "images.lock")
    out = tmp_path / "pipeline.yaml"
    for extra, code in ([[], 2], [["--cpu-image", "a", "--gpu-image", "b"], 0]):
        with pytest.raises(SystemExit) as ended:
            main.main(["compile", "--out", str(out), *extra])
        assert ended.value.code == code and out.exists() == (code == 0)


@pytest.mark.parametrize("command", [["build", "cpu"], ["push"]])
def test_without_an_engine_the_commands_say_so(macrec, monkeypatch, command):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/engine.sock")
    called = macrec("images", *command)
    assert called.code == 2 and "unix:///nowhere/engine.sock" in called.err
    assert "Traceback" not in called.err
