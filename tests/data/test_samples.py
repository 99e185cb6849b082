import numpy as np
import pytest

from van.data.samples import ImageDataset, Samples, SampleSubset, find_problems, split_samples
from van.data.splits import Division
from van.errors import DataError


class Squares(Samples):
    """Grey squares whose level is their index."""

    def load(self, index):
        return np.full((2, 2), index, np.uint8)

    def name(self, index):
        return f"square {index}"


def squares(counts):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return Squares(labels, [f"class {i}" for i in range(len(counts))])


def names(samples):
    return [samples.name(i) for i in range(len(samples))]


def test_split_is_stratified_seeded_and_whole():
    samples = squares([40, 20, 10])
    train, val = split_samples(samples, Division(0.3, 1))
    assert [val.labels.count(c) for c in range(3)] == [12, 6, 3]
    assert sorted(names(train) + names(val)) == sorted(names(samples))
    assert names(split_samples(samples, Division(0.3, 1))[1]) == names(val)
    assert names(split_samples(samples, Division(0.3, 2))[1]) != names(val)


def test_subset_keeps_names_labels_and_images():
    subset = SampleSubset(squares([2, 2]), [3, 0])
    assert (subset.labels, names(subset), subset.class_names) == (
        [1, 0],
        ["square 3", "square 0"],
        ["class 0", "class 1"],
    )
    assert subset.load(0)[0, 0] == 3
    assert SampleSubset(squares([2, 2]), [0]).missing_classes() == ["class 1"]


def test_split_of_a_class_with_one_image():
    with pytest.raises(DataError, match="'class 1' has only one image, but a split needs two"):
        split_samples(squares([5, 1]), Division(0.5))


def test_split_with_a_fraction_that_is_too_small():
    with pytest.raises(DataError, match=r"7 images of 3 classes cannot be split with --val-fraction 0\.1"):
        split_samples(squares([3, 2, 2]), Division(0.1))


def test_dataset_decodes_into_the_mode():
    dataset = ImageDataset(squares([1, 2]), lambda image: (image.mode, image.getpixel((0, 0))), "L")
    assert [dataset[i] for i in range(len(dataset))] == [(("L", 0), 0), (("L", 1), 1), (("L", 2), 1)]


class HalfBroken(Squares):
    def load(self, index):
        return super().load(index) if index % 2 else b"broken"


def test_check_lists_the_broken_ones(capsys):
    assert find_problems(squares([3, 3]), workers=0) == []
    problems = find_problems(HalfBroken([0] * 50, ["x"]), workers=1)
    assert [problem.image for problem in problems] == list(range(0, 50, 2))
    assert [problem.file for problem in problems] == [f"square {i}" for i in range(0, 50, 2)]
    assert "is not an image" in str(problems[0])
    assert not capsys.readouterr().err  # progress is shown on a terminal only


def test_check_lists_classes_that_are_too_small():
    problems = find_problems(squares([3, 1, 0]), decode=False)
    assert [str(problem) for problem in problems] == [
        "class 1: the class has 1 image, expected at least 2",
        "class 2: the class has 0 images, expected at least 2",
    ]
