import pytest
from timm.data import ImageNetInfo

from van.data.classes import match_classes
from van.errors import DataError


def test_by_name():
    assert match_classes(["dog", "cat"], ["cat", "fox", "dog"], "The data") == [2, 0]
    assert match_classes(["1", "0"], ["0", "1"], "The data") == [1, 0]


def test_the_same_names_in_order_even_if_one_occurs_twice():
    assert match_classes(["crane", "crane"], ["crane", "crane"], "The data") == [0, 1]


def test_numbers_stand_for_classes_without_names():
    assert match_classes(["cat", "dog"], ["0", "1"], "The data") == [0, 1]
    with pytest.raises(DataError, match="does not have"):
        match_classes(["cat", "dog"], ["0", "1", "2"], "The data")
    with pytest.raises(DataError, match="does not have"):
        match_classes(["cat", "dog"], ["3", "7"], "The data")


def test_folders_of_imagenet():
    imagenet = ImageNetInfo("imagenet-1k")
    names = imagenet.label_descriptions()
    assert match_classes(imagenet.label_names()[5:8], names, "The data") == [5, 6, 7]
    with pytest.raises(DataError, match="'n99999999'"):
        match_classes(["n99999999"], names, "The data")


def test_unknown_classes():
    with pytest.raises(DataError, match=r"The data has the class 'cow', which the model .* cat, dog"):
        match_classes(["cat", "cow"], ["cat", "dog"], "The data")
    with pytest.raises(DataError, match=r"2 classes \(cow, fox\), which the train split"):
        match_classes(["cow", "fox"], ["cat", "dog"], "The data", known_to="the train split")
    assert match_classes(["cat", "cow"], ["dog", "cat"], "The data", used={0}) == [1, -1]
    with pytest.raises(DataError, match="cow"):
        match_classes(["cat", "cow"], ["dog", "cat"], "The data", used={1})
