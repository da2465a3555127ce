"""The generator as one would write it with public libraries: what ours is measured against.

transformers' T5 with its text vocabulary and the codes as added tokens; every task row is a
sequence of its own, with a task token in front and EOS at its end; random batches padded to the
longest row; one forward pass per batch; `generate` with a Python trie. The sizes of the model, the
tasks and the histories are those of MACRec. Nothing is done twice or slower than it need be: ids
are looked up and not tokenised, the forward pass is transformers' default (SDPA where it has it).

Shapes: N items, L levels, M codewords.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import T5Config, T5ForConditionalGeneration

from macrec.generator.model import ModelSize
from macrec.generator.tokens import MODALITIES, Modality

TEXT_TOKENS = 32_128
PAD, EOS, IGNORED = 0, 1, -100
TASKS = (
    "seq_text_text",
    "seq_image_image",
    "seq_text_image",
    "seq_image_text",
    "item_text_image",
    "item_image_text",
)
TASK_TOKENS = {task: TEXT_TOKENS - 29 - place for place, task in enumerate(TASKS)}
"""The text vocabulary's own sentinels, <extra_id_0> and on."""

ItemTokens = dict[Modality, list[list[int]]]
Trie = dict[int, Any]


def item_tokens(codes: dict[Modality, np.ndarray], codebook_size: int) -> ItemTokens:
    """The L tokens of every item; all items have a code in the modalities given."""
    found: ItemTokens = {}
    for place, modality in enumerate(MODALITIES):
        if modality not in codes:
            continue
        codes_NL = codes[modality].astype(np.int64)
        level_L = np.arange(codes_NL.shape[1]) + place * codes_NL.shape[1]
        found[modality] = (TEXT_TOKENS + level_L * codebook_size + codes_NL).tolist()
    return found


def build(levels: int, codebook_size: int, size: ModelSize) -> T5ForConditionalGeneration:
    """The model, from torch's global generator."""
    config = T5Config(
        vocab_size=TEXT_TOKENS + len(MODALITIES) * levels * codebook_size,
        d_model=size.d_model,
        d_ff=size.d_ff,
        d_kv=size.d_kv,
        num_layers=size.layers,
        num_decoder_layers=size.layers,
        num_heads=size.heads,
        dropout_rate=size.dropout,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    config.decoder_start_token_id = PAD
    return T5ForConditionalGeneration(config)


class Row(NamedTuple):
    """A task, the items of its source, the item to be told."""

    task: str
    source: Sequence[int]
    target: int


def task_rows(histories: Sequence[Sequence[int]], items: int, max_history: int) -> list[Row]:
    """All rows of all tasks; the last two items of a user are left to validation and test."""
    rows: list[Row] = []
    for history in histories:
        for place in range(1, len(history) - 2):
            source = history[max(0, place - max_history) : place]
            rows += [Row(task, source, history[place]) for task in TASKS if task.startswith("seq")]
    for item in range(items):
        rows += [Row(task, (item,), item) for task in TASKS if task.startswith("item")]
    return rows


class TaskRows(Dataset[tuple[list[int], list[int]]]):
    """The token ids of the rows."""

    def __init__(self, rows: list[Row], tokens: ItemTokens) -> None:
        self.rows, self.tokens = rows, tokens

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[list[int], list[int]]:
        task, items, target = self.rows[index]
        _, read, told = task.split("_")
        own, other = self.tokens[read], self.tokens[told]  # pyright: ignore[reportArgumentType]
        source = [TASK_TOKENS[task]]
        for item in items:
            source += own[item]
        return [*source, EOS], [*other[target], EOS]


def collate(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """A batch, padded to its longest row."""
    sources, targets = ([torch.tensor(ids) for ids in column] for column in zip(*rows, strict=True))
    input_ids = pad_sequence(sources, batch_first=True, padding_value=PAD)
    labels = pad_sequence(targets, batch_first=True, padding_value=IGNORED)
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "labels": labels}


class Training:
    """Steps over random batches, as long as one asks for them."""

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        rows: TaskRows,
        batch_size: int,
        device: torch.device,
        *,
        low_precision: bool = False,
    ) -> None:
        self.model, self.device, self.low_precision = model.train(), device, low_precision
        self.loader = DataLoader(rows, batch_size, shuffle=True, collate_fn=collate)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self._batches = self._forever()

    def _forever(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from self.loader

    def step(self) -> int:
        """One step; the rows of its batch."""
        batch = {name: ids.to(self.device) for name, ids in next(self._batches).items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
            loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return len(batch["input_ids"])


def make_trie(token_rows: Sequence[Sequence[int]]) -> Trie:
    """Nested dicts of the legal sequences of tokens."""
    root: Trie = {}
    for tokens in token_rows:
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
    return root


def allowed(trie: Trie) -> Callable[[int, torch.Tensor], list[int]]:
    """What `generate` may go on with: the children of the prefix, its start token aside."""

    def children(batch: int, prefix: torch.Tensor) -> list[int]:
        node = trie
        for token in prefix[1:].tolist():
            node = node.get(token, {})
        return list(node) or [EOS]

    return children


class Found(NamedTuple):
    """The beams of every user, best first: tokens [B, W, L] and log-probabilities [B, W]."""

    token_BWL: torch.Tensor
    score_BW: torch.Tensor


@torch.inference_mode()
def search(
    model: T5ForConditionalGeneration,
    sources: list[list[int]],
    trie: Trie,
    beams: int,
    *,
    levels: int,
    start_token: int = PAD,
) -> Found:
    """Constrained beam search for a batch of sources; ends after L tokens, so no EOS is scored.

    Scores are sums of log-probabilities (no penalty for length), each softmax over the whole
    vocabulary, as transformers masks after it.
    """
    device = model.shared.weight.device
    generate: Any = model.generate  # pyright: ignore[reportAttributeAccessIssue]
    ids = pad_sequence([torch.tensor(s) for s in sources], batch_first=True, padding_value=PAD)
    made = generate(
        input_ids=ids.to(device),
        attention_mask=(ids != PAD).long().to(device),
        decoder_start_token_id=start_token,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=levels,
        do_sample=False,
        length_penalty=0.0,
        use_cache=True,
        prefix_allowed_tokens_fn=allowed(trie),
        return_dict_in_generate=True,
        output_scores=True,
    )
    tokens = made.sequences[:, 1:].view(len(sources), beams, -1)
    return Found(tokens.cpu(), made.sequences_scores.view(len(sources), beams).cpu())
