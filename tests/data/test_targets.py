import math

import pytest
import torch

from van.data.targets import check_labels, check_objects, check_saliency
from van.errors import DataError


def target(**changes):
    good = {
        "boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 9.0, 9.0]]),
        "labels": torch.tensor([0, 2]),
        "masks": torch.ones(2, 9, 9),
        "image_id": 41,
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def test_good_targets_pass():
    check_objects(target(), 3, masks=True)
    check_objects(target(masks=None), 3)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": torch.zeros(0, 9, 9)}
    check_objects(none, 3, masks=True)
    check_labels(torch.tensor([[0, 1, 255]]), 2)
    check_saliency(torch.tensor([[0.0, 0.5, 1.0, 255.0]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": None}, "image 41 has no boxes"),
        ({"masks": None}, "image 41 has no masks"),
        ({"boxes": torch.tensor([[1.0, 2.0, 1.0, 4.0], [0.0, 0.0, 9.0, 9.0]])}, r"\[1\.0, 2\.0, 1\.0, 4\.0\].*x1 < x2"),
        ({"boxes": torch.tensor([[1.0, 2.0, math.nan, 4.0], [0.0, 0.0, 9.0, 9.0]])}, "finite"),
        ({"boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}, "2 labels and 1 boxes"),
        ({"masks": torch.ones(3, 9, 9)}, "2 labels and 3 masks"),
        ({"labels": torch.tensor([0, 3])}, "from 0 to 2"),
        ({"labels": torch.tensor([-1, 2])}, "from 0 to 2"),
        ({"labels": None}, "no labels"),
    ],
)
def test_objects(changes, message):
    with pytest.raises(DataError, match=message):
        check_objects(target(**changes), 3, masks=True)


def test_pixels():
    with pytest.raises(DataError, match="label 2, expected 0 to 1, or 255"):
        check_labels(torch.tensor([[0, 2]]), 2)
    with pytest.raises(DataError, match="expected integers"):
        check_labels(torch.zeros(2, 2), 2)
    with pytest.raises(DataError, match=r"from -0\.5 to 1"):
        check_saliency(torch.tensor([-0.5, 1.0]))
    with pytest.raises(DataError, match="expected 0 to 1"):
        check_saliency(torch.tensor([math.nan, 1.0]))
    with pytest.raises(DataError, match="floats from 0 to 1"):
        check_saliency(torch.tensor([0, 255], dtype=torch.uint8))
