"""Training on joined images: the same samples with any number of loading processes, after a stop, and none of the
validation split."""

import shutil
from itertools import islice

import pytest
import torch
from PIL import Image

import van
from van.data.loaders import batch_loader
from van.data.mixing import Mixing
from van.engine.api import train_options
from van.errors import VanError

MIXES = {
    "detection": {"mosaic": 0.5, "mixup": 0.3},
    "instances": {"mosaic": 0.5, "mixup": 0.3, "copy_paste": 0.5},
    "semantic": {"mosaic": 0.5},
    "panoptic": {"mosaic": 0.5, "copy_paste": 0.5},
}
PIXELS = {"blur": 0.5, "random_erasing": 0.5, "photometric": 0.5}


@pytest.fixture(params=list(MIXES))
def mixed(request, options_of):
    """The options of a run that joins images."""
    pytest.importorskip("faster_coco_eval")
    options = options_of(request.param)
    return {**options, "augmentation": {**options.get("augmentation", {}), **PIXELS, **MIXES[request.param]}}


def data_of(options):
    task, parsed = train_options(options["task"], options=options)
    return task.data(parsed, 1)


def flat(batch):
    """All tensors of a batch, in order."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else []
    return [tensor for part in parts for tensor in flat(part)]


def same(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


def test_samples_follow_from_seed_and_place_alone(mixed):
    data = data_of(mixed)
    whole = list(data.train_dataloader())
    assert len(whole) == 2
    same(whole, data_of({**mixed, "workers": 2}).train_dataloader())
    # a run that goes on inside the epoch sees the rest of it
    order = data.order()
    order.start_at(0, 1)
    same(whole[1:], batch_loader(data.training_set(), order, data.collate, 0))
    other = next(iter(data_of({**mixed, "seed": 1}).train_dataloader()))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(flat(whole[0]), flat(other), strict=False))


def test_no_image_of_the_validation_split_is_joined(mixed, data, tmp_path):
    folder = shutil.copytree(data[mixed["task"]], tmp_path / "marked")
    for split, color in (("train", (0, 200, 0)), ("val", (200, 0, 0))):
        for path in (folder / split).glob("*.jpg"):
            with Image.open(path) as image:
                size = image.size
            Image.new("RGB", size, color).save(path, quality=100)
    changes = {**mixed["augmentation"], "photometric": 0.0, **dict.fromkeys(MIXES[mixed["task"]], 1.0)}
    found = data_of({**mixed, "data": str(folder), "augmentation": changes})
    for images in (batch[0] for batch in islice(found.train_dataloader(), 2)):
        for image in images:
            red, green, _ = image.int()
            assert (red <= green + 10).all()  # green, or the grey that fills


def test_the_last_epochs_join_nothing(options_of, monkeypatch):
    calls = []
    mosaic = Mixing.mosaic
    monkeypatch.setattr(Mixing, "mosaic", lambda self, *sample: calls.append(len(calls)) or mosaic(self, *sample))
    options = options_of("semantic", output="run")
    options["augmentation"] = {**options["augmentation"], "mosaic": 1.0, "unmixed_epochs": 1}
    assert van.train(**options).finished
    assert len(calls) == 16  # the images of the first epoch
    with pytest.raises(VanError, match="unmixed_epochs is 2, expected less than the 2 epochs"):
        van.train(**{**options, "output": "other", "augmentation": {**options["augmentation"], "unmixed_epochs": 2}})


def test_a_broken_image_is_blamed_wherever_it_is_drawn(options_of, data, tmp_path):
    folder = shutil.copytree(data["semantic"], tmp_path / "own")
    broken = sorted((folder / "train").glob("*.jpg"))[3]
    broken.write_bytes(broken.read_bytes()[:700])  # found by decoding alone
    options = options_of("semantic", data=str(folder), on_bad_image="skip")
    options["augmentation"] = {**options["augmentation"], "mosaic": 1.0}
    found = data_of(options)
    found.skip_bad_images(tmp_path / "skipped.txt")
    assert len(list(found.train_dataloader())) == 2
    lines = (tmp_path / "skipped.txt").read_text().splitlines()
    assert len(lines) == 1
    assert broken.name in lines[0]
