"""Options that several commands share: groups, precedence of settings, environment variables."""

from typing import Annotated

import pytest
import typer

from components.run_form import ENCODE, RECOMMENDER
from macrec.core.errors import UserError
from pipelines.cli import main, run_commands, shared_options
from pipelines.cli.option_groups import OptionGroup, expand
from pipelines.cli.shared_options import SettingSources
from pipelines.local import containers, images

DATA = {"catalog_items": "items", "catalog_interactions": "log"}


def parsed(command, *arguments):
    """The values of a command's options, by parameter."""
    return main.load(command).make_context(command, list(arguments)).params


def read_point(x: Annotated[int, typer.Option()] = 0, y: Annotated[int, typer.Option()] = 0):
    return x, y


def read_line(
    *, start: Annotated[tuple, OptionGroup(read_point)], width: Annotated[int, typer.Option()] = 1
):
    return start, width


def test_a_group_gives_a_command_its_options():
    def draw(*, name: str, line: Annotated[tuple, OptionGroup(read_line)], dry: bool = False):
        """Draw."""
        return name, line, dry

    command = expand(draw)
    values = {"name": "a", "x": 1, "y": 2, "width": 3, "dry": True}
    assert command(**values) == ("a", ((1, 2), 3), True)
    app = typer.Typer(add_completion=False)
    app.command()(command)
    options = [p.name for p in typer.main.get_command(app).params]
    assert options == ["name", "x", "y", "width", "dry"]
    assert command.__doc__ == "Draw."


def test_every_source_of_a_run_has_a_flag():
    sources = [name for name in RECOMMENDER.sources if not name.startswith("lists_")]
    for command in ("run", "submit", "schedule", "validate", "encode-items"):
        assert set(sources) <= set(parsed_names(command)), command
    lists = [name for name in RECOMMENDER.sources if name.startswith("lists_")]
    assert {name.removeprefix("lists_") for name in lists} <= set(parsed_names("recommend"))


def parsed_names(command):
    return [parameter.name for parameter in main.load(command).params]


def test_presets_are_for_runs_of_the_whole_pipeline():
    given = {name for name in main.COMMANDS if "preset" in parsed_names(name)}
    assert given == {"run", "submit", "schedule"}


def test_precedence_rises_from_the_earlier_run_over_files_and_flags_to_set(tmp_path):
    one, two = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.write_text("train: {d_model: 32, layers: 2, heads: 3}\nencoder_text: file\n")
    two.write_text("train: {layers: 5, heads: 5}\n")
    earlier = {**DATA, "train.d_model": 8, "train.epochs": 9, "train.layers": 9}
    sources = SettingSources([one, two], ["train.heads=7"], {"encoder_text": "flag"})
    assert sources.resolve(earlier) == {
        **DATA,
        "train.epochs": 9,
        "train.d_model": 32,
        "train.layers": 5,
        "train.heads": 7,
        "encoder_text": "flag",
    }
    last = SettingSources([one], ["encoder_text=set", "train.layers=1", "train.layers=2"], {})
    values = last.with_flags({"encoder_text": "flag", "preset": None}).resolve(DATA)
    assert values["encoder_text"] == "set" and values["train.layers"] == 2
    assert "preset" not in values


def test_one_message_lists_all_problems(tmp_path, here):
    config = tmp_path / "c.yaml"
    config.write_text("train: {d_modl: 32, dropout: 2}\nlists_top_k: -1\n")
    called = here(
        *("submit", "--config", config, "--preset", "papr", "--set", "quantize.levels=x"),
        *("--set", "levels=3", "--store", "gs://shop/store"),
    )
    assert called.code == 2
    for part in ("train.d_modl", "train.d_model?", "train.dropout=2", "lists_top_k=-1", "papr"):
        assert part in called.err
    for part in ("quantize.levels='x'", "setting levels", str(config), "catalog_items is required"):
        assert part in called.err
    assert "8 problems" in called.err


def test_an_assignment_needs_an_equals_sign(here):
    called = here("validate", "--set", "train.epochs")
    assert called.code == 2 and "--set train.epochs" in called.err and "NAME=VALUE" in called.err


def test_a_file_of_a_run_serves_the_encoding_pipeline_too(tmp_path, caplog):
    caplog.set_level("INFO")
    config = tmp_path / "c.yaml"
    config.write_text("train: {epochs: 3}\nembed_text: {max_tokens: 8}\n")
    values = SettingSources([config], [], DATA).resolve({"run_previous": "out"}, ENCODE)
    assert values == {**DATA, "run_previous": "out", "embed_text.max_tokens": 8}
    assert "train.epochs" in caplog.text
    with pytest.raises(UserError, match=r"train\.epochs"):
        SettingSources([], ["train.epochs=3"], DATA).resolve({}, ENCODE)


@pytest.mark.parametrize(
    ("arguments", "image"),
    [
        ([], None),
        (["--containers"], ""),
        (["--containers", "--network", "host"], ""),
        (["--containers", "mine:1", "--network", "host"], "mine:1"),
        (["--containers=mine:1"], "mine:1"),
        (["--containers", ""], ""),
        (["--set", "a=--containers"], None),
    ],
)
def test_the_image_of_the_containers_may_be_left_out(arguments, image):
    assert parsed("run", "--out", "o", *arguments)["image"] == image
    assert parsed("run", *arguments, "--out", "o")["image"] == image
    assert parsed("rerun", "out", *arguments)["image"] == image


def test_the_settings_of_the_containers():
    assert shared_options.read_containers(None, "host") is None
    current = containers.Options(images.reference("cpu"), "host")
    assert shared_options.read_containers("", "host") == current
    assert shared_options.read_containers("mine:1") == containers.Options("mine:1", "none")


def test_the_environment_replaces_the_flags_of_the_backend(monkeypatch):
    for name in ("ENDPOINT", "NAMESPACE", "TOKEN_FILE", "CA_FILE", "EXPERIMENT"):
        monkeypatch.setenv(f"KFP_{name}", f"the {name}")
    values = parsed("submit", "--namespace", "mine")
    assert values["endpoint"] == "the ENDPOINT" and values["namespace"] == "mine"
    assert values["token_file"] == "the TOKEN_FILE" and values["ca_file"] == "the CA_FILE"
    assert values["experiment"] == "the EXPERIMENT"
    monkeypatch.setenv("KFP_EXPERIMENT", "")
    assert parsed("submit")["experiment"] == "macrec"


def test_the_settings_of_recommend_are_those_of_its_stage():
    names = {f"lists_{name}" for name in ("users", "allowed_items", "top_k")}
    stage = {name for name in RECOMMENDER.settings if name.startswith("recommend.")}
    assert set(run_commands.LISTS.settings) == names | stage
