"""Measures constrained beam search against stock `generate`: speed and agreement, in one process.

    PYTHONPATH=src:. python benchmarks/speed/decode_speed.py --data DATA/instruments \\
        [--threads 2] [--precision bfloat16] [--recommender FOLDER]

Five kinds of blocks alternate: stock in one modality and in both, ours in one and in both, and our
complete fused path. The fused path also scores every candidate under the other modality. Stock is
benchmarks/speed/stock.py: its own vocabulary, random weights, always float32.

The users are test users, drawn at random in every block. The first round is a warm-up and selects
the fastest batch size for stock. Our weights are random too, unless --recommender names a trained
folder; weights do not affect the speed. A recommender with one modality is measured in that one
only.

The script also compares lists. For a few users, `generate` runs with OUR weights and sources: it
must return the same items with the same scores. Our lists are also compared with exhaustive scores
of the whole catalogue. `recall` is the fraction of the exact top 20, or top 10, that the beams
found.

The output is one JSON line: users per second (median and range over the rounds), the ratios, and
the comparisons.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks import shared
from benchmarks.speed import generator_data, stock
from macrec.compute.device import choose_device
from macrec.compute.precision import Precision
from macrec.generator.model import ModelSize, Recommender, build_model, load_recommender
from macrec.generator.tokens import MODALITIES, PAD, SEQUENCE_TASK, Int32Array, Modality
from macrec.ranking.fusion import fuse
from macrec.ranking.lists import Lists
from macrec.ranking.ranker import Ranker

Histories = Sequence[Int32Array]
Work = Callable[[Histories], object]
CUTOFFS = (10, 20)


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    data = generator_data.load(options.data)
    recommender = _recommender(options.recommender, data)
    histories = [history[:-1] for history in data.histories() if len(history) > 1]
    ranker = Ranker(
        recommender, device=device, batch_size=options.batch, precision=options.precision
    )
    line: dict[str, object] = {
        "benchmark": "decode_speed",
        "data": data.name,
        "weights": "trained" if options.recommender else "random",
        "beams": options.beams,
        "batch": options.batch,
        "precision": options.precision,
    }
    line |= _speeds(options, histories, recommender, ranker, device)
    rng = np.random.default_rng(1)
    line |= _against_generate(_some(histories, options.compared, rng), ranker, options.beams)
    line |= _against_all(_some(histories, options.oracle_users, rng), ranker, options.beams)
    line["rss_mb"] = shared.peak_memory_mb()
    shared.print_line(line | shared.describe_origin(str(device)))


def _recommender(folder: Path | None, data: generator_data.Data) -> Recommender:
    if folder:
        return load_recommender(folder)
    torch.manual_seed(0)
    model = build_model(data.vocabulary, ModelSize()).eval()
    return Recommender(model, data.vocabulary, *data.codes)


def _some(histories: Histories, users: int, rng: np.random.Generator) -> Histories:
    chosen = rng.choice(len(histories), min(users, len(histories)), replace=False)
    return [histories[user] for user in chosen]


def _speeds(
    options: argparse.Namespace,
    histories: Histories,
    recommender: Recommender,
    ranker: Ranker,
    device: torch.device,
) -> dict[str, object]:
    one, batch = _stock_work(histories, recommender, options, device)
    first = ranker.modalities[0]
    sides: dict[str, tuple[Work, int]] = {
        "stock_one": (lambda h: one(h, first), options.stock_users),
        "ours_one": (lambda h: ranker.search(h, first, options.beams, 20), options.users),
    }
    if ranker.modalities == MODALITIES:
        sides |= {
            "stock_both": (lambda h: [one(h, m) for m in MODALITIES], options.stock_users),
            "ours_both": (
                lambda h: [ranker.search(h, m, options.beams, 20) for m in MODALITIES],
                options.users,
            ),
            "ours_fused": (
                lambda h: fuse(ranker.candidates(h, options.beams), 0.5, 20),
                options.users,
            ),
        }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for turn in range(options.rounds + 1):
        for name, (work, users) in sides.items():
            if not turn and name.startswith("stock"):
                continue  # already warm from the selection of the batch size
            drawn = _some(histories, users if turn else min(users, options.batch), rng)
            started = time.perf_counter()
            work(drawn)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                rates[name].append(len(drawn) / (time.perf_counter() - started))
    line: dict[str, object] = {"stock_batch": batch}
    for name, values in rates.items():
        line[f"{name}_users_per_second"] = round(statistics.median(values), 2)
        line[f"{name}_range"] = [round(min(values), 2), round(max(values), 2)]
    for ours, against in (("one", "one"), ("both", "both"), ("fused", "both")):
        if f"ours_{ours}" not in rates:
            continue
        ratio = statistics.median(rates[f"ours_{ours}"]) / statistics.median(
            rates[f"stock_{against}"]
        )
        line[f"ratio_{ours}"] = round(ratio, 2)
    return line


def _stock_work(
    histories: Histories,
    recommender: Recommender,
    options: argparse.Namespace,
    device: torch.device,
) -> tuple[Callable[[Histories, Modality], None], int]:
    """Return stock's search of one modality and its fastest batch size."""
    vocabulary = recommender.vocabulary
    torch.manual_seed(0)
    model = stock.build(vocabulary.levels, vocabulary.codebook_size, ModelSize()).eval()
    model.to(device)  # pyright: ignore[reportArgumentType]
    present = recommender.modalities
    codes: dict[Modality, np.ndarray] = {m: recommender.codes_NL(m) for m in present}
    tokens = stock.item_tokens(codes, vocabulary.codebook_size)
    tries = {modality: stock.make_trie(tokens[modality]) for modality in present}

    def work(histories: Histories, modality: Modality, batch: int) -> None:
        task = stock.TASK_TOKENS[f"seq_{modality}_{modality}"]
        items = tokens[modality]
        for start in range(0, len(histories), batch):
            sources = [
                [task, *(t for i in h[-recommender.max_history :] for t in items[i]), stock.EOS]
                for h in histories[start : start + batch]
            ]
            trie, levels = tries[modality], vocabulary.levels
            stock.search(model, sources, trie, options.beams, levels=levels)

    drawn = _some(histories, options.stock_users, np.random.default_rng(2))
    work(drawn[:2], present[0], 2)
    seconds: dict[int, float] = {}
    for batch in map(int, options.stock_batch.split(",")):
        started = time.perf_counter()
        work(drawn, present[0], batch)
        seconds[batch] = time.perf_counter() - started
    fastest = min(seconds, key=lambda batch: seconds[batch])
    return (lambda histories, modality: work(histories, modality, fastest)), fastest


def _against_generate(histories: Histories, ranker: Ranker, beams: int) -> dict[str, object]:
    """Compare our lists with those of `generate` on our weights.

    Return the number of lists with the same items and the largest score difference.
    """
    recommender = ranker.recommender
    same: list[bool] = []
    error = 0.0
    for modality in ranker.modalities:
        codes_NL = recommender.codes_NL(modality)
        coded = np.flatnonzero(codes_NL[:, 0] >= 0)
        tokens = recommender.vocabulary.tokens(modality, codes_NL[coded]).tolist()
        owners: dict[tuple[int, ...], set[int]] = {}
        for item, code in zip(coded.tolist(), tokens, strict=True):
            owners.setdefault(tuple(code), set()).add(item)
        source_BS = recommender.source_ids(modality, list(histories))
        stock_beams = stock.search(
            recommender.model,
            [row[row != PAD].tolist() for row in source_BS],
            stock.make_trie(tokens),
            beams,
            levels=recommender.vocabulary.levels,
            start_token=SEQUENCE_TASK[modality],
        )
        lists = ranker.search(histories, modality, beams, beams)
        for user in range(len(histories)):
            theirs = {
                item: score
                for code, score in zip(
                    stock_beams.token_BWL[user].tolist(),
                    stock_beams.score_BW[user].tolist(),
                    strict=True,
                )
                for item in owners[tuple(code)]
            }
            ours = _scores(lists, user)
            same.append(set(ours) == set(theirs))
            shared = set(ours) & set(theirs)
            error = max([error, *(abs(ours[item] - theirs[item]) for item in shared)])
    return {
        "compared_lists": len(same),
        "same_as_generate": sum(same),
        "largest_score_difference": float(f"{error:.2g}"),
    }


def _scores(lists: Lists, user: int) -> dict[int, float]:
    pairs = zip(lists.items_UK[user].tolist(), lists.scores_UK[user].tolist(), strict=True)
    return {item: score for item, score in pairs if item >= 0}


def _against_all(histories: Histories, ranker: Ranker, beams: int) -> dict[str, object]:
    """Return the recall of the beams against exact lists of the whole catalogue, by modality."""
    if not histories:
        return {}
    exact = Ranker(
        ranker.recommender, device=ranker.device, batch_size=ranker.batch_size, exhaustive=True
    )
    line: dict[str, object] = {"oracle_users": len(histories)}
    for modality in ranker.modalities:
        searched = ranker.search(histories, modality, beams, beams)
        best = exact.search(histories, modality, beams, beams)
        for cutoff in (c for c in CUTOFFS if c <= beams):
            shares = [
                len(set(mine) & set(theirs) - {-1}) / cutoff
                for mine, theirs in zip(
                    searched.items_UK[:, :cutoff].tolist(),
                    best.items_UK[:, :cutoff].tolist(),
                    strict=True,
                )
            ]
            line[f"{modality}_recall_{cutoff}"] = round(statistics.mean(shares), 4)
    return line


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with published codes; default random")
    parser.add_argument("--recommender", type=Path, help="trained on the codes of --data")
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each")
    parser.add_argument("--users", type=int, default=512, help="of a block of ours")
    parser.add_argument("--batch", type=int, default=64, help="users decoded together by ours")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--stock-users", type=int, default=64, help="of a block of stock")
    parser.add_argument("--stock-batch", default="4,16,64", help="what stock may choose from")
    parser.add_argument("--compared", type=int, default=16, help="users whose lists are compared")
    parser.add_argument("--oracle-users", type=int, default=64, help="users scored exhaustively")
    shared.add_threads_flag(parser)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
