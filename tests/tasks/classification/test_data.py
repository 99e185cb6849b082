import json
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import RandomResizedCropAndInterpolation
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from torch.utils.data import DataLoader
from torchvision import transforms

from van.data.augmentation import ClassificationAugmentation
from van.errors import DataError
from van.tasks.classification.data import ClassificationData, evaluation_split
from van.tasks.classification.options import ClassificationEvaluateOptions, ClassificationTrainOptions

PLAIN = ClassificationAugmentation(
    scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, color_jitter=0.0, interpolation="bicubic"
)


@pytest.fixture
def build(helpers):
    def build(data, batch_size=4, augmentation=PLAIN, preprocessing=helpers.preprocessing, **options):
        given = {"data": str(data), "augmentation": augmentation, "workers": 0, **options}
        return ClassificationData(ClassificationTrainOptions(**given), preprocessing, batch_size)

    return build


# ------------------------------------------------------------------------------------------------ splits and classes


def test_split_where_there_is_no_validation_split(tmp_path, helpers, build):
    helpers.write_folder(tmp_path, {"a": range(20), "b": range(20, 30)})
    first, second = build(tmp_path, val_fraction=0.3, seed=1), build(tmp_path, val_fraction=0.3, seed=1)
    assert Counter(first.val.labels) == {0: 6, 1: 3}
    levels = helpers.levels(first.val_dataloader())
    assert sorted(levels + helpers.values(first.train)) == list(range(30))
    assert levels == helpers.levels(second.val_dataloader())
    assert levels != helpers.levels(build(tmp_path, val_fraction=0.3, seed=2).val_dataloader())


def test_validation_classes_are_matched_by_name(tmp_path, helpers, build):
    helpers.write_folder(tmp_path / "train", {"a": [1], "b": [2], "c": [3]})
    helpers.write_folder(tmp_path / "val", {"b": [4], "c": [5]})
    data = build(tmp_path)
    assert data.class_names == ["a", "b", "c"]
    assert [labels.tolist() for _, labels in data.val_dataloader()] == [[1, 2]]
    assert data.notes == ["The val split has no image of 1 of 3 classes (a): their accuracy is not measured."]


def test_class_that_only_the_validation_split_has(tmp_path, helpers, build):
    helpers.write_folder(tmp_path / "train", {"a": [1], "b": [2]})
    helpers.write_folder(tmp_path / "val", {"a": [3], "z": [4]})
    with pytest.raises(DataError, match=r"The val split of .* has the class 'z', which the train split does not have"):
        build(tmp_path)


def test_data_that_cannot_train(tmp_path, helpers, build):
    one = helpers.write_folder(tmp_path / "one", {"cat": range(5)})
    with pytest.raises(DataError, match=r"one has only one class \(cat\). A classifier needs at least two"):
        build(one)
    helpers.write_folder(tmp_path / "v" / "val", {"a": [1], "b": [2]})
    with pytest.raises(DataError, match="has a val split but no train split"):
        build(tmp_path / "v")
    files = {"train/a/1.png": helpers.png(1), "val/a/2.png": helpers.png(2), "val/b/3.png": helpers.png(3)}
    with pytest.raises(DataError, match=r"The train split of .*x\.tar has no image of b"):
        build(helpers.write_tar(tmp_path / "x.tar", files))


def measured(data, split, extra):
    """The images that evaluation takes for weights that know such a split, and what it says about them."""
    options = ClassificationEvaluateOptions(weights="", data=str(data), split=split)
    return evaluation_split(options, SimpleNamespace(extra=extra, class_names=["a", "b"]))


def test_the_split_that_was_made_is_found_again(tmp_path, helpers, build):
    helpers.write_folder(tmp_path, {"a": range(20), "b": range(20, 30)})
    data = build(tmp_path, val_fraction=0.3, seed=5)
    extra = json.loads(json.dumps(data.extra))  # the header of a weight file is JSON
    held_out = helpers.values(data.val)
    assert len(held_out) == 9
    for split in ("val", None):
        found, notes = measured(tmp_path, split, extra)
        assert helpers.values(found) == held_out
        assert "9 were held out" in notes[0]
    assert helpers.values(measured(tmp_path, "train", extra)[0]) == helpers.values(data.train)
    assert len(measured(tmp_path, "all", extra)[0]) == len(measured(tmp_path, None, {})[0]) == 30
    with pytest.raises(DataError, match=r"has no split 'val'.* all"):
        measured(tmp_path, "val", {})


def test_the_split_is_not_made_again_for_other_data(tmp_path, helpers, build):
    helpers.write_folder(tmp_path, {"a": range(20), "b": range(20, 30)})
    extra = build(tmp_path).extra
    (tmp_path / "a" / "0.png").unlink()
    found, notes = measured(tmp_path, None, extra)
    assert len(found) == 29
    assert "some may have been trained on" in notes[0]


def test_data_with_splits_of_its_own_has_nothing_to_remember(tmp_path, helpers, build):
    helpers.write_folder(tmp_path / "train", {"a": [1], "b": [2]})
    helpers.write_folder(tmp_path / "val", {"a": [3], "b": [4]})
    data = build(tmp_path)
    assert data.extra == {}
    assert helpers.values(measured(tmp_path, None, {})[0]) == [3, 4]


def test_digits_need_no_processes(build):
    data = build("digits", 64, workers=None)
    assert (data.workers, len(data.train), len(data.val)) == (0, 1437, 360)
    assert build("digits", 64, workers=2).workers == 2


# ------------------------------------------------------------------------------------------------ loaders


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loaders_of_files(tmp_path, helpers, build, workers):
    values = list(range(1, 24))
    helpers.write_folder(tmp_path / "train", {"a": values[::2], "b": values[1::2]})
    helpers.write_folder(tmp_path / "val", {"a": values[::2], "b": values[1::2]})
    data = build(tmp_path, workers=workers)
    loader = data.train_dataloader()
    first = helpers.levels(loader)
    loader.sampler.set_epoch(1)
    second = helpers.levels(loader)
    assert len(loader) == 5
    assert set(values) - set(first) <= set(second)  # the last three images come first in the next epoch
    assert len(set(first)) == len(first) == len(second) == 20
    assert first != second
    assert first != sorted(first)
    assert helpers.levels(data.val_dataloader()) == values[::2] + values[1::2]
    assert next(iter(data.val_dataloader()))[0].shape == (8, 3, 8, 8)


def test_fewer_images_than_a_batch(tmp_path, helpers, build):
    helpers.write_folder(tmp_path, {"a": range(4), "b": range(4, 8)})
    data = build(tmp_path, batch_size=64, val_fraction=0.25)
    ((images, _),) = data.train_dataloader()
    assert len(images) == 64  # several passes
    assert len(images.flatten(1).unique(dim=0)) >= 6


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_of_shards(tmp_path, helpers, build, workers):
    for i in range(4):
        helpers.write_shard(tmp_path / f"train-{i}.tar", {6 * i + v: v % 2 for v in range(6)})
    for i in range(3):
        helpers.write_shard(tmp_path / f"val-{i}.tar", {100 + 3 * i + v: v % 2 for v in range(3)})
    data = build(tmp_path, workers=workers)
    loader = data.train_dataloader()
    orders = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        orders.append(helpers.levels(loader))
    assert [sorted(levels) for levels in orders] == [list(range(24))] * 2
    assert orders[0] != orders[1] != sorted(orders[1])
    assert helpers.levels(data.val_dataloader()) == list(range(100, 109))
    assert [label for _, labels in data.val_dataloader() for label in labels.tolist()] == [0, 1, 0] * 3


def test_shards_without_a_validation_split_are_split(tmp_path, helpers, build):
    path = helpers.write_shard(tmp_path / "x.tar", {v: v % 2 for v in range(20)})
    data = build(path, val_fraction=0.3)
    assert (len(data.train), len(data.val)) == (14, 6)
    assert data.extra["split"]["images"] == 20


@pytest.mark.slow
def test_processes_that_are_spawned(tmp_path, helpers, build):
    """macOS and Windows start processes anew: all that they need is pickled."""
    values = list(range(1, 9))
    helpers.write_folder(tmp_path / "folder", {"a": values[::2], "b": values[1::2]})
    helpers.write_tar(tmp_path / "x.tar", {f"{'ab'[v % 2]}/{v}.png": helpers.png(v) for v in values})
    augmentation = ClassificationAugmentation(auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)
    for data in (tmp_path / "folder", tmp_path / "x.tar", "digits"):
        images = build(data, augmentation=augmentation, workers=1)
        dataset = images.train_dataloader().dataset
        loader = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context="spawn")
        batch, labels = next(iter(loader))
        assert (batch.shape, labels.shape) == ((4, 3, 8, 8), (4,))


# ------------------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image_in_training_is_named(tmp_path, helpers, build, workers):
    helpers.write_folder(tmp_path / "train", {"a": range(4), "b": range(4, 8)})
    helpers.write_folder(tmp_path / "val", {"a": [8], "b": [9]})
    (tmp_path / "train" / "b" / "5.png").write_bytes(helpers.png(5)[:50])
    loader = build(tmp_path, workers=workers).train_dataloader()
    with pytest.raises(DataError, match=r"train/b/5\.png .*broken.*Remove or replace it"):
        list(loader)
    if workers:  # the garbage collector would wait 10 s for its processes, in whichever test it comes to that
        cast(Any, loader)._iterator._shutdown_workers()


def test_check_lists_all_broken_images(tmp_path, helpers, build):
    helpers.write_folder(tmp_path / "train", {"a": range(4), "b": range(4, 8)})
    helpers.write_folder(tmp_path / "val", {"a": [8], "b": [9]})
    build(tmp_path, check_data=True)
    for name in ("a/1", "b/6"):
        (tmp_path / "train" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"(?s)train split .*has 2 problems.*a/1\.png: is not.*b/6\.png: is not"):
        build(tmp_path, check_data=True)
    build(tmp_path, on_bad_image="skip")
    with pytest.raises(DataError, match="2 of 8 images cannot be used, more than the 10%"):
        build(tmp_path, check_data=True, on_bad_image="skip")


def test_broken_validation_images_are_left_out_before_training(tmp_path, helpers, build):
    helpers.write_folder(tmp_path / "train", {"a": range(4), "b": range(4, 8)})
    helpers.write_folder(tmp_path / "val", {"a": [8, 9], "b": [10]})
    (tmp_path / "val" / "a" / "9.png").write_bytes(b"broken")
    data = build(tmp_path, on_bad_image="skip")
    assert helpers.levels(data.val_dataloader()) == [8, 10]
    assert "left out 1 of 3 images" in data.notes[0]


# ------------------------------------------------------------------------------------------------ decoding, transforms


def test_one_channel(tmp_path, helpers, build):
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0))):
        for i in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{i}.png")
    preprocessing = {**helpers.preprocessing, "input_size": (1, 8, 8), "mean": (0.0,), "std": (1 / 255,)}
    data = build(tmp_path, preprocessing=preprocessing)
    images, labels = next(iter(data.val_dataloader()))
    assert images.shape == (2, 1, 8, 8)
    # ITU-R 601 luminance of red and green
    assert {int(label): round(float(image.mean())) for image, label in zip(images, labels, strict=True)} == {
        0: 76,
        1: 150,
    }
    assert next(iter(data.train_dataloader()))[0].shape == (4, 1, 8, 8)


def test_too_many_channels(tmp_path, helpers, build):
    with pytest.raises(DataError, match="The model takes 4 channels"):
        build("digits", preprocessing={**helpers.preprocessing, "input_size": (4, 8, 8)})


def test_validation_preprocessing(tmp_path, helpers, build):
    """Resize to 10 of 8 / 0.8, cut out the middle 8, subtract the mean, divide by std."""
    ramp = np.tile(np.arange(10, dtype=np.uint8)[:, None] * 20, (1, 10))
    for name in ("a", "b"):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(ramp).save(tmp_path / name / f"{i}.png")
    preprocessing = {**helpers.preprocessing, "crop_pct": 0.8, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    images, _ = next(iter(build(tmp_path, preprocessing=preprocessing, val_fraction=0.5).val_dataloader()))
    expected = (torch.arange(1, 9) * 20 / 255 - 0.5) / 0.25
    assert torch.allclose(images[0, 0, :, 0], expected)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_ways_to_fit_images_into_the_size(tmp_path, helpers, build, mode):
    """A wide image with a green middle: center cuts its ends off, squash narrows it, border pads above and below."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:24], pixels[:, 24:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    preprocessing = {**helpers.preprocessing, "crop_mode": mode, "mean": (0.2,) * 3}
    images, _ = next(iter(build(tmp_path, preprocessing=preprocessing, val_fraction=0.5).val_dataloader()))
    shown = (images[0] + 51).round().permute(1, 2, 0)  # mean and std of the helpers give levels from 0 to 255
    red, green = (shown[4, :, 0] > 128).sum(), (shown[4, :, 1] > 128).sum()
    assert (int(red), int(green)) == {"center": (0, 8), "squash": (2, 4), "border": (2, 4)}[mode]
    assert (shown[0, 4].tolist() == [51, 51, 51]) == (mode == "border")  # filled with the mean


def by_type(transform):
    return {type(step): step for step in transform.transforms}


def test_paper_augmentation(helpers):
    """Section "training" of the paper: RandAugment, random erasing, mixup, CutMix; the recipe's words are timm's."""
    augmentation = ClassificationAugmentation(
        auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, mixup=0.8, cutmix=1.0
    )
    steps = by_type(augmentation.transform({**helpers.preprocessing, "input_size": (3, 224, 192)}))
    crop = steps[RandomResizedCropAndInterpolation]
    assert (crop.size, crop.scale, crop.ratio) == ((224, 192), (0.08, 1.0), (3 / 4, 4 / 3))
    assert steps[transforms.RandomHorizontalFlip].p == 0.5
    policy = steps[RandAugment]
    assert policy.num_layers == 2
    assert {op.magnitude for op in policy.ops} == {9}
    assert {op.hparams["magnitude_std"] for op in policy.ops} == {0.5}
    assert "PosterizeIncreasing" in {op.name for op in policy.ops}
    erasing = steps[RandomErasing]
    assert (erasing.probability, erasing.per_pixel) == (0.25, True)
    assert transforms.ColorJitter not in steps
    assert transforms.RandomVerticalFlip not in steps
    # where it comes after mixup, the learner does it
    later = ClassificationAugmentation(random_erasing=0.25, erase_mixed=True).transform(helpers.preprocessing)
    assert RandomErasing not in by_type(later)


def test_other_augmentation(helpers):
    augmentation = ClassificationAugmentation(
        (0.7, 0.9), (0.8, 1.25), hflip=0.0, vflip=0.3, color_jitter=0.2, interpolation="bilinear"
    )
    steps = by_type(augmentation.transform(helpers.preprocessing))
    assert (steps[RandomResizedCropAndInterpolation].scale, steps[RandomResizedCropAndInterpolation].ratio) == (
        (0.7, 0.9),
        (0.8, 1.25),
    )
    assert steps[transforms.RandomVerticalFlip].p == 0.3
    assert steps[transforms.ColorJitter].brightness == pytest.approx((0.8, 1.2))
    assert not {transforms.RandomHorizontalFlip, RandAugment, RandomErasing} & steps.keys()


@pytest.mark.parametrize(
    ("options", "strength"),
    [
        ({}, 0.4),
        ({"color_jitter": 0.0}, None),
        ({"auto_augment": "rand-m9"}, None),
        ({"auto_augment": "3a"}, 0.4),
        ({"auto_augment": "3a", "color_jitter": 0.2}, 0.2),
    ],
)
def test_color_jitter_and_policies(helpers, options, strength):
    steps = by_type(ClassificationAugmentation(**options).transform(helpers.preprocessing))
    assert (transforms.ColorJitter in steps) == (strength is not None)
    if strength is not None:
        assert steps[transforms.ColorJitter].brightness == pytest.approx((1 - strength, 1 + strength))


def test_no_augmentation_leaves_the_image_alone(helpers):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    tensor = PLAIN.transform(helpers.preprocessing)(image)
    assert torch.allclose(tensor.permute(1, 2, 0), torch.from_numpy(np.asarray(image).astype(np.float32)))


@pytest.mark.parametrize("channels", [1, 3])
def test_strong_policies_run_on_many_images(helpers, channels):
    """RandAugment at times keeps no bit at all, which newer Pillows refuse."""
    torch.manual_seed(0)
    preprocessing = {"input_size": (channels, 16, 16), "mean": (0.5,) * channels, "std": (0.5,) * channels}
    image = Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).convert("L" if channels == 1 else "RGB")
    for policy in ("rand-m9-mstd0.5-inc1", "rand-m10-mstd101-inc1", "original", "v0", "augmix-m5-w3", "3a"):
        transform = ClassificationAugmentation(auto_augment=policy, random_erasing=0.5).transform(preprocessing)
        for _ in range(60):
            tensor = transform(image)
        assert tensor.shape == (channels, 16, 16)


def test_keeping_no_bit_gives_black(helpers):
    transform = ClassificationAugmentation(auto_augment="rand-m10-inc1").transform(helpers.preprocessing)
    (step,) = [op for op in by_type(transform)[RandAugment].ops if op.name == "PosterizeIncreasing"]
    step.prob = 1.0
    assert step(Image.new("RGB", (4, 4), (200, 100, 50))).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auto_augment": "nonsense"}, r"no augmentation\.auto_augment 'nonsense'"),
        ({"auto_augment": "rand-x9"}, r"no augmentation\.auto_augment 'rand-x9'"),
        ({"interpolation": "cubic"}, "interpolation 'cubic'.*bilinear, bicubic or random"),
        ({"hflip": 1.5}, r"augmentation\.hflip is 1\.5, expected a number from 0 to 1"),
        ({"random_erasing": -0.1}, r"augmentation\.random_erasing is -0\.1"),
        ({"erase_mixed": True}, r"augmentation\.erase_mixed is set, but random_erasing is 0"),
        ({"mixup": -1.0}, r"augmentation\.mixup is -1\.0, expected a number from 0 up"),
        ({"color_jitter": float("nan")}, r"augmentation\.color_jitter is nan"),
        ({"color_jitter": 0.4, "auto_augment": "rand-m9"}, r"color_jitter is 0\.4, but auto_augment rand-m9 takes its"),
        ({"scale": (1.0, 0.5)}, r"augmentation\.scale is \(1\.0, 0\.5\), expected two increasing numbers above 0"),
        ({"ratio": (0.0, 1.0)}, r"augmentation\.ratio is \(0\.0, 1\.0\)"),
    ],
)
def test_unknown_augmentation(helpers, options, message):
    with pytest.raises(DataError, match=message):
        ClassificationAugmentation(**options).transform(helpers.preprocessing)
