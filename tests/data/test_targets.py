import pytest
import torch

from van.data.targets import check_labels, check_saliency, check_segments, check_targets
from van.errors import DataError

GOOD = {"boxes": torch.tensor([[12.0, 16, 44, 52]]), "labels": torch.tensor([2]), "masks": torch.zeros(1, 64, 64)}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": torch.zeros(0, 64, 64)}


def test_good_targets_pass():
    check_targets([GOOD, NONE], 3, masks=True)
    check_targets([{k: v for k, v in GOOD.items() if k != "masks"}], 3)
    check_segments([GOOD, NONE], 3)
    check_labels(torch.tensor([0, 1, 2, 255]), 3)
    check_saliency(torch.tensor([0.0, 0.5, 1.0, 255.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[12.0, 16, 12, 52]])}, "x1 < x2"),
        ({"boxes": torch.tensor([[12.0, 16, float("nan"), 52]])}, "x1 < x2"),
        ({"labels": torch.tensor([3])}, "from 0 to 2"),
        ({"labels": torch.tensor([-1])}, "from 0 to 2"),
        ({"labels": torch.tensor([1, 1])}, "from 0 to 2"),
        ({"masks": torch.zeros(2, 64, 64)}, "1 boxes and 2 masks"),
    ],
)
def test_a_bad_target_is_named(change, message):
    with pytest.raises(DataError, match=message) as error:
        check_targets([GOOD, {**GOOD, **change, "image_id": 17}], 3, masks=True)
    assert "17" in str(error.value)


def test_missing_masks_are_named():
    with pytest.raises(DataError, match="no masks"):
        check_targets([{"boxes": GOOD["boxes"], "labels": GOOD["labels"]}], 3, masks=True)


def test_bad_labels_and_masks_are_named():
    with pytest.raises(DataError, match="label 3, expected 0 to 2"):
        check_labels(torch.tensor([[0, 3]]), 3)
    with pytest.raises(DataError, match=r"labels \[3\]"):
        check_segments([{"labels": torch.tensor([3])}], 3)
    with pytest.raises(DataError, match="value 2, expected 0 to 1"):
        check_saliency(torch.tensor([0.0, 2.0]))
