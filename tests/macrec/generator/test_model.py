import json

import numpy as np
import pytest
import torch

from macrec.core.errors import UserError
from macrec.generator.model import (
    VOCABULARY_FILE,
    ModelSize,
    Recommender,
    build_model,
    load_recommender,
    save_recommender,
)
from macrec.generator.tokens import (
    EOS,
    FIRST_CODE,
    ITEM_TO_IMAGE,
    MISSING,
    PAD,
    SEQUENCE_TO_TEXT,
    Vocabulary,
    gather_sources,
    source_lengths,
    token_stream,
)

SMALL = ModelSize(d_model=16, d_ff=32, d_kv=8, layers=1, heads=2, dropout=0.0)
TEXT = np.array([[0, 1], [2, 0], [1, 1]], np.int32)
IMAGE = np.array([[3, 3], [-1, -1], [0, 2]], np.int32)  # item 1 has no picture


@pytest.fixture
def recommender() -> Recommender:
    torch.manual_seed(0)
    vocabulary = Vocabulary(levels=2, codebook_size=4)
    return Recommender(build_model(vocabulary, SMALL).eval(), vocabulary, TEXT, IMAGE, 3)


def test_token_ids_are_the_stated_ones() -> None:
    vocabulary = Vocabulary(levels=2, codebook_size=4)
    assert vocabulary.tokens("text", TEXT).tolist() == [[16, 21], [18, 20], [17, 21]]
    assert vocabulary.tokens("image", IMAGE[[0, 2]]).tolist() == [[27, 31], [24, 30]]
    assert vocabulary.size == 16 + 2 * 2 * 4
    assert Vocabulary(4, 256).size == 2064
    assert ITEM_TO_IMAGE < FIRST_CODE


@pytest.mark.parametrize("modality", ["text", "image"])
def test_codes_are_the_inverse_of_tokens_and_no_two_share_a_token(modality) -> None:
    vocabulary = Vocabulary(levels=3, codebook_size=5)
    codes_NL = np.array([[a, b, c] for a in range(5) for b in range(5) for c in range(5)], np.int32)
    tokens_NL = vocabulary.tokens(modality, codes_NL)
    np.testing.assert_array_equal(vocabulary.codes(modality, tokens_NL), codes_NL)
    levels = [set(tokens_NL[:, level].tolist()) for level in range(3)]
    assert sum(map(len, levels)) == len(set.union(*levels)) == 15


@pytest.mark.parametrize(
    ("codes_NL", "message"),
    [
        ([[0, 4]], "1 of 1 rows lie outside the 2 codebooks of 4"),
        ([[0, 0], [-1, -1]], "1 of 2 rows"),
        ([[0, 0, 0]], r"expected \[items, 2\]"),
    ],
)
def test_impossible_codes_are_refused(codes_NL, message) -> None:
    with pytest.raises(UserError, match=message):
        Vocabulary(2, 4).tokens("text", np.array(codes_NL))


def test_tokens_of_the_other_modality_have_no_codes() -> None:
    vocabulary = Vocabulary(2, 4)
    with pytest.raises(UserError, match="image tokens"):
        vocabulary.codes("image", vocabulary.tokens("text", TEXT))


def test_sources_have_one_missing_token_then_eos_then_padding() -> None:
    stream = token_stream(Vocabulary(2, 4), "image", IMAGE, np.array([0, 1, 2]))
    first_B, last_B = np.array([0, 1, 2]), np.array([3, 2, 2])
    assert gather_sources(stream, first_B, last_B).tolist() == [
        [27, 31, MISSING, 24, 30, EOS],
        [MISSING, EOS, PAD, PAD, PAD, PAD],
        [EOS, PAD, PAD, PAD, PAD, PAD],  # an empty history
    ]
    assert source_lengths(stream, first_B, last_B).tolist() == [6, 2, 1]


def test_where_items_are_read_a_missing_one_is_as_long_as_the_others() -> None:
    stream = token_stream(Vocabulary(2, 4), "image", IMAGE, np.array([0, 1, 2]), "items")
    first_B, last_B = np.array([0, 1]), np.array([3, 2])
    assert gather_sources(stream, first_B, last_B).tolist() == [
        [27, 31, MISSING, MISSING, 24, 30, EOS],
        [MISSING, MISSING, EOS, PAD, PAD, PAD, PAD],
    ]


def test_a_recommender_reads_the_last_items_of_a_history(recommender: Recommender) -> None:
    histories = [np.array([2, 2, 0, 1, 2]), np.array([1])]
    assert recommender.source_ids("text", histories).tolist() == [
        [16, 21, 18, 20, 17, 21, EOS],
        [18, 20, EOS, PAD, PAD, PAD, PAD],
    ]
    assert recommender.source_ids("text", []).shape == (0, 1)


def test_the_model_has_its_final_vocabulary_with_distinct_rows(recommender: Recommender) -> None:
    embedding_VD = recommender.model.get_input_embeddings().weight
    assert len(embedding_VD) == recommender.vocabulary.size
    assert len(torch.unique(embedding_VD, dim=0)) == recommender.vocabulary.size
    assert Vocabulary(4, 256).size < 2100  # not the 32,128 text tokens of stock T5


def test_default_sizes_are_those_of_the_paper() -> None:
    model = build_model(Vocabulary(4, 256), ModelSize())
    config = model.config
    assert (config.d_model, config.d_ff, config.d_kv) == (128, 1024, 64)
    assert (config.num_layers, config.num_decoder_layers, config.num_heads) == (4, 4, 6)
    assert sum(p.numel() for p in model.parameters()) < 5_000_000


def test_stock_transformers_loads_the_folder(recommender: Recommender, tmp_path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    save_recommender(tmp_path, recommender)
    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert stock.config.decoder_start_token_id == SEQUENCE_TO_TEXT
    loaded = load_recommender(tmp_path)
    ids_BS = torch.from_numpy(recommender.source_ids("text", [np.array([0, 2])]))
    start_B1 = torch.tensor([[SEQUENCE_TO_TEXT]])
    with torch.no_grad():
        expected, *others = (
            model(input_ids=ids_BS, decoder_input_ids=start_B1).logits
            for model in (recommender.model, stock, loaded.model)
        )
    for other in others:  # not to the bit: kernels depend on where the weights lie in memory
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-5)
    for name, weight in recommender.model.state_dict().items():
        assert torch.equal(stock.state_dict()[name], weight), name
    assert loaded.vocabulary == recommender.vocabulary
    assert loaded.max_history == 3
    np.testing.assert_array_equal(loaded.text_codes_NL, TEXT)
    np.testing.assert_array_equal(loaded.image_codes_NL, IMAGE)
    assert not list(tmp_path.glob("*.bin"))


def test_a_folder_of_two_models_is_refused(recommender: Recommender, tmp_path) -> None:
    save_recommender(tmp_path, recommender)
    described = json.loads((tmp_path / VOCABULARY_FILE).read_text())
    (tmp_path / VOCABULARY_FILE).write_text(json.dumps(described | {"codebook_size": 5}))
    with pytest.raises(UserError, match="the model has 32 tokens"):
        load_recommender(tmp_path)
    (tmp_path / VOCABULARY_FILE).write_text(json.dumps(described | {"format": 9}))
    with pytest.raises(UserError, match="format 9"):
        load_recommender(tmp_path)
    (tmp_path / VOCABULARY_FILE).unlink()
    with pytest.raises(UserError, match=r"vocabulary\.json missing"):
        load_recommender(tmp_path)
