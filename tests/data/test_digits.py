from collections import Counter

import numpy as np

from van.data.digits import load_split
from van.data.images import read_image


def test_sizes_and_classes():
    train, val = load_split()
    assert (len(train), len(val)) == (1437, 360)
    assert train.class_names == val.class_names == [str(digit) for digit in range(10)]


def test_stratified():
    train, val = load_split()
    for digit in range(10):
        whole = train.labels.count(digit) + val.labels.count(digit)
        assert abs(val.labels.count(digit) - whole / 5) <= 1


def test_always_the_same_and_disjoint():
    first, second = load_split(), load_split()
    names = [[split.name(i) for i in range(len(split))] for split in (*first, *second)]
    assert names[:2] == names[2:]
    assert not set(names[0]) & set(names[1])
    assert set(names[0]) | set(names[1]) == {f"digit {i}" for i in range(1797)}
    assert all(np.array_equal(first[0].load(i), second[0].load(i)) for i in range(50))


def test_images():
    train, _ = load_split()
    images = np.stack([train.load(i) for i in range(len(train))])
    assert (images.shape[1:], images.dtype) == ((8, 8), np.uint8)
    assert (images.min(), images.max()) == (0, 255)
    assert read_image(train.load(0)).size == (8, 8)
    # the picture of a nought is dark in its middle, that of a one is not
    middle = {digit: images[np.array(train.labels) == digit, 3:5, 3:5].mean() for digit in (0, 1)}
    assert middle[0] < 60 < 150 < middle[1]
    assert min(Counter(train.labels).values()) > 130
