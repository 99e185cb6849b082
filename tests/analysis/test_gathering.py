"""Figures of pixels over several processes: the evaluators add up what each of them has counted."""

import numpy as np
import pytest
import torch

from van.analysis import semantic_measures
from van.analysis.panoptic_quality import PanopticEvaluator
from van.analysis.saliency_measures import SaliencyEvaluator
from van.analysis.semantic_measures import SemanticEvaluator

CAT = {"segmentation": np.array([[1, 1], [0, 0]]), "segments": [{"id": 1, "label": 0}]}
DOG = {"segmentation": np.array([[1, 0], [0, 0]]), "segments": [{"id": 1, "label": 1}]}
ONE, TWO = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1, 1], [0, 1]])
BRIGHT, DARK = torch.tensor([[0.9, 0.1], [0.4, 0.3]]), torch.tensor([[0.0, 0.2], [0.9, 0.1]])


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (lambda: SemanticEvaluator(["a", "b"]), (ONE, ONE), (ONE, TWO)),
        (lambda: PanopticEvaluator(["cat", "dog"], {0}), ([CAT], [CAT]), ([CAT], [DOG])),
        (SaliencyEvaluator, (BRIGHT, ONE), (DARK, TWO)),
    ],
)
def test_two_processes_give_the_figures_of_one_with_all_images(monkeypatch, make, first, second):
    together, here, there = make(), make(), make()
    for images in (first, second):
        together.update(*images)
    here.update(*first)
    there.update(*second)
    assert here.compute() != together.compute()

    def gather(parts, own):
        parts[:] = [own, others[0]]

    others = []
    monkeypatch.setattr(semantic_measures, "gathered", lambda value: others.append(value) or [value])
    for module in ("panoptic_quality", "saliency_measures"):
        monkeypatch.setattr(f"van.analysis.{module}.gathered", lambda value: others.append(value) or [value])
    there.compute()
    monkeypatch.undo()
    dist = semantic_measures.dist
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    figures = here.compute()
    monkeypatch.undo()
    assert figures == pytest.approx(together.compute())
