"""Look-alikes against plain loops over the latents."""

import numpy as np
import pytest

from macrec.data import schema
from macrec.data.columns import codes_column, vector_column
from macrec.ranking import similar_items
from macrec.ranking.similar_items import most_similar_items, unit_vectors
from tests.artifacts import dataset

ITEMS = 40


def latents(path, text_ND, image_ND, has_text, has_image, codes_NL=None):
    codes_NL = np.zeros((len(text_ND), 2), np.int32) if codes_NL is None else codes_NL
    vectors = [vector_column(text_ND, has_text), vector_column(image_ND, has_image)]
    columns = [list(range(len(text_ND))), *vectors, *(codes_column(codes_NL) for _ in range(2))]
    return dataset(path, schema.latents(text_ND.shape[1], image_ND.shape[1]), columns)


def drawn(seed=0, items=ITEMS):
    generator = np.random.default_rng(seed)
    text_ND = generator.normal(3.0, 1.0, (items, 5)).astype(np.float32)
    image_ND = generator.normal(-1.0, 1.0, (items, 3)).astype(np.float32)
    return text_ND, image_ND, np.arange(items) % 7 != 2, np.arange(items) % 5 != 1


def by_loops(text_ND, image_ND, has_text, has_image, kept):
    """The power of the cosine of the `kept` most similar ones of every item, by item."""
    means = text_ND[has_text].mean(axis=0), image_ND[has_image].mean(axis=0)
    vectors = []
    for item in range(len(text_ND)):
        parts = []
        for part, mean, has in zip(
            (text_ND[item], image_ND[item]), means, (has_text[item], has_image[item]), strict=True
        ):
            less = part - mean if has else np.zeros_like(part)
            parts.append(less / np.linalg.norm(less) if has else less)
        whole = np.concatenate(parts)
        vectors.append(whole / (np.linalg.norm(whole) or 1.0))
    found = []
    for item, vector in enumerate(vectors):
        cosine = {j: float(vector @ other) for j, other in enumerate(vectors) if j != item}
        best = sorted(cosine, key=lambda j: -cosine[j])[:kept]
        found.append({j: cosine[j] ** similar_items.POWER for j in best if cosine[j] > 0})
    return found


def as_dicts(similar_NN):
    rows = similar_NN.tocsr()
    return [dict(zip(r.indices.tolist(), r.data.tolist(), strict=True)) for r in rows]


def assert_same(found, expected):
    assert [set(row) for row in found] == [set(row) for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_the_most_alike_are_those_of_plain_loops(tmp_path, monkeypatch):
    """One item has neither text nor picture: nothing looks like it."""
    monkeypatch.setattr(similar_items, "KEPT", 6)
    monkeypatch.setattr(similar_items, "ROWS_AT_ONCE", 7)
    given = drawn()
    assert (~given[2] & ~given[3]).sum() == 1
    vector_ND = unit_vectors(latents(tmp_path, *given))
    found = as_dicts(most_similar_items(vector_ND, [np.zeros((ITEMS, 2), np.int32)] * 2))
    assert_same(found, by_loops(*given, kept=6))
    assert [not row for row in found] == (~given[2] & ~given[3]).tolist()


def test_a_large_catalogue_is_compared_by_the_beginnings_of_either_code(monkeypatch):
    monkeypatch.setattr(similar_items, "COMPARED", 8)
    monkeypatch.setattr(similar_items, "ROWS_AT_ONCE", 3)
    generator = np.random.default_rng(3)
    vector_ND = generator.normal(size=(ITEMS, 4)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    text_NL, image_NL = (generator.integers(0, 3, (ITEMS, 3)) for _ in range(2))
    text_NL[:20] = [0, 1, 2]  # more of one code than are compared
    image_NL[:20, 0] = np.arange(20) % 2  # too many begin so, few go on so
    text_NL[30], image_NL[30] = -1, -1
    found = as_dicts(most_similar_items(vector_ND, [text_NL, image_NL]))
    expected = set()
    for code_NL in (text_NL, image_NL):
        for a in range(ITEMS):
            depth = next(
                (d for d in (1, 2, 3) if (code_NL[:, :d] == code_NL[a, :d]).all(1).sum() <= 8), None
            )
            if depth is None or code_NL[a, 0] < 0:
                continue
            same = np.flatnonzero((code_NL[:, :depth] == code_NL[a, :depth]).all(1))
            expected |= {(a, b) for b in same.tolist() if b != a}
    expected = {(a, b) for a, b in expected if vector_ND[a] @ vector_ND[b] > 0}
    pairs = {(a, b) for a, row in enumerate(found) for b in row}
    assert expected <= pairs and not found[30]
    parts = pairs - expected  # of the code that twenty share: three parts of them
    assert parts and all(a < 20 and b < 20 for a, b in parts)
    for a, b in pairs:
        cosine = float(vector_ND[a] @ vector_ND[b])
        assert found[a][b] == pytest.approx(cosine**similar_items.POWER, rel=1e-3)
