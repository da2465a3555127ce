"""Reference generator from public libraries only, the baseline of the speed measurements.

The model is transformers' T5 with its text vocabulary and the codes as added tokens. Each task row
is a separate sequence, with a task token at the start and EOS at the end. Random batches are padded
to their longest row and take one forward pass each. `generate` uses a Python trie. Model sizes,
tasks and histories are those of MACRec.

The reference avoids unnecessary work: ids are looked up and not tokenised, and the forward pass is
the default of transformers (SDPA where available).

Shapes: N items, L levels, M codewords, B users, W beams.
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
"""The sentinels of the text vocabulary, from <extra_id_0> on."""

ItemTokens = dict[Modality, list[list[int]]]
Trie = dict[int, Any]


def item_tokens(codes: dict[Modality, np.ndarray], codebook_size: int) -> ItemTokens:
    """Return the L tokens of every item. All items must have a code in the given modalities."""
    tokens: ItemTokens = {}
    for place, modality in enumerate(MODALITIES):
        if modality not in codes:
            continue
        codes_NL = codes[modality].astype(np.int64)
        level_L = np.arange(codes_NL.shape[1]) + place * codes_NL.shape[1]
        tokens[modality] = (TEXT_TOKENS + level_L * codebook_size + codes_NL).tolist()
    return tokens


def build(levels: int, codebook_size: int, size: ModelSize) -> T5ForConditionalGeneration:
    """Build the model with weights from torch's global random generator."""
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
    """A task, the items of its source, and the target item."""

    task: str
    source: Sequence[int]
    target: int


def task_rows(histories: Sequence[Sequence[int]], items: int, max_history: int) -> list[Row]:
    """Return the rows of all tasks.

    The last two items of a user are reserved for validation and test.
    """
    rows: list[Row] = []
    for history in histories:
        for place in range(1, len(history) - 2):
            source = history[max(0, place - max_history) : place]
            rows += [Row(task, source, history[place]) for task in TASKS if task.startswith("seq")]
    for item in range(items):
        rows += [Row(task, (item,), item) for task in TASKS if task.startswith("item")]
    return rows


class TaskRows(Dataset[tuple[list[int], list[int]]]):
    """Dataset of the token ids of the rows."""

    def __init__(self, rows: list[Row], tokens: ItemTokens) -> None:
        self.rows, self.tokens = rows, tokens

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[list[int], list[int]]:
        task, items, target = self.rows[index]
        _, source_modality, target_modality = task.split("_")
        own = self.tokens[source_modality]  # pyright: ignore[reportArgumentType]
        other = self.tokens[target_modality]  # pyright: ignore[reportArgumentType]
        source = [TASK_TOKENS[task]]
        for item in items:
            source += own[item]
        return [*source, EOS], [*other[target], EOS]


def collate(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Pad a batch to its longest row."""
    sources, targets = ([torch.tensor(ids) for ids in column] for column in zip(*rows, strict=True))
    input_ids = pad_sequence(sources, batch_first=True, padding_value=PAD)
    labels = pad_sequence(targets, batch_first=True, padding_value=IGNORED)
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "labels": labels}


class Training:
    """Training on an endless stream of random batches."""

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
        """Make one training step and return the number of rows in its batch."""
        batch = {name: ids.to(self.device) for name, ids in next(self._batches).items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
            loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return len(batch["input_ids"])


def make_trie(token_rows: Sequence[Sequence[int]]) -> Trie:
    """Build nested dicts of the legal token sequences."""
    root: Trie = {}
    for tokens in token_rows:
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
    return root


def allowed(trie: Trie) -> Callable[[int, torch.Tensor], list[int]]:
    """Return the callback for `generate` that lists the legal next tokens of a prefix.

    The start token of the prefix is ignored.
    """

    def children(batch: int, prefix: torch.Tensor) -> list[int]:
        node = trie
        for token in prefix[1:].tolist():
            node = node.get(token, {})
        return list(node) or [EOS]

    return children


class Beams(NamedTuple):
    """Beams of every user, best first: tokens [B, W, L] and log-probabilities [B, W]."""

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
) -> Beams:
    """Run constrained beam search for a batch of sources.

    The search ends after L tokens, so EOS is not scored. Scores are sums of log-probabilities
    without length penalty. Each softmax is over the whole vocabulary, because transformers applies
    the mask after it.
    """
    device = model.shared.weight.device
    generate: Any = model.generate  # pyright: ignore[reportAttributeAccessIssue]
    ids = pad_sequence([torch.tensor(s) for s in sources], batch_first=True, padding_value=PAD)
    output = generate(
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
    tokens = output.sequences[:, 1:].view(len(sources), beams, -1)
    return Beams(tokens.cpu(), output.sequences_scores.view(len(sources), beams).cpu())
