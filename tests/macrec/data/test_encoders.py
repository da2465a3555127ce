"""Opening encoders, pooling, writing vectors and reading given ones."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from macrec.compute.device import choose_device
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import UserError
from macrec.data import embeddings, encoders, schema


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from macrec.sample.sample_encoders import make_tiny_encoders

    return make_tiny_encoders(tmp_path_factory.mktemp("encoders")).text


def make_items(folder: Path, ids: list[str]) -> Artifact:
    output = DatasetOutput(folder)
    output.prepare()
    count = len(ids)
    rows = {
        "item_index": range(count),
        "item_id": ids,
        "title": [""] * count,
        "text": [""] * count,
        "image_uri": [None] * count,
        "has_image": [False] * count,
    }
    with output.dataset(schema.ITEMS) as writer:
        writer.write(pa.table(rows, schema=schema.ITEMS))
    output.commit({})
    return Artifact.open(folder)


def write(folder: Path, matrix: list[list[float]], status: list[str], *, centre: bool) -> pa.Table:
    output = DatasetOutput(folder)
    output.prepare()
    half = len(status) // 2
    matrix_ND, statuses = np.array(matrix, np.float32), np.array(status, object)
    chunks = [
        embeddings.Vectors(matrix_ND[:half], statuses[:half]),
        embeddings.Vectors(matrix_ND[half:], statuses[half:]),
    ]
    items = make_items(folder.with_name("items"), [f"id-{k}" for k in range(len(status))])
    dim = matrix_ND.shape[1]
    embeddings.write_vectors(output, chunks, items, dim=dim, centre=centre, remedy="Repair them.")
    output.commit({})
    return Artifact.open(folder).table()


def read(
    path: Path, items: Artifact
) -> tuple[embeddings.PrecomputedVectors, list[list[float]], list[str]]:
    given = embeddings.read_precomputed(Source(str(path)), items)
    chunks = list(given.chunks)
    status = [s for chunk in chunks for s in chunk.status]
    return given, [row for chunk in chunks for row in chunk.matrix_ND.tolist()], status


def save_given(path: Path, ids: list[str], vectors: list[list[float] | None]) -> Path:
    kind = pa.list_(pa.float32())
    pq.write_table(pa.table({"item_id": ids, "embedding": pa.array(vectors, kind)}), path)
    return path


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", [[1.0, 0.0], [5.0, 5.0]]),
        ("last_token", [[3.0, 6.0], [5.0, 5.0]]),
        ("mean", [[2.0, 3.0], [5.0, 5.0]]),
    ],
)
def test_pooling_ignores_padding(pooling: str, expected: list[list[float]]) -> None:
    hidden = torch.tensor([[[1.0, 0], [2, 3], [3, 6]], [[5, 5], [99, 99], [99, 99]]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert encoders.pool(hidden, mask, pooling).tolist() == expected


def test_centring_subtracts_the_mean_of_the_present_vectors(tmp_path: Path) -> None:
    matrix, status = [[1.0, 2], [77, 77], [3, 6], [5, 4]], ["ok", "missing", "ok", "ok"]
    table = write(tmp_path, matrix, status, centre=True)
    assert table["embedding"].to_pylist() == [[-2.0, -2.0], None, [0.0, 2.0], [2.0, 0.0]]
    assert table["status"].to_pylist() == status
    assert table["item_index"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.case(26)
def test_few_unusable_vectors_become_null_with_a_reason(tmp_path: Path) -> None:
    matrix = np.ones((3_000, 2), np.float32)
    matrix[7, 1], matrix[1_999], matrix[2_500, 0] = np.nan, 0, -np.inf
    table = write(tmp_path, matrix.tolist(), ["ok"] * 3_000, centre=False)
    found = {i: s for i, s in enumerate(table["status"].to_pylist()) if s != "ok"}
    assert found == {7: "not_finite", 1_999: "all_zero", 2_500: "not_finite"}
    assert table["embedding"].null_count == 3


@pytest.mark.case(26)
def test_many_unusable_vectors_fail_and_are_named(tmp_path: Path) -> None:
    matrix = [[1.0], [0.0], [float("nan")], [2.0]]
    with pytest.raises(UserError, match=r"2 of 4 vectors.*id-1 \(all_zero\), id-2 \(not_finite\)"):
        write(tmp_path, matrix, ["ok"] * 4, centre=False)
    just_over = [[0.0]] * 2 + [[1.0]] * 1_997
    with pytest.raises(UserError, match=r"2 of 1,999 vectors.*At most 0\.1%"):
        write(tmp_path, just_over, ["ok"] * 1_999, centre=False)
    with pytest.raises(UserError, match="none of 2 items"):
        write(tmp_path, [[0.0], [0.0]], ["missing"] * 2, centre=False)


def test_given_vectors_follow_the_items_not_the_file(tmp_path: Path) -> None:
    items = make_items(tmp_path / "items", ["00", "a", "b", "c"])
    file = save_given(
        tmp_path / "v.parquet", ["c", "x", "00", "b"], [[3.0, 3], [9, 9], [1, 2], None]
    )
    given, matrix, status = read(file, items)
    assert (given.dim, given.unknown) == (2, 1)
    assert status == ["ok", "missing", "missing", "ok"]
    assert (matrix[0], matrix[3]) == ([1.0, 2.0], [3.0, 3.0])


@pytest.mark.parametrize("value", [pa.float16(), pa.float64(), pa.int8()])
@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
def test_given_vectors_of_any_number_type(tmp_path: Path, value: pa.DataType, kind: str) -> None:
    items = make_items(tmp_path / "items", ["a", "b"])
    shapes = {"list": pa.list_(value), "large": pa.large_list(value), "fixed": pa.list_(value, 2)}
    vectors = pa.array([None, np.array([1, 2], value.to_pandas_dtype())], shapes[kind])
    (tmp_path / "folder").mkdir()
    table = pa.table({"item_id": ["a", "b"], "embedding": vectors})
    pq.write_table(table, tmp_path / "folder" / "one.parquet")
    _, matrix, status = read(tmp_path / "folder", items)
    assert (matrix[1], status) == ([1.0, 2.0], ["missing", "ok"])


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a", "b"], [[1.0, 2], [1]], "first vector has 2 components, 1 others have 1 to 1"),
        (["a", "a"], [[1.0], [2]], "more than one vector: a"),
        (["x", "y"], [[1.0], [2]], "none of an item of the catalogue"),
        (["a", "b"], [[], []], "empty lists"),
    ],
)
def test_given_vectors_that_are_refused(
    tmp_path: Path, ids: list[str], vectors: list[list[float] | None], message: str
) -> None:
    items = make_items(tmp_path / "items", ["a", "b"])
    with pytest.raises(UserError, match=message):
        read(save_given(tmp_path / "v.parquet", ids, vectors), items)


def test_given_files_that_are_refused(tmp_path: Path) -> None:
    items = make_items(tmp_path / "items", ["1"])
    file = tmp_path / "v.parquet"
    pq.write_table(pa.table({"item_id": [1], "embedding": ["x"]}), file)
    with pytest.raises(UserError, match=r"embedding is string.*item_id is int64"):
        read(file, items)
    pq.write_table(pa.table({"id": [1], "embedding": [[1.0]]}), file)
    with pytest.raises(UserError, match=r"no column 'item_id'.*id, embedding"):
        read(file, items)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read(file, items)


def test_hub_id_is_split_into_name_and_revision() -> None:
    location = encoders.Location.of(Source("org/model@abc123", hub=True))
    assert (location.name, location.options["revision"]) == ("org/model", "abc123")
    assert location.options["trust_remote_code"] is False


def open_model(folder: Path) -> torch.nn.Module:
    source = Source(str(folder))
    location = encoders.Location.of(source)
    config = encoders.load_config(source, location)
    cpu = torch.device("cpu")
    return encoders.load_model(source, location, device=cpu, dtype=torch.float32, config=config)


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_language_model_opens_without_its_head(llama: Path) -> None:
    assert type(open_model(llama)).__name__ == "LlamaModel"


class Sentinel:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.case(37)
def test_pickled_weights_are_refused_unread(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Sentinel(tmp_path / "ran")))
    with pytest.raises(UserError, match="safetensors"):
        open_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.case(37)
def test_code_of_a_model_folder_is_never_run(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: ...\n")
    with pytest.raises(UserError, match="code of a model folder is never run"):
        open_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.case(37)
def test_missing_weights_are_refused_as_they_would_be_random(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(llama, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing.*layers\.1\.mlp\.up_proj"):
        open_model(folder)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        encoders.Location.of(Source(str(tmp_path)))
    with pytest.raises(UserError, match="device 'cuda:99' cannot be used"):
        choose_device("cuda:99")
