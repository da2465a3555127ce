"""Checks what a run reads: the data, the images, the encoders and the vectors, in one list."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.run_form import (
    ENCODE,
    MIN_INTERACTIONS,
    MODALITIES,
    RECOMMENDER,
    Form,
    data_problems,
    encoder_problems,
    stage_values,
    with_preset,
)
from components.stages import EMBED_IMAGE, PREPARE_DATA
from macrec.core.errors import UserError
from macrec.core.settings import build
from macrec.core.stage_command import open_source
from macrec.core.storage.uris import is_remote
from macrec.data.encoder_folder import refuse_encoder

if TYPE_CHECKING:
    from components.prepare_data.picture_paths import PicturePaths


def validate(values: Mapping[str, Any]) -> None:
    """Check everything that a run with these settings reads, and print the result.

    Raises:
        UserError: if the input has problems; one message lists all of them.
    """
    problems = [*_absent(values), *encoder_problems(values)]
    check = InputCheck(values)
    problems += check.encoder_folders()
    if not problems:
        problems += check.open_encoders()
    check.report.problems[:0] = problems
    check.read_all(skip=[p.partition("=")[0] for p in problems])
    check.report.checked(for_training=True)
    for line in [*check.summaries, *check.report.lines()]:
        print(line)


def check_run_input(values: Mapping[str, Any], form: Form = RECOMMENDER) -> None:
    """Check, before a run starts, what its stages would refuse later.

    The log of interactions is read only if the images or the vectors do not fit the whole
    catalogue, since they need to fit only the items that remain after the filters. Data in a bucket
    are left to the stages, which download them anyway.

    Raises:
        UserError: if data or models are missing, unsuitable or contradict each other.
    """
    check = InputCheck(values, form)
    if problems := [*source_problems(values, form), *check.encoder_folders()]:
        raise UserError("\n  ".join(problems))
    items, log = (str(values.get(name, "")) for name in ("catalog_items", "catalog_interactions"))
    if is_remote(items) or is_remote(log) or check.fits_the_whole_catalogue():
        return
    check.read_all()
    if check.report.problems:
        raise UserError("\n  ".join(check.report.problems))


def source_problems(values: Mapping[str, Any], form: Form = RECOMMENDER) -> list[str]:
    """Return the problems of data and models that are seen without reading any file."""
    return [*_absent(values), *data_problems(values, form)]


def _absent(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={uri}: no such file or folder."
        for name in (*RECOMMENDER.sources, "run_previous")
        if (uri := str(values.get(name) or ""))
        and "://" not in uri
        and not uri.startswith("hub:")
        and not Path(uri).exists()
    ]


class InputCheck:
    """Checks the input of a run.

    Attributes:
        report: problems, warnings and figures so far.
        summaries: lines about images and vectors.
    """

    def __init__(self, values: Mapping[str, Any], form: Form = RECOMMENDER) -> None:
        from components.prepare_data.validation import ValidationReport

        complete = with_preset(values, form)
        if form is ENCODE:
            complete[MIN_INTERACTIONS] = 0
        self._values = values
        self._config = build(PREPARE_DATA.settings, stage_values(complete, PREPARE_DATA))
        self._images = build(EMBED_IMAGE.settings, stage_values(complete, EMBED_IMAGE))
        self.report = ValidationReport()
        self.summaries: list[str] = []

    def encoder_folders(self) -> list[str]:
        """Return the problems of the model folders that exist; no weights are loaded."""
        problems: list[str] = []
        for modality in MODALITIES:
            name = f"encoder_{modality}"
            if uri := self._existing(name):
                problems += refuse_encoder(name, uri, modality)
        return problems

    def open_encoders(self) -> list[str]:
        """Return why the configuration or the tokenizer of a local model cannot be opened."""
        # Imported here because they import torch, which takes seconds to load.
        if not any(self._local(f"encoder_{modality}") for modality in MODALITIES):
            return []
        from components.embed_image.image_encoder import check_image_encoder
        from components.embed_text.text_encoder import check_text_encoder

        problems: list[str] = []
        if text := self._local("encoder_text"):
            problems += _try("encoder_text", lambda: check_text_encoder(_source(text)))
        if image := self._local("encoder_image"):
            size, resize = self._images.size, self._images.resize
            problems += _try(
                "encoder_image", lambda: check_image_encoder(_source(image), size, resize)
            )
        return problems

    def fits_the_whole_catalogue(self) -> bool:
        """Return whether images and vectors raise no problem with any item of the catalogue."""
        from components.prepare_data.picture_paths import read_picture_paths

        names = ("catalog_images", *(f"vectors_{modality}" for modality in MODALITIES))
        if not any(self._local(name) for name in names):
            return True
        path = Path(str(self._values["catalog_items"]))
        try:
            self._compare(path, read_picture_paths(self._config, path))
        except UserError as error:
            self.report.problems.append(str(error))
        fits = not self.report.problems
        self.report.problems.clear()
        self.report.warnings.clear()
        self.summaries.clear()
        return fits

    def read_all(self, skip: list[str] | None = None) -> None:
        """Read the catalogue and the log as a run would, and compare images and vectors with them.

        Args:
            skip: settings whose data have a problem already and are not read.
        """
        from components.prepare_data import validation
        from components.prepare_data.picture_paths import read_picture_paths

        skip = skip or []
        if {"catalog_items", "catalog_interactions"} & set(skip):
            return
        with tempfile.TemporaryDirectory() as cache:
            paths: list[Path] = []
            for name in ("catalog_items", "catalog_interactions"):
                found = open_source(str(self._values[name]), cache=Path(cache))
                assert found is not None
                paths.append(found.path())
            data = validation.validate(self._config, *paths)
            data.problems[:0], data.warnings[:0] = self.report.problems, self.report.warnings
            self.report = data
            names = ("catalog_images", *(f"vectors_{modality}" for modality in MODALITIES))
            if not any(self._existing(name) for name in names if name not in skip):
                return
            try:
                items = read_picture_paths(self._config, paths[0])
            except UserError:
                return  # reported by `validation.validate`
            if data.prepared is not None:
                items = items.keep(data.prepared.keep_item)
            self._compare(paths[0], items, skip)

    def _compare(self, path: Path, items: "PicturePaths", skip: list[str] | None = None) -> None:
        for modality in MODALITIES:
            name = f"vectors_{modality}"
            if name not in (skip or []) and (uri := self._local(name)):
                self._compare_vectors(name, uri, items)
        if "catalog_images" not in (skip or []) and (root := self._existing("catalog_images")):
            problems = _try("", lambda: self._compare_images(path, root, items))
            self.report.problems += problems

    def _compare_vectors(self, name: str, uri: str, items: "PicturePaths") -> None:
        from macrec.data.precomputed_check import check_precomputed

        checked = check_precomputed(name, _source(uri), items.ids)
        self.report.problems += checked.problems
        self.report.warnings += checked.warnings
        if checked.summary:
            self.summaries.append(checked.summary)

    def _compare_images(self, path: Path, root: str, items: "PicturePaths") -> None:
        from components.prepare_data.picture_paths import explain_no_pictures
        from macrec.data.picture_files import check_folder, search_pictures

        check_folder(root)
        if problem := explain_no_pictures(self._config, path, items):
            self.report.problems.append(problem)
            return
        uris = items.paths.drop_null().unique().to_pylist()
        search = search_pictures(root, uris)
        # Without an encoder, the images are only shown in the report.
        limit = self._images.max_missing_images if self._values.get("encoder_image") else 1.0
        if problem := search.problem(limit):
            self.report.problems.append(problem)
        elif warning := search.warning():
            if refused := search.problem(self._images.max_missing_images):
                warning = f"With encoder_image a run refuses this: {refused}"
            self.report.warnings.append(warning)
        self.summaries.append(search.summary())

    def _existing(self, name: str) -> str:
        uri = str(self._values.get(name) or "")
        return uri if is_remote(uri) or self._local(name) else ""

    def _local(self, name: str) -> str:
        uri = str(self._values.get(name) or "")
        outside = "://" in uri or uri.startswith("hub:")
        return uri if uri and not outside and Path(uri).exists() else ""


def _source(uri: str) -> Any:
    return open_source(uri)


def _try(name: str, work: Callable[[], None]) -> list[str]:
    try:
        work()
    except UserError as error:
        return [f"{name}={error}" if name else str(error)]
    return []
