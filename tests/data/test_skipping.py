import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from van.data.skipping import Skipping, append_skipped, finish_skipped, skipped_lines
from van.errors import DataError


class Numbers(Dataset):
    """Its own indices; some of them are broken."""

    def __init__(self, count, broken):
        self.count = count
        self.broken = broken
        self.ratios = [1.0] * count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise DataError(f"{index}.png is broken.\nReplace it.")
        return torch.tensor(index)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_next_sample_takes_the_place_of_a_broken_one(tmp_path, workers):
    file = tmp_path / "skipped.txt"
    numbers = Skipping(Numbers(40, {3, 4, 39}), file)
    loader = DataLoader(numbers, batch_size=4, num_workers=workers)
    for _ in range(2):
        assert torch.cat(list(loader)).tolist() == [0, 1, 2, 5, 5, *range(5, 39), 0]
    assert numbers.bad.nonzero()[:, 0].tolist() == [3, 4, 39]
    assert sorted(skipped_lines(file)) == [f"{i}.png is broken. Replace it." for i in (3, 39, 4)]
    assert (len(numbers), numbers.ratios) == (40, [1.0] * 40)


@pytest.mark.parametrize(("count", "most"), [(40, 4), (5, 1)])
def test_more_than_a_tenth_is_an_error(tmp_path, count, most):
    few = Skipping(Numbers(count, set(range(most))), tmp_path / "few.txt")
    assert [int(few[i]) for i in range(most)] == [most] * most
    many = Skipping(Numbers(count, set(range(most + 1))), tmp_path / "many.txt")
    with pytest.raises(DataError, match=rf"(?s){most + 1} of {count} images .* more than the 10%.*0\.png is broken"):
        many[0]


def test_samples_of_one_image_count_once(tmp_path):
    images = [7 if i in (3, 4, 5) else 100 + i for i in range(12)]
    crops = Skipping(Numbers(12, {3, 4, 5}), tmp_path / "skipped.txt", images)
    assert [int(crops[i]) for i in range(3, 6)] == [6] * 3
    assert (int(crops.bad.sum()), len(crops.bad)) == (1, 10)
    twice = Skipping(Numbers(12, {0, 3}), tmp_path / "other.txt", images)
    assert int(twice[0]) == 1
    with pytest.raises(DataError, match="2 of 10 images"):
        twice[3]


def test_the_error_comes_through_loading_processes(tmp_path):
    loader = DataLoader(Skipping(Numbers(40, set(range(20))), tmp_path / "x.txt"), batch_size=2, num_workers=2)
    iterator = iter(loader)
    with pytest.raises(DataError, match="more than the 10%"):
        list(iterator)
    iterator._shutdown_workers()


def test_it_survives_pickling(tmp_path):
    copy = pickle.loads(pickle.dumps(Skipping(Numbers(40, {3}), tmp_path / "skipped.txt")))
    assert int(copy[3]) == 4
    with pytest.raises(AttributeError):
        _ = copy.nothing


def test_lines_come_once(tmp_path):
    file = tmp_path / "skipped.txt"
    assert finish_skipped(file) == list(skipped_lines(file)) == []
    append_skipped(file, [])
    assert not file.exists()
    for _ in range(2):
        append_skipped(file, ["b", "a"])
    assert finish_skipped(file) == ["b", "a"]
    assert file.read_text() == "b\na\n"
