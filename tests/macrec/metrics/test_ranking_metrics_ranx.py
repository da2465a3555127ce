"""The metrics against another library's, on random lists."""

import numpy as np
import pytest
from ranx import Qrels, Run, evaluate

from macrec.metrics.ranking_metrics import CUTOFFS, per_user, ranks_in_lists

RANX = {"hr": "hit_rate", "ndcg": "ndcg", "mrr": "mrr"}


@pytest.mark.slow  # numba compiles the reference on its first call
@pytest.mark.filterwarnings("ignore:unsafe cast from uint64")
def test_metrics_are_those_of_ranx_user_by_user():
    generator = np.random.default_rng(0)
    users, items, length = 300, 40, 25
    items_UK = generator.permuted(np.tile(np.arange(items), (users, 1)), axis=1)[:, :length]
    scores_UK = -np.sort(-generator.random((users, length)), axis=1)
    short_UK = np.arange(length) >= generator.integers(1, length + 1, users)[:, None]
    items_UK, scores_UK = np.where(short_UK, -1, items_UK), np.where(short_UK, -np.inf, scores_UK)
    targets_U = generator.integers(0, items, users)
    qrels, run = {}, {}
    for user in range(users):
        listed = zip(items_UK[user], scores_UK[user], strict=True)
        run[f"{user:03}"] = {f"i{item}": score for item, score in listed if item >= 0}
        qrels[f"{user:03}"] = {f"i{targets_U[user]}": 1}
    mine = per_user(ranks_in_lists(items_UK, scores_UK, targets_U))
    names = {f"{RANX[m]}@{k}": f"{m}_{k}" for m in RANX for k in CUTOFFS}
    theirs = evaluate(Qrels(qrels), Run(run), list(names), return_mean=False)
    for their, name in names.items():
        np.testing.assert_allclose(mine[name], theirs[their], atol=1e-12, err_msg=name)
    assert 0 < mine["hr_20"].mean() < 1
