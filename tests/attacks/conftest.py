"""Small encoders and catalogues that attacks are made on."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from macrec.core.artifact import Artifact
from macrec.data import schema
from macrec.sample.sample_encoders import SampleEncoders, make_tiny_encoders
from tests.artifacts import dataset
from tests.attacks.hostile_run import EXOTIC, HostileRun, Listener, attacks, run_hostile


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> SampleEncoders:
    return make_tiny_encoders(tmp_path_factory.mktemp("encoders"), seed=7)


def items_artifact(
    path: Path, uris: Sequence[str | None], texts: Sequence[str] | None = None
) -> Artifact:
    """The items of prepare_data, one a picture (and text), named by their places."""
    texts = texts or [""] * len(uris)
    columns = {
        "item_index": range(len(uris)),
        "item_id": [f"id{k}" for k in range(len(uris))],
        "title": texts,
        "text": texts,
        "image_uri": uris,
        "has_image": [uri is not None for uri in uris],
    }
    return dataset(path, schema.ITEMS, columns)


@pytest.fixture(scope="session")
def make_items() -> Callable[..., Artifact]:
    return items_artifact


@pytest.fixture(scope="session")
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> HostileRun:
    return run_hostile(tmp_path_factory.mktemp("hostile"), [*attacks(listener.url), *EXOTIC])
