"""The run form of each pipeline: its fields, and how a user's values become a stage's settings.

Every setting has one name: `STAGE.SETTING` for a stage's settings, such as `train.d_model`, and the
name of the form's field for everything else, such as `catalog_items`. The command line, config
files and this module use these names. In the form itself, the settings of a stage are one JSON
field, `settings_STAGE`, so that the form fits one page.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import yaml

from components.check_run.spec import PREVIOUS as PREVIOUS
from components.check_run.spec import SOURCES
from components.stages import (
    CHECK_RUN,
    EMBED_HISTORIES,
    EMBED_IMAGE,
    EMBED_TEXT,
    ENCODE_ITEMS,
    EVALUATE,
    PREPARE_DATA,
    PSEUDO_LABEL,
    QUANTIZE,
    RECOMMEND,
    RESOLVE_COLLISIONS,
    TRAIN,
)
from macrec.core.errors import UserError
from macrec.core.settings import AS_TEXT, Parameter, SettingsError, build, fields, nearest, parse
from macrec.core.stage import Stage
from macrec.core.stage_command import COMMON, FORCE, GpuCount

PRESETS: Final = Path(__file__).parent / "presets"
PREFIX: Final = "settings_"
"""Prefix of the form's fields that contain the settings of a stage."""
MODALITIES: Final = ("text", "image")
LISTS_TOP_K: Final = "lists_top_k"
MIN_INTERACTIONS: Final = f"{PREPARE_DATA.name}.min_interactions"
# Settings that are a field of the form, because every user of the lists looks for them.
_OWN_FIELD: Final = {f"{RECOMMEND.name}.top_k": LISTS_TOP_K}
# Labels of GPU nodes: the first is set by GKE, the second by NVIDIA's GPU operator on any cluster.
_GPU_LABELS: Final = ("cloud.google.com/gke-accelerator", "nvidia.com/gpu.present")
_NO_GPU: Final = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": n, "operator": "DoesNotExist"} for n in _GPU_LABELS]}
        ]
    }
}
CLUSTER: Final = (
    Parameter(
        "cluster_cpu_affinity",
        dict,
        _NO_GPU,
        "Node affinity of the tasks that need no GPU, as JSON. {} lets them run on any node.",
    ),
    Parameter(
        "cluster_gpu_count",
        GpuCount,
        "1",
        "GPUs of each task on the GPU pool. quantize and train share their work among them; the "
        "others use one. 0 runs these tasks without a GPU.",
        Annotated[GpuCount, AS_TEXT],
    ),
    Parameter("cluster_gpu_node_selector", dict, {}, "Node labels of the GPU pool, as JSON."),
    Parameter("cluster_gpu_tolerations", list, [], "Tolerations of the GPU pool, as JSON."),
)
RUN: Final = tuple(p._replace(name=f"run_{p.name}") for p in COMMON)


class Form(NamedTuple):
    """The run form of a pipeline."""

    pipeline: str
    stages: tuple[Stage, ...]
    """The stages whose settings the form contains, in DAG order."""
    fields: dict[str, Parameter]
    """Every field that the KFP UI shows, by name."""
    settings: dict[str, Parameter]
    """Every value that a user may set, by its one name: `STAGE.SETTING` or a field of the form."""

    @property
    def sources(self) -> list[str]:
        """Return the fields that contain addresses of external data."""
        return [name for name in SOURCES if name in self.fields]


def _form(pipeline: str, stages: tuple[Stage, ...], without: tuple[str, ...] = ()) -> Form:
    of_stages = {f"{PREFIX}{stage.name}" for stage in stages}
    settings = [
        p
        for p in fields(CHECK_RUN.settings)
        if not p.name.startswith(PREFIX) or p.name in of_stages
    ]
    declared = [*settings, *CLUSTER, *RUN]
    shown = {p.name: p for p in declared if p.name not in (*without, "pipeline")}
    plain = {name: p for name, p in shown.items() if name not in of_stages}
    single = {
        f"{stage.name}.{p.name}": p
        for stage in stages
        for p in [*stage.parameters, *([FORCE] if stage.reusable else [])]
        if f"{stage.name}.{p.name}" not in (*without, *_OWN_FIELD)
    }
    return Form(pipeline, stages, shown, plain | single)


RECOMMENDER: Final = _form(
    "recommender",
    (
        PREPARE_DATA,
        EMBED_TEXT,
        EMBED_IMAGE,
        EMBED_HISTORIES,
        PSEUDO_LABEL,
        QUANTIZE,
        RESOLVE_COLLISIONS,
        TRAIN,
        EVALUATE,
        RECOMMEND,
    ),
)
ENCODE: Final = _form(
    "encode",
    (PREPARE_DATA, EMBED_TEXT, EMBED_IMAGE, ENCODE_ITEMS),
    # New items have no interactions yet: `check_form` sets 0, or the k-core filter dropped them.
    without=("preset", "lists_users", "lists_allowed_items", LISTS_TOP_K, MIN_INTERACTIONS),
)
FORMS: Final = {form.pipeline: form for form in (RECOMMENDER, ENCODE)}


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a nested mapping by their one name.

    Args:
        content: a config file, `{"train": {"d_model": 64}, "catalog_items": ...}`, or the arguments
            of a run, `{"settings_train": {"d_model": 64}, "catalog_items": ...}`.
    """
    stages = {stage.name for form in FORMS.values() for stage in form.stages}
    result: dict[str, Any] = {}
    for name, value in content.items():
        stage = name.removeprefix(PREFIX)
        if stage in stages and isinstance(value, Mapping):
            result |= {f"{stage}.{setting}": v for setting, v in value.items()}
        elif not (stage in stages and value is None):
            result[str(name)] = value
    return result


def form_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by field of the run form, as JSON types; `flatten` is the inverse."""
    result: dict[str, Any] = {}
    for name, value in _as_json(values).items():
        stage, dot, setting = name.partition(".")
        if dot:
            result.setdefault(f"{PREFIX}{stage}", {})[setting] = value
        else:
            result[name] = value
    return result


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


@cache
def preset_values(preset: str) -> dict[str, Any]:
    """Return the settings of a preset by their one name."""
    path = PRESETS / f"{preset}.yaml"
    return flatten(yaml.safe_load(path.read_text())) if path.is_file() else {}


def stage_values(values: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """Return the values of one stage, by the stage's own setting names."""
    prefix = f"{stage.name}."
    own = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
    if stage is RECOMMEND and LISTS_TOP_K in values:
        own["top_k"] = values[LISTS_TOP_K]
    return own


def with_preset(values: Mapping[str, Any], form: Form = RECOMMENDER) -> dict[str, Any]:
    """Return the values on top of those of the preset that they name."""
    preset = preset_values(str(values.get("preset", "auto"))) if "preset" in form.fields else {}
    return {**preset, **values}


def resolve(
    values: Mapping[str, Any],
    form: Form = RECOMMENDER,
    origins: Mapping[str, str] | None = None,
    required: bool = True,
) -> dict[str, Any]:
    """Return the values that a user gave, converted to their types and checked.

    Args:
        values: values by their one name, of any type that can be converted.
        form: the run form.
        origins: the file that each value came from, for the message.
        required: whether the fields without a default must be given.

    Raises:
        UserError: a name is unknown, a value has a wrong type or is out of range, settings
            contradict each other, or a required field is missing. One message lists all problems.
    """
    found = _Checker(values, form, origins or {})
    if required:
        absent = [p for n, p in form.settings.items() if p.required and not found.values.get(n)]
        found.problems += [f"{p.name} is required: {p.doc}" for p in absent]
    if found.problems:
        count = len(found.problems)
        raise UserError(
            f"{count} {'problem' if count == 1 else 'problems'} in the settings:\n  "
            + "\n  ".join(found.problems)
        )
    return found.values


class _Checker:
    """Converts and checks values, and collects all problems."""

    def __init__(self, values: Mapping[str, Any], form: Form, origins: Mapping[str, str]) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []
        self._origins = origins
        for name, value in values.items():
            if name not in form.settings:
                self._note(f"there is no setting {name}.{_hint(name, form)}", name)
                continue
            parameter = form.settings[name]._replace(name=name)
            try:
                self.values[name] = parse(parameter, value)
            except SettingsError as error:
                for _, problem in error.problems:
                    self._note(problem, name)
        if not self.problems:
            self._check_stages(form)

    def _check_stages(self, form: Form) -> None:
        """Check the settings of each stage together, on top of the preset."""
        complete = with_preset(self.values, form)
        for stage in form.stages:
            own = stage_values(complete, stage)
            for cls in (stage.settings, stage.execution):
                try:
                    build(cls, own)
                except UserError as error:
                    names = [f"{stage.name}.{name}" for name in own if name in str(error)]
                    self._note(f"{stage.name}: {error}", *names)

    def _note(self, problem: str, *names: str) -> None:
        files = sorted({self._origins[name] for name in names if name in self._origins})
        self.problems.append(problem + (f" (in {', '.join(files)})" if files else ""))


def check_form(arguments: Mapping[str, Any], form: Form) -> dict[str, dict[str, Any]]:
    """Check the arguments of a run and return the settings of every stage.

    Args:
        arguments: values by field of the run form.
        form: the run form.

    Returns:
        For every stage, the settings that the preset and the user chose.

    Raises:
        UserError: see `resolve` and `data_problems`; one message lists all problems.
    """
    values = flatten(arguments)
    problems = list(data_problems(values, form))
    try:
        complete = with_preset(resolve(values, form), form)
    except UserError as error:
        raise UserError("\n  ".join([str(error), *problems])) from None
    if problems:
        raise UserError("\n  ".join(problems))
    if form is ENCODE:
        complete[MIN_INTERACTIONS] = 0
    return {stage.name: _as_json(stage_values(complete, stage)) for stage in form.stages}


def data_problems(values: Mapping[str, Any], form: Form = RECOMMENDER) -> Iterator[str]:
    """Yield the contradictions between the data, the encoders and the settings of a run."""
    yield from encoder_problems(values)
    given = {m: [n for n in vector_fields(m) if values.get(n)] for m in MODALITIES}
    coded = str(values.get("quantize.modalities", "both"))
    wanted = MODALITIES if coded == "both" else (coded,)
    if not any(given.get(modality) for modality in wanted):
        names = " or ".join(name for m in wanted for name in vector_fields(m))
        yield f"there are no vectors to quantize (quantize.modalities={coded}): give {names}."
    if not values.get("run_previous"):
        if form is ENCODE:
            yield "give run_previous, the run whose quantizer and semantic IDs are reused."
        elif values.get("quantize.mode") == "frozen":
            yield "quantize.mode=frozen needs run_previous, the run whose quantizer is reused."


def encoder_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the contradictions between the encoders, the vectors and the images."""
    for modality in MODALITIES:
        if all(values.get(name) for name in vector_fields(modality)):
            yield f"give encoder_{modality} or vectors_{modality}, not both."
    if values.get("encoder_image") and not values.get("catalog_images"):
        yield "encoder_image needs catalog_images, the folder of the images."


def vector_fields(modality: str) -> tuple[str, str]:
    """Return the two fields that can provide a modality's vectors."""
    return f"encoder_{modality}", f"vectors_{modality}"


# Names of earlier versions -> names of today, for the message about an unknown name.
_OLD_NAMES: Final = {
    **{f"{m}_model": f"encoder_{m}" for m in MODALITIES},
    **{f"{m}_embeddings": f"vectors_{m}" for m in MODALITIES},
    "recommend_users": "lists_users",
    "recommend_allowed_items": "lists_allowed_items",
    "recommend_top_k": LISTS_TOP_K,
    "store": "run_store",
    "cache_salt": "run_cache_salt",
    "gpu_count": "cluster_gpu_count",
    "gpu_node_selector": "cluster_gpu_node_selector",
    "gpu_tolerations": "cluster_gpu_tolerations",
    "cpu_node_affinity": "cluster_cpu_affinity",
    **dict.fromkeys(PREVIOUS, "run_previous"),
    "evaluate.look_alikes": "evaluate.similar_item_shares",
    "evaluate.successors": "evaluate.successor_shares",
    "recommend.look_alikes": "recommend.similar_item_share",
    "recommend.successors": "recommend.successor_share",
}
_OLD_PREFIXES: Final = {
    "catalog_": PREPARE_DATA,
    "text_": EMBED_TEXT,
    "image_": EMBED_IMAGE,
    "history_": EMBED_HISTORIES,
    "label_": PSEUDO_LABEL,
    "quantizer_": QUANTIZE,
    "generator_": TRAIN,
    "evaluation_": EVALUATE,
    "recommend_": RECOMMEND,
    "encode_": ENCODE_ITEMS,
}


def current_name(name: str, form: Form = RECOMMENDER) -> str:
    """Return the present name of a setting that an earlier version called `name`.

    A name that is not an earlier one is returned unchanged.
    """
    if name in _OLD_NAMES:
        return _OLD_NAMES[name]
    for prefix, stage in _OLD_PREFIXES.items():
        today = f"{stage.name}.{name.removeprefix(prefix)}"
        today = _OLD_NAMES.get(today, today)
        if name.startswith(prefix) and today in form.settings:
            return today
    return name


def _hint(name: str, form: Form) -> str:
    """Return a hint at the setting that an unknown name means."""
    if name in _OWN_FIELD:
        return f" Set {_OWN_FIELD[name]}."
    if (today := current_name(name, form)) != name:
        return f" Its name is now {today}."
    alone = [known for known in form.settings if known.partition(".")[2] == name]
    if alone:
        return f" Did you mean {' or '.join(alone)}?"
    return nearest(name, form.settings, " `macrec settings` lists all.")
