"""Measures of salient maps, against what pysodmetrics gave for the same maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.analysis.saliency_maps import cases

from van.analysis.saliency_measures import FIGURES, SaliencyEvaluator
from van.errors import DataError

STORED = json.loads(Path(__file__).with_name("saliency_values.json").read_text())
CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_each_map_measures_as_with_pysodmetrics(name):
    prediction, mask = CASES[name]
    evaluator = SaliencyEvaluator()
    evaluator.update(prediction, mask > 128)
    assert evaluator.compute() == pytest.approx(STORED["cases"][name], abs=1e-6)


@pytest.mark.parametrize(("stretch", "name"), [(True, "all"), (False, "all, not stretched")])
def test_all_maps_together_measure_as_with_pysodmetrics(stretch, name):
    evaluator = SaliencyEvaluator(stretch)
    for prediction, mask in CASES.values():
        evaluator.update([torch.from_numpy(prediction).float() / 255], [torch.from_numpy(mask > 128)])
    figures = evaluator.compute()
    assert tuple(figures) == FIGURES
    assert figures == pytest.approx(STORED[name], abs=1e-6)
    assert evaluator.curves()["F"].max() == pytest.approx(figures["max_F"])
    evaluator.reset()
    assert set(evaluator.compute().values()) == {-1.0}


def test_batches_and_single_maps_are_the_same():
    pairs = [(p, m > 128) for p, m in CASES.values() if p.shape == (20, 30)]
    single, batch, channels = (SaliencyEvaluator() for _ in range(3))
    for prediction, mask in pairs:
        single.update(torch.from_numpy(prediction) / 255, torch.from_numpy(mask))
    predictions, masks = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    batch.update(predictions, masks)
    channels.update(predictions[:, None] / 255, masks[:, None].to(torch.uint8))
    assert single.compute() == pytest.approx(batch.compute())
    assert channels.compute() == pytest.approx(batch.compute())


def test_an_object_at_the_very_edge_is_measured():
    mask = np.zeros((5, 6), bool)
    mask[-1, -1] = True
    evaluator = SaliencyEvaluator()
    evaluator.update(mask.astype(float), mask)
    assert evaluator.compute()["S"] == pytest.approx(1.0)  # pysodmetrics gives NaN for quarters without pixels


@pytest.mark.parametrize(
    ("prediction", "mask", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), r"map has the size \(2, 3\), its mask \(3, 2\)"),
        (torch.full((2, 3), 1.5), torch.zeros(2, 3), r"goes from 1\.5 to 1\.5, not 0 to 1"),
        (torch.zeros(1, 2, 2, 3), torch.zeros(2, 3), r"shape \(1, 2, 2, 3\), expected"),
    ],
)
def test_what_is_no_map_is_refused(prediction, mask, message):
    with pytest.raises(DataError, match=message):
        SaliencyEvaluator().update(prediction, mask)
