"""Measures of saliency maps, against what pysodmetrics gave for the same maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tasks.saliency.saliency_maps import cases

from van.errors import DataError
from van.tasks.saliency.evaluation import SaliencyEvaluator
from van.tasks.saliency.metrics import METRICS

STORED = json.loads(Path(__file__).with_name("saliency_values.json").read_text())
CASES = cases()


def measure(*pairs):
    evaluator = SaliencyEvaluator()
    for prediction, mask in pairs:
        evaluator.update([torch.as_tensor(prediction) / 255], [torch.as_tensor(mask > 128)])
    return evaluator


@pytest.mark.parametrize("name", CASES)
def test_each_map_measures_as_with_pysodmetrics(name):
    assert measure(CASES[name]).compute() == pytest.approx(STORED["cases"][name], abs=1e-6)


def test_all_maps_together_measure_as_with_pysodmetrics():
    evaluator = measure(*CASES.values())
    values = evaluator.compute()
    assert list(values) == [metric.key for metric in METRICS]
    assert values == pytest.approx(STORED["all"], abs=1e-6)
    assert evaluator.curves()["F"].max() == pytest.approx(values["max_F"])


def test_lower_errors_are_better():
    assert [metric.key for metric in METRICS if not metric.higher_is_better] == ["MAE"]
    assert {metric.unit for metric in METRICS} == {""}


def test_nothing_to_measure():
    evaluator = measure(*CASES.values())
    evaluator.reset()
    evaluator.update([], [])
    assert set(evaluator.compute().values()) == {-1.0}


def test_an_object_at_the_very_edge_is_measured():
    mask = np.zeros((5, 6), np.uint8)
    mask[-1, -1] = 255
    # pysodmetrics gives NaN for quarters without pixels
    assert measure((mask, mask)).compute()["S"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("prediction", "mask", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), r"shape \(2, 3\), its mask \(3, 2\)"),
        (torch.full((2, 3), 1.5), torch.zeros(2, 3), r"1\.5 to 1\.5, expected 0 to 1"),
    ],
)
def test_what_is_no_map_is_refused(prediction, mask, message):
    with pytest.raises(DataError, match=message):
        SaliencyEvaluator().update([prediction], [mask])
