"""Text vectors: independent of batches, in item order, equal to the model run alone."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.embed_text import spec, stage
from components.embed_text.text_encoder import (
    TextBatch,
    TextEncoder,
    batches_by_length,
    padded_length,
)
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.columns import embedding_matrix
from tests.jobs import job

TEXTS = [
    "Fender Stratocaster",
    "",
    "a",
    "Yamaha FG800 " * 9,
    "  \n",
    "Trompete für Anfänger 🎺",
    "bb",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Source:
    from macrec.sample.sample_encoders import make_tiny_encoders

    return Source(str(make_tiny_encoders(tmp_path_factory.mktemp("encoders")).text))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Source:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "red", "blue", "guitar", "drum"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=6,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return Source(str(folder))


def make_items(folder: Path, texts: list[str]) -> Artifact:
    output = DatasetOutput(folder)
    output.prepare()
    rows = {
        "item_index": range(len(texts)),
        "item_id": [f"id{i}" for i in range(len(texts))],
        "title": texts,
        "text": texts,
        "image_uri": [None] * len(texts),
        "has_image": [False] * len(texts),
    }
    with output.dataset(schema.ITEMS) as writer:
        writer.write(pa.table(rows, schema=schema.ITEMS))
    output.commit({})
    return Artifact.open(folder)


def run(
    folder: Path,
    texts: list[str] | None = None,
    model: Source | None = None,
    given: Source | None = None,
    cache_uri: str = "",
    batch_tokens: int = 64,
    dtype: Literal["auto", "bfloat16"] = "auto",
    **settings: object,
) -> tuple[Artifact, dict[str, float]]:
    execution = spec.Execution(batch_tokens=batch_tokens, device="cpu", dtype=dtype)
    output = DatasetOutput(folder / "out")
    output.prepare()
    metrics = stage.run(
        job(
            spec.Settings(**settings),  # type: ignore[arg-type]
            spec.Inputs(
                items=make_items(folder / "items", texts or TEXTS), model=model, embeddings=given
            ),
            spec.Outputs(text_embeddings=output),
            execution,
            cache_uri=cache_uri,
        )
    )
    output.commit({})
    return Artifact.open(folder / "out"), metrics


def alone(source: Source, text: str, pooling: str) -> np.ndarray:
    """The vector by transformers itself: one text, no padding."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(source.path()).eval()
    ids = AutoTokenizer.from_pretrained(source.path())(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        hidden = model(input_ids=ids).last_hidden_state[0]
    return {"mean": hidden.mean(0), "last_token": hidden[-1], "cls": hidden[0]}[pooling].numpy()


@pytest.mark.parametrize("pooling", ["mean", "last_token"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_vectors_equal_the_model_run_alone(
    kind: str, pooling: str, request: pytest.FixtureRequest
) -> None:
    source: Source = request.getfixturevalue(kind)
    texts = ["red guitar", "blue", "red blue drum guitar red", "drum"]
    encoder = TextEncoder(source, pooling=pooling, batch_tokens=10_000, device="cpu")
    matrix = encoder.encode(texts).matrix_ND
    assert encoder.padding_share > 0.3  # so that padding has had its chance to do harm
    expected = np.stack([alone(source, text, pooling) for text in texts])
    np.testing.assert_allclose(matrix, expected, atol=1e-5)
    assert np.abs(matrix[0] - matrix[1]).max() > 1e-2


@pytest.mark.parametrize("budget", [1, 64, 10_000])
def test_batch_budget_changes_nothing(llama: Source, tmp_path: Path, budget: int) -> None:
    reference, _ = run(tmp_path / "a", model=llama, batch_tokens=200)
    other, _ = run(tmp_path / "b", model=llama, batch_tokens=budget)
    np.testing.assert_allclose(
        embedding_matrix(other, "embedding"), embedding_matrix(reference, "embedding"), atol=1e-5
    )


@pytest.mark.case(32)
def test_rows_keep_item_order_and_empty_text_is_null(llama: Source, tmp_path: Path) -> None:
    prompt = "Name: {}\nKind:"
    artifact, metrics = run(tmp_path, model=llama, prompt=prompt, centre=False)
    table = artifact.table()
    assert table["status"].to_pylist() == ["ok", "missing", "ok", "ok", "missing", "ok", "ok"]
    for text, vector in zip(TEXTS, table["embedding"].to_pylist(), strict=True):
        if text.strip():
            np.testing.assert_allclose(
                vector, alone(llama, prompt.replace("{}", text), "last_token"), atol=1e-5
            )
        else:
            assert vector is None
    assert (metrics["items"], metrics["missing"], metrics["dim"]) == (7, 2, 32)
    assert metrics["tokens"] == sum(
        len(prompt.replace("{}", t).encode()) for t in TEXTS if t.strip()
    )


def test_centred_vectors_have_mean_zero(llama: Source, tmp_path: Path) -> None:
    plain = embedding_matrix(run(tmp_path / "a", model=llama, centre=False)[0], "embedding")
    centred = embedding_matrix(run(tmp_path / "b", model=llama, centre=True)[0], "embedding")
    present = plain.any(1)
    np.testing.assert_allclose(centred[present], plain[present] - plain[present].mean(0), atol=1e-5)


@pytest.mark.case(32)
def test_long_text_is_cut_by_tokens_and_keeps_the_prompt(llama: Source) -> None:
    encoder = TextEncoder(llama, prompt="<{}>", max_tokens=5, device="cpu")
    short = TextEncoder(llama, prompt="<{}>", max_tokens=50, device="cpu")
    # The tiny tokenizer reads bytes: a huge text and one whose fifth byte is inside a letter.
    cut = encoder.encode(["abcdefghij", "abcde", "x" * 5_000_000, "abcdüz"]).matrix_ND
    whole = short.encode(["abcde", "abcde", "xxxxx", "abcdü"]).matrix_ND
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    assert (encoder.truncated, short.truncated) == (3, 0)


def test_batches_cover_every_row_once_in_shapes_that_only_lengths_decide() -> None:
    lengths = [5, 1, 30, 2, 2, 9, 1, 7]
    batches = [*batches_by_length(lengths, 16)]
    assert sorted(i for batch in batches for i in batch.rows) == list(range(8))
    assert batches[0] == ([2], 1, 32)  # longer than the budget: alone, and first
    for rows, count, width in batches:
        assert len(rows) <= count == max(1, 16 // width)
        assert {padded_length(lengths[i]) for i in rows} == {width}
    padded = [padded_length(length) for length in range(1, 1_000)]
    assert padded == sorted(padded) and len(set(padded)) < 40
    assert all(length <= p <= 1.25 * length for length, p in enumerate(padded, 1))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_vector_is_the_same_bytes_whatever_stands_beside_it(llama: Source, threads: int) -> None:
    texts = [f"item {i} " + "word " * (i % 9) for i in range(120)]
    reference = TextEncoder(llama, device="cpu", threads=1).encode(texts).matrix_ND
    encoder = TextEncoder(llama, device="cpu", threads=threads)
    some = np.random.default_rng(0).permutation(120)[:50]
    np.testing.assert_array_equal(
        encoder.encode([texts[i] for i in some]).matrix_ND, reference[some]
    )
    np.testing.assert_array_equal(encoder.encode([texts[7]]).matrix_ND[0], reference[7])


def test_the_model_reads_only_what_is_not_in_the_cache(llama: Source, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    cold, counts = run(tmp_path / "a", model=llama, cache_uri=cache)
    assert (counts["embedded_items"], counts["cached_items"]) == (5, 0)
    again, counts = run(tmp_path / "b", model=llama, cache_uri=cache)
    assert (counts["embedded_items"], counts["cached_items"], counts["tokens"]) == (0, 5, 0)
    assert again.digest == cold.digest == run(tmp_path / "c", model=llama)[0].digest
    # Another order, a new text, one that is gone: the mean is another, the raw vectors are not.
    texts = [*TEXTS[3:], "new", *TEXTS[:2]]
    warm, counts = run(tmp_path / "d", texts, llama, cache_uri=cache)
    assert (counts["embedded_items"], counts["cached_items"]) == (1, 4)
    assert warm.digest == run(tmp_path / "e", texts, llama)[0].digest


def test_parts_fill_the_cache_and_the_whole_takes_its_vectors(
    llama: Source, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    done = [
        run(tmp_path / str(k), model=llama, cache_uri=cache, shard=f"{k}/3")[1] for k in (1, 2, 3)
    ]
    assert [counts["embedded_items"] for counts in done] == [1, 2, 2]
    whole, counts = run(tmp_path / "whole", model=llama, cache_uri=cache)
    assert (counts["embedded_items"], counts["cached_items"]) == (0, 5)
    assert whole.digest == run(tmp_path / "alone", model=llama)[0].digest
    nothing, counts = run(tmp_path / "none", model=llama, shard="1/3")  # no store, no cache
    assert set(nothing.table()["status"].to_pylist()) == {"missing"} and counts["ok"] == 0


@pytest.mark.parametrize(
    "settings", [{"pooling": "mean"}, {"prompt": "<{}>"}, {"max_tokens": 3}, {"dtype": "bfloat16"}]
)
def test_another_encoder_has_another_cache(
    llama: Source, tmp_path: Path, settings: dict[str, str]
) -> None:
    cache = str(tmp_path / "cache")
    run(tmp_path / "a", model=llama, cache_uri=cache)
    other, counts = run(tmp_path / "b", model=llama, cache_uri=cache, **settings)
    assert counts["cached_items"] == 0
    assert other.digest == run(tmp_path / "c", model=llama, **settings)[0].digest
    _, counts = run(tmp_path / "d", model=llama, cache_uri=cache, centre=False)
    assert counts["embedded_items"] == 0  # the mean is taken off what the cache holds


def test_an_embedding_that_was_cut_short_goes_on(
    llama: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preempted(self: TextEncoder, batch: TextBatch, ids: list[list[int]]) -> np.ndarray:
        if batch.rows == [7]:  # the fourth batch
            raise SystemExit(143)
        return forward(self, batch, ids)

    forward = TextEncoder._forward
    monkeypatch.setattr(TextEncoder, "_forward", preempted)
    cache = str(tmp_path / "cache")
    texts = [letter * length for letter in "abc" for length in (1, 5, 9, 13)]
    with pytest.raises(SystemExit):
        run(tmp_path / "a", texts, llama, cache_uri=cache, batch_tokens=1)
    monkeypatch.undo()
    resumed, counts = run(tmp_path / "b", texts, llama, cache_uri=cache, batch_tokens=1)
    assert (counts["embedded_items"], counts["cached_items"]) == (9, 3)
    assert resumed.digest == run(tmp_path / "c", texts, llama, batch_tokens=1)[0].digest


def test_model_that_cannot_read_so_many_tokens(bert: Source) -> None:
    encoder = TextEncoder(bert, pooling="mean", device="cpu", max_tokens=20)
    with pytest.raises(UserError, match=r"makes 15 tokens, and the model reads 12.*by 3"):
        encoder.encode(["red " * 15])


def test_given_vectors_instead_of_a_model(tmp_path: Path) -> None:
    file = tmp_path / "given.parquet"
    vectors = [[float(i), 1.0] for i in range(6)]
    pq.write_table(pa.table({"item_id": [f"id{i}" for i in range(6)], "embedding": vectors}), file)
    artifact, metrics = run(tmp_path, given=Source(str(file)), centre=False)
    assert artifact.table()["embedding"].to_pylist() == [*vectors, None]
    assert (metrics["missing"], metrics["dim"], metrics["unknown"]) == (1, 2, 0)


def test_two_sources_of_vectors_are_refused(llama: Source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not both"):
        run(tmp_path, model=llama, given=llama)


def test_without_a_source_every_vector_is_null(tmp_path: Path) -> None:
    artifact, metrics = run(tmp_path)
    assert artifact.table().to_pydict() == {
        "item_index": list(range(len(TEXTS))),
        "embedding": [None] * len(TEXTS),
        "status": ["missing"] * len(TEXTS),
    }
    assert artifact.schema.field("embedding").type.list_size == 1
    assert metrics == {"items": 7, "dim": 1, "ok": 0, "missing": 7}


@pytest.mark.parametrize(
    "settings",
    [{"prompt": "no place"}, {"prompt": "{} and {}"}, {"max_tokens": 0}, {"shard": "3/2"}],
)
def test_settings_that_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        spec.Settings(**settings)  # type: ignore[arg-type]


def test_stage_is_light_to_import() -> None:
    code = (
        "import sys, components.embed_text.spec, components.embed_image.spec;"
        "print([m for m in ('torch', 'transformers', 'PIL', 'kfp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
