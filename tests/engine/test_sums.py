"""Metrics over several processes: evaluators add up what each of them has counted."""

import numpy as np
import pytest
import torch

from van.tasks.panoptic.evaluation import PanopticEvaluator
from van.tasks.saliency.evaluation import SaliencyEvaluator
from van.tasks.semantic.evaluation import SemanticEvaluator

CAT = {"segmentation": np.array([[1, 1], [0, 0]]), "segments": [{"id": 1, "label": 0}]}
DOG = {"segmentation": np.array([[1, 0], [0, 0]]), "segments": [{"id": 1, "label": 1}]}
ONE, TWO = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1, 1], [0, 1]])
BRIGHT, DARK = torch.tensor([[0.9, 0.1], [0.4, 0.3]]), torch.tensor([[0.0, 0.2], [0.9, 0.1]])


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (lambda: SemanticEvaluator(["a", "b"]), ([ONE], [ONE]), ([ONE], [TWO])),
        (lambda: PanopticEvaluator(["cat", "dog"], [True, False]), ([CAT], [CAT]), ([CAT], [DOG])),
        (SaliencyEvaluator, ([BRIGHT], [ONE]), ([DARK], [TWO])),
    ],
)
def test_two_processes_give_the_metrics_of_one_with_all_images(make, first, second):
    together, here, there = make(), make(), make()
    for images in (first, second):
        together.update(*images)
    here.update(*first)
    there.update(*second)
    assert here.compute() != together.compute()
    here.reset()
    here.update(*first)
    here.distributed_available_fn = lambda: True
    others = iter([getattr(there, state) for state in there._reductions])  # in the order in which they are gathered
    here.dist_sync_fn = lambda own, group=None: [own, next(others)]
    assert here.compute() == pytest.approx(together.compute())


def test_sums_keep_their_precision():
    sums = SaliencyEvaluator().half()
    assert sums.sums.dtype == torch.float64
    assert not sums.state_dict()  # checkpoints hold no results
