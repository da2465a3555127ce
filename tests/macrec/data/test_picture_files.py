"""Pictures of a catalogue are looked up by listing folders, and similar paths become hints."""

from pathlib import Path

import pytest

from macrec.core.errors import UserError
from macrec.data import picture_files
from macrec.data.picture_files import check_folder, search_pictures


def make_files(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_every_picture_that_is_there_is_found(tmp_path: Path) -> None:
    names = [f"{k}.png" for k in range(9)] + [f"a/{k}.png" for k in range(2)] + ["b/c/é.png"]
    make_files(tmp_path, names)
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    search = search_pictures(tmp_path, [*names, "link.png", "./1.png", "a//1.png"])
    assert search.absent == search.outside == [] and search.found == 15
    assert "15 of 15 (100.0%)" in search.summary()
    assert search.problem(0.0) == search.warning() == ""


def test_broken_links_and_paths_through_files_are_absent(tmp_path: Path) -> None:
    make_files(tmp_path, ["0.png", "1.png", "2.png", "3.png"])
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "folder.png").mkdir()
    uris = ["0.png", "1.png", "2.png", "3.png"]
    uris += ["broken.png", "folder.png", "0.png/x.png", "x" * 300, "no/1.png"]
    assert search_pictures(tmp_path, uris).absent == uris[4:]
    assert search_pictures(tmp_path, uris[4:5]).absent == uris[4:5]


def test_paths_that_leave_the_folder_are_not_counted_as_found(tmp_path: Path) -> None:
    root = make_files(tmp_path / "root", ["0.png", "1.png", "2.png", "3.png"])
    make_files(tmp_path, ["secret.png"])
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    uris = ["0.png", "1.png", "2.png", "3.png", "link.png", "folder/secret.png", "../secret.png"]
    search = search_pictures(root, uris)
    assert search.found == 4 and len(search.outside) == 3
    problem = search.problem(1.0)
    assert "3 of 7 picture paths leave the folder" in problem and "link.png" in problem


def test_another_case_is_named_with_both_paths(tmp_path: Path) -> None:
    """The example of issue 27: 34 of 40 paths differ in case."""
    make_files(tmp_path, [f"{k}.png" for k in range(40)])
    uris = [f"{k}.PNG" if k < 34 else f"{k}.png" for k in range(40)]
    problem = search_pictures(tmp_path, uris).problem(0.1)
    for part in (
        "34 of 40 pictures are not found",
        "embed_image.max_missing_images=0.1 allows 4",
        "34 of them are there with another case",
        "'0.PNG'",
        "'0.png'",
    ):
        assert part in problem, problem
    assert "copy" not in problem.lower()


def test_absent_pictures_count_against_the_limit(tmp_path: Path) -> None:
    """The example of issue 27: 18 of 40 pictures are absent."""
    make_files(tmp_path, [f"{k}.png" for k in range(22)])
    search = search_pictures(tmp_path, [f"{k}.png" for k in range(40)])
    assert "22 of 40 (55.0%)" in search.summary()
    problem = search.problem(0.4)
    assert "18 of 40" in problem and "max_missing_images=0.4 allows 16" in problem
    assert "first: 22.png, 23.png, 24.png" in problem and "Copy the missing files" in problem
    assert search.problem(0.45) == ""
    assert "18 of 40" in search.warning()


@pytest.mark.parametrize(
    ("files", "uris", "parts"),
    [
        (["a.jpg", "x.png"], ["a.png", "x.png"], ["1 of them", "another suffix", "'a.jpg'"]),
        (["s/a.png", "x.png"], ["a.png", "x.png"], ["another folder", "'s/a.png'"]),
        (["A/b.JPG", "x.png"], ["a/B.jpg", "x.png"], ["another case", "'A/b.JPG'"]),
        (["e\u0301.png", "x.png"], ["é.png", "x.png"], ["another case"]),
        (["s/a.png", "s/b.png"], ["a.png", "b.png"], ["none of 2", "Set catalog_images={root}/s."]),
        (["x.png"], ["b.png"], ["none of 1", "Check catalog_images and prepare_data.image_column"]),
    ],
)
def test_hints(tmp_path: Path, files: list[str], uris: list[str], parts: list[str]) -> None:
    make_files(tmp_path, files)
    problem = search_pictures(tmp_path, uris).problem(0.0)
    for part in parts:
        assert part.format(root=tmp_path) in problem, problem


def test_a_folder_that_is_part_of_the_paths_is_recognised(tmp_path: Path) -> None:
    root = make_files(tmp_path / "images", ["a.png", "b.png"])
    problem = search_pictures(root, ["images/a.png", "images/b.png"]).problem(0.0)
    assert f"Set catalog_images={tmp_path}." in problem


def test_many_files_of_one_name_take_no_longer(tmp_path: Path) -> None:
    """Every absent path is compared with one file, and not with all of its name."""
    make_files(tmp_path, [f"{k}/main.jpg" for k in range(300)])
    search = search_pictures(tmp_path, [f"x{k}/main.jpg" for k in range(300)])
    assert "300 of them are there in another folder" in search.problem(0.0)


def test_a_bucket_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket:
        def names(self) -> list[str]:
            return ["a.png", "s/b.png"]

    monkeypatch.setattr(picture_files, "open_storage", lambda uri: Bucket())
    search = search_pictures("gs://shop/images", ["a.png", "s/b.png", "./a.png", "c.png", "b.PNG"])
    assert search.absent == ["c.png", "b.PNG"] and search.found == 3
    check_folder("gs://shop/images")


def test_the_message_shows_the_address_that_the_user_gave(tmp_path: Path) -> None:
    problem = search_pictures(tmp_path, ["a.png"], "gs://shop/images").problem(0.0)
    assert "gs://shop/images" in problem and str(tmp_path) not in problem


def test_folders_that_are_refused(tmp_path: Path) -> None:
    make_files(tmp_path, ["a.png"])
    with pytest.raises(UserError, match=r"catalog_images=.*a\.png: is a file"):
        check_folder(str(tmp_path / "a.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no file"):
        check_folder(str(tmp_path / "empty"))
