"""Picture paths that lead elsewhere: refused by every stage that reads pictures, and not opened."""

import http.server
import json
import threading
from pathlib import Path

import pytest

from components.embed_image.pictures import Geometry, inside_root, load_picture
from components.evaluate.example_users import thumbnail
from macrec.core.errors import UserError
from tests.attacks.bombs import encoded, noise
from tests.attacks.limited import run_stage
from tests.attacks.watch import Watch


class Root:
    """A folder of pictures beside a secret one, and a web server that counts who asks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, folder / "images"
        (self.images / "a").mkdir(parents=True)
        self.secret, self.good = folder / "secret.png", self.images / "good.png"
        self.secret.write_bytes(encoded(noise(40, 40), "PNG"))
        self.good.write_bytes(encoded(noise(40, 40, 1), "PNG"))
        (self.images / "link.png").symlink_to(self.secret)
        (self.images / "linked").symlink_to(folder)
        (self.images / "a" / "chain.png").symlink_to("../link.png")
        (self.images / "loop.png").symlink_to("loop.png")
        self.asked: list[str] = []
        root = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                root.asked.append(self.path)

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.uris = [
            "../secret.png",
            "a/../../secret.png",
            "a\\..\\..\\secret.png",
            str(self.secret),
            "C:\\secret.png",
            "link.png",
            "a/chain.png",
            "linked/secret.png",
            "good.png\0.jpg",
            f"file://{self.secret}",
            f"http://127.0.0.1:{self.server.server_port}/latest/meta-data",
            "http://169.254.169.254/latest/meta-data",
            "gs://bucket/secret.png",
            "data:image/png;base64,AAAA",
        ]


@pytest.fixture
def root(tmp_path):
    made = Root(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.case(24)
def test_the_picture_stage_refuses_them_all_and_opens_nothing(root, encoders, make_items, trials):
    items = make_items(root.folder / "items", ["good.png", *root.uris])
    watch = Watch(root.secret, root.good)
    ended = run_stage(
        "embed_image",
        root.folder,
        *("--items", items.path, "--images", root.images, "--model", encoders.image),
        *("--images-snapshot", "known"),  # else its digest would read every file, links as well
        *("--set=device=cpu", "--out", root.folder / "out"),
    )
    assert ended.code == 2 and "Traceback" not in ended.log, ended.log
    count = len(root.uris)
    assert f"{count} of {count + 1} picture paths leave the folder" in ended.log
    assert not watch.opened() and not root.asked
    assert root.secret.read_bytes() and watch.opened()  # it does notice
    trials("paths refused unopened", count)


@pytest.mark.case(24)
def test_prepare_data_refuses_them_before_that(root):
    """But for links, which only a look at the folder shows."""
    uris = [uri for uri in root.uris if "link" not in uri and "chain" not in uri and uri[0] != "l"]
    rows = [{"item_id": f"i{k}", "title": "x", "image": uri} for k, uri in enumerate(uris)]
    log = [{"user_id": "u", "item_id": f"i{k}", "timestamp": 1_500_000_000 + k} for k in range(5)]
    for name, content in (("items.jsonl", rows), ("log.jsonl", log)):
        text = "".join(json.dumps(row) + "\n" for row in content)
        (root.folder / name).write_text(text)
    ended = run_stage(
        "prepare_data",
        root.folder,
        *("--catalog", root.folder / "items.jsonl", "--out", root.folder / "out"),
        *("--interactions", root.folder / "log.jsonl", "--set=min_interactions=0"),
    )
    assert ended.code == 2 and "Traceback" not in ended.log, ended.log
    assert f"{len(uris) - 1} image paths leave the image folder" in ended.log
    assert "NUL character" in ended.log and not root.asked


@pytest.mark.case(24)
def test_the_report_shows_none_of_them(root, trials):
    watch = Watch(root.secret)
    assert thumbnail(root.images, "good.png") is not None
    for uri in root.uris:
        assert thumbnail(root.images, uri) is None, uri
    assert not watch.opened() and not root.asked
    trials("paths left out of the report", len(root.uris))


@pytest.mark.case(24)
def test_paths_that_the_file_system_refuses_are_unreadable_and_no_crash(root):
    uris = ["x" * 300 + ".png", "a/" * 3_000 + "x.png", "loop.png", "good.png/x.png"]
    paths = inside_root(root.images, uris)
    found = [load_picture(path, Geometry(32, 32, False, 3), 1_000_000) for path in paths]
    assert found == ["unreadable"] * 3 + ["absent"]
    with pytest.raises(UserError, match="1 of 2 picture paths leave"):
        inside_root(root.images, ["good.png", "x" * 300 + "/../../secret.png"])
