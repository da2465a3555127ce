"""The trie against what can be seen by hand, and against prefixes counted one by one."""

import numpy as np
import pytest
import torch

from macrec.core.errors import UserError
from macrec.generator.tokens import PAD
from macrec.generator.trie import Trie

BY_HAND = np.array([[5, 7], [4, 8], [-1, -1], [5, 6], [4, 8]])
ARRAYS = ("first_child", "token", "leaf_tokens", "leaf_of_item_N", "items", "first_item")


def catalogue(items: int = 60, levels: int = 3, span: int = 4, seed: int = 0) -> np.ndarray:
    """Tokens [N, L], many of them shared; a few items have none."""
    rng = np.random.default_rng(seed)
    step = max(span // 4, 1)
    tokens_NL = 20 + span * np.arange(levels) + step * rng.integers(0, 4, (items, levels))
    tokens_NL[rng.random(items) < 0.1] = -1
    return tokens_NL


def prefix_of(trie: Trie) -> list[tuple[int, ...]]:
    """The tokens from the root to every node."""
    prefixes: list[tuple[int, ...]] = [()]
    for node in range(trie.depth_start[-2]):
        children = range(int(trie.first_child[node]), int(trie.first_child[node + 1]))
        prefixes += [(*prefixes[node], int(trie.token[child])) for child in children]
    return prefixes


def assert_equal(one: Trie, other: Trie) -> None:
    for name in ARRAYS:
        given, expected = (np.asarray(getattr(trie, name)) for trie in (one, other))
        np.testing.assert_array_equal(given, expected, err_msg=name)
        assert given.dtype == expected.dtype
    assert one.depth_start == other.depth_start
    assert one.token_range_L == other.token_range_L


def test_trie_by_hand():
    trie = Trie.build(BY_HAND)
    assert trie.token.tolist() == [PAD, 4, 5, 8, 6, 7]
    assert trie.first_child.tolist() == [1, 3, 4, 6]
    assert trie.depth_start == (0, 1, 3, 6)
    assert trie.token_range_L == ((4, 6), (6, 9))
    assert trie.leaf_tokens.tolist() == [[4, 8], [5, 6], [5, 7]]
    assert trie.leaf_of_item_N.tolist() == [2, 0, -1, 1, 0]
    assert trie.items.tolist() == [1, 4, 3, 0]
    assert trie.first_item.tolist() == [0, 2, 3, 4]
    assert [trie.most_children(1, nodes) for nodes in (1, 2, 9)] == [2, 3, 3]


def test_children_stand_side_by_side():
    trie = Trie.build(BY_HAND)
    nodes, alive = torch.tensor([[1, 2], [2, 1]]), torch.ones(2, 2, dtype=torch.bool)
    child, parent, exists = trie.children(nodes, alive)
    assert child.tolist() == [[3, 4, 5], [4, 5, 3]]
    assert parent.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert exists.all()
    alive[0, 1] = alive[1] = False
    child, parent, exists = trie.children(nodes, alive, width=2)
    assert exists.tolist() == [[True, False], [False, False]]
    assert child[0, 0] == 3
    assert ((child >= 3) & (child <= 5)).all()


@pytest.mark.parametrize(("levels", "span"), [(3, 4), (3, 2**20), (4, 2**20)])
def test_every_way_of_sorting_gives_the_same_trie(levels, span):
    tokens_NL = catalogue(levels=levels, span=span)  # 6, 62 and 82 bits a code
    trie = Trie.build(tokens_NL)
    rows = [tuple(row) for row in tokens_NL.tolist()]
    leaves = sorted({row for row in rows if row[0] >= 0})
    assert [tuple(row) for row in trie.leaf_tokens.tolist()] == leaves
    prefixes = {row[:length] for row in leaves for length in range(levels + 1)}
    assert prefix_of(trie) == sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
    assert trie.leaf_of_item_N.tolist() == [leaves.index(r) if r in leaves else -1 for r in rows]
    for leaf, (first, last) in enumerate(zip(trie.first_item, trie.first_item[1:], strict=False)):
        mine = [item for item, row in enumerate(rows) if row == leaves[leaf]]
        assert trie.items[first:last].tolist() == mine
    small = span == 4
    assert trie.token.dtype == trie.leaf_tokens.dtype == (torch.int16 if small else torch.int32)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_restricted_is_the_trie_of_the_allowed_items(share):
    tokens_NL = catalogue()
    allowed_N = np.random.default_rng(1).random(len(tokens_NL)) < share
    expected = Trie.build(np.where(allowed_N[:, None], tokens_NL, -1))
    restricted = Trie.build(tokens_NL).restrict(allowed_N)
    assert_equal(restricted, expected)
    assert_equal(restricted.restrict(allowed_N), expected)


def test_hidden_is_what_has_nothing_left_beneath_it():
    tokens_NL = catalogue()
    trie = Trie.build(tokens_NL).restrict(np.arange(len(tokens_NL)) % 7 > 0)
    rng = np.random.default_rng(2)
    seen = [rng.choice(len(tokens_NL), count) for count in (0, 10, 40, 200)]
    seen.append(np.arange(len(tokens_NL)))
    user_P = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
    hidden = trie.hidden(user_P, np.concatenate(seen), len(seen))
    prefixes = prefix_of(trie)
    some = 0
    for user, items in enumerate(seen):
        left = [item for item in trie.items if item not in items]
        alive = {tuple(tokens_NL[i, :length].tolist()) for i in left for length in range(4)}
        for depth in (1, 2, 3):
            nodes = torch.arange(*trie.depth_start[depth : depth + 2])
            covered = hidden.covers(nodes.repeat(len(seen), 1), depth)[user].tolist()
            assert covered == [prefixes[node] not in alive for node in nodes]
            some += 0 < sum(covered) < len(covered)
    assert some >= 4


def test_saved_trie_is_mapped_into_memory(tmp_path):
    trie = Trie.build(catalogue())
    trie.save(tmp_path / "trie")
    loaded = Trie.load(tmp_path / "trie")
    assert_equal(loaded, trie)
    assert isinstance(loaded.items.base, np.memmap)
    assert loaded.bytes == trie.bytes
    allowed_N = np.arange(60) % 2 == 0
    assert_equal(loaded.restrict(allowed_N), trie.restrict(allowed_N))


def test_a_folder_that_is_no_trie_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"trie\.json is missing"):
        Trie.load(tmp_path)
    (tmp_path / "trie.json").write_text('{"format": 0}')
    with pytest.raises(UserError, match="format 0"):
        Trie.load(tmp_path)
