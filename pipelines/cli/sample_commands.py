"""The command that makes the sample catalogue."""

from pathlib import Path
from typing import Annotated

import typer

from macrec.compute.device import silence_progress_bars
from macrec.sample import sample_catalogue, sample_encoders


def make_sample(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the catalogue.")],
    seed: Annotated[int, typer.Option(help="Seed of the catalogue.")] = 7,
    encoders: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also prepare the sample encoders there.")
    ] = None,
    tiny_encoders: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also make tiny random encoders there.")
    ] = None,
) -> None:
    """Make the sample catalogue, whose best recommendations are known."""
    if encoders or tiny_encoders:
        silence_progress_bars()
    sample_catalogue.make_sample(out, seed=seed)
    print(f"sample catalogue: {out}")
    if encoders:
        paths = sample_encoders.prepare_sample_encoders(encoders)
        print(f"sample encoders: {paths.text}, {paths.image}")
    if tiny_encoders:
        paths = sample_encoders.make_tiny_encoders(tiny_encoders, seed=seed)
        print(f"tiny encoders: {paths.text}, {paths.image}")
