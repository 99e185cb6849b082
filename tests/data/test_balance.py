"""Weights of classes, and passes that show images of rare classes more often."""

import json

import numpy as np
import pytest
import torch

from van.data.balance import Repeats, by_class, class_weights, contents_of, image_factors, read_by_class
from van.data.loaders import OrientedBatches, StepBatches
from van.errors import DataError

NAMES = ["cat", "dog", "owl"]
# 12 cats, 6 dogs, 2 owls
CONTENTS = contents_of([{0: 1}] * 12 + [{1: 1}] * 6 + [{2: 1}] * 2, 3)


def seen(batches, epochs: int) -> np.ndarray:
    """How often each image is seen."""
    counts = np.zeros(20)
    for epoch in range(epochs):
        np.add.at(counts, [index for batch in batches.batches(epoch) for _, index in batch], 1)
    return counts


class TestWeights:
    def test_balanced_is_that_of_scikit_learn(self):
        from sklearn.utils.class_weight import compute_class_weight

        labels = [0] * 12 + [1] * 6 + [2] * 2
        expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
        assert class_weights("balanced", NAMES, lambda: CONTENTS) == pytest.approx(expected)

    def test_a_class_that_does_not_occur_has_weight_1(self):
        weights = class_weights("balanced", ["a", "b", "c"], lambda: contents_of([{0: 3}, {2: 1}], 3))
        assert weights == pytest.approx([2 / 3, 1, 2])

    @pytest.mark.parametrize("name", ["w.json", "w.csv", "heading.csv"])
    def test_from_a_file(self, tmp_path, name):
        text = json.dumps({"owl": 3, "cat": 0.5}) if name == "w.json" else "owl,3\ncat, 0.5\n"
        (tmp_path / name).write_text(("class,weight\n" if name == "heading.csv" else "") + text)
        weights = class_weights(str(tmp_path / name), NAMES, lambda: CONTENTS)
        assert weights.tolist() == [0.5, 1.0, 3.0]

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("w.json", "[1, 2]", "does not say a number for each class"),
            ("w.json", '{"cat": "much"}', "does not say a number"),
            ("w.csv", "cat,1,2\n", "does not say a number"),
            ("w.csv", "cat,1\ncat,2\n", "named twice"),
            ("w.json", '{"dgo": 1}', "names 'dgo'.* Did you mean dog"),
            ("w.json", '{"dog": -1}', "-1.0 for dog"),
            ("w.json", '{"dog": NaN}', "nan for dog"),
            ("w.json", '{"cat": 0, "dog": 0, "owl": 0}', "0 for all classes"),
        ],
    )
    def test_wrong_files(self, tmp_path, name, text, words):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=words):
            class_weights(str(tmp_path / name), NAMES, lambda: CONTENTS)

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=r"no\.json cannot be read"):
            read_by_class(tmp_path / "no.json")

    def test_other_classes_have_the_default(self):
        assert by_class({"dog": 0.3}, NAMES, "x", 0.5).tolist() == [0.5, 0.3, 0.5]


class TestFactors:
    def test_balanced_shows_all_classes_alike(self):
        factors = image_factors(CONTENTS, "balanced")
        assert factors.sum() == pytest.approx(20)
        assert CONTENTS.T @ factors == pytest.approx([20 / 3] * 3)

    def test_images_without_a_class_are_seen_once(self):
        factors = image_factors(contents_of([{0: 5}, {}, {1: 1}, {1: 2}], 2), "balanced")
        assert factors == pytest.approx([1.5, 1.0, 0.75, 0.75])

    def test_repeat_factor_is_that_of_lvis(self):
        contents = contents_of([{0: 1}] * 96 + [{0: 2, 1: 9}] * 3 + [{}], 3)
        factors = image_factors(contents, "repeat-factor", 0.12)
        assert factors == pytest.approx([1.0] * 96 + [(0.12 / 0.03) ** 0.5] * 3 + [1.0])


class TestRepeats:
    def test_a_pass_has_a_fixed_length_and_factors_hold_on_average(self):
        factors = [0.3] * 5 + [1.0] * 3 + [2.6] * 2
        repeats = Repeats(factors)
        passes = [repeats.order(torch.Generator().manual_seed(seed)) for seed in range(400)]
        assert {len(one) for one in passes} == {repeats.length} == {10}
        counts = np.stack([np.bincount(one, minlength=10) for one in passes])
        wanted = np.array(factors) * 10 / sum(factors)
        assert ((counts == np.floor(wanted)) | (counts == np.ceil(wanted))).all()
        assert counts.mean(0) == pytest.approx(wanted, abs=0.1)
        assert len({tuple(one) for one in passes}) == 400

    @pytest.mark.parametrize("how", ["steps", "oriented"])
    def test_batches_show_classes_alike_whatever_the_processes(self, how):
        factors = image_factors(CONTENTS, "balanced")

        def make(batch_size, processes, rank):
            if how == "steps":
                return StepBatches(20, batch_size, None, 0, processes, rank, factors)
            return OrientedBatches([1.5, 0.5] * 10, batch_size, 0, processes, rank, factors)

        alone = make(2, 1, 0)
        ranks = [make(1, 2, rank) for rank in range(2)]
        for epoch in range(3):
            for batches in (alone, *ranks):
                batches.set_epoch(epoch)
            whole = list(alone)
            assert len(whole) == len(alone)
            assert whole == [first + second for first, second in zip(*ranks, strict=True)]
            alone.start_at(epoch, 3)
            assert list(alone) == whole[3:]
        counts = seen(alone, 60)
        per_class = CONTENTS.T @ counts
        assert per_class / per_class.sum() == pytest.approx([1 / 3] * 3, abs=0.02)
        assert counts[18:] / counts[:12].mean() == pytest.approx([6.0, 6.0], rel=0.12)

    def test_few_images_fill_a_batch(self):
        batches = OrientedBatches([1.5] * 3 + [0.5], 4, factors=[0.2] * 4)
        assert {len(batch) for batch in batches} == {4}
