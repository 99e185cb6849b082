"""Looking at images of any size: windows, scales, mirror images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from van.errors import DataError, VanError, WeightsError
from van.inference import pixels
from van.inference.pixels import (
    PanopticInference,
    PixelInference,
    SaliencyPredictor,
    SemanticPredictor,
    full_maps,
    label_maps,
    panoptic_maps,
)
from van.models.task_weights import TaskWeights
from van.networks.options import EDNOptions
from van.networks.segmentation.options import SemanticFPNOptions

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


class Colours:
    """Each colour is a class; keeps the sizes of what it sees."""

    def __init__(self):
        self.sizes = []

    def probabilities(self, images):
        self.sizes.append(tuple(images.shape[-2:]))
        return images.float().softmax(1)


def identity(scores):
    return scores


class Places:
    """Scores that depend on where a pixel lies in what is seen: windows disagree where they overlap."""

    def __call__(self, images):
        height, width = images.shape[-2:]
        ramp = torch.arange(height)[:, None] * 1000.0 + torch.arange(width)
        return images[:, :1].float() + ramp


def mean_of_windows(image, crop, stride):
    """The plain way: add up everything, then divide by how many windows see a pixel."""
    height, width = image.shape[-2:]
    total, count = torch.zeros(1, height, width), torch.zeros(1, height, width)
    for top in range(0, max(height - crop[0], 0) + stride[0], stride[0]):
        for left in range(0, max(width - crop[1], 0) + stride[1], stride[1]):
            y, x = max(0, min(top, height - crop[0])), max(0, min(left, width - crop[1]))
            part = (..., slice(y, y + crop[0]), slice(x, x + crop[1]))
            total[part] += Places()(image[None][part])[0]
            count[part] += 1
    return total / count


@pytest.mark.parametrize("size", [(20, 30), (33, 17), (8, 8), (5, 40), (64, 64)])
@pytest.mark.parametrize("stride", [(8, 8), (5, 3), (4, 8)])
def test_windows_are_averaged(size, stride):
    image = torch.rand(3, *size)
    crop = (min(8, size[0]), 8)
    options = PixelInference(mode="slide", crop=(8, 8), stride=stride)
    found = full_maps(Places(), image[None], options, identity)[0]
    assert torch.allclose(found, mean_of_windows(image, crop, stride), rtol=1e-5)


def test_what_no_window_will_see_again_is_finished_at_once():
    image = torch.rand(1, 3, 400, 64)
    finished, before = 0, []

    def scores(window):
        before.append(finished)
        return window

    def finish(mean):
        nonlocal finished
        finished += mean[0, 0].numel()
        return pixels._labels(mean)

    labels = full_maps(scores, image, PixelInference(mode="slide", crop=(16, 16), stride=(12, 12)), finish)
    assert torch.equal(labels, image.argmax(1).to(torch.uint8))
    assert len(before) == 33 * 5
    # a window of row i begins at 12 i: all above it is over
    assert all(count >= 12 * (i // 5) * 64 for i, count in enumerate(before))


@pytest.mark.parametrize("size", [(7, 11), (64, 48), (33, 100)])
@pytest.mark.parametrize(
    "options",
    [
        PixelInference(),
        PixelInference(flip=True),
        PixelInference(mode="slide", crop=(16, 20), stride=(10, 20), flip=True),
    ],
)
def test_labels_of_every_pixel_are_right(size, options):
    image = torch.rand(3, *size)
    (labels,) = label_maps(Colours(), [image], options)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, image.argmax(0).to(torch.uint8))


def test_sizes_that_the_network_sees():
    model = Colours()
    image = torch.rand(3, 40, 80)
    label_maps(model, [image], PixelInference(size=(20, 30)))
    label_maps(model, [image], PixelInference(size=(20, 30), keep_ratio=False))
    label_maps(model, [image], PixelInference(scales=[0.5, 1.0, 1.5], flip=True))
    label_maps(model, [image], PixelInference(mode="slide", crop=(40, 40), stride=(40, 40), scales=[0.5]))
    assert model.sizes == [(15, 30), (20, 30), *[(20, 40)] * 2, *[(40, 80)] * 2, *[(60, 120)] * 2, (20, 20), (20, 20)]


def test_scaled_images_give_results_of_their_own_size(monkeypatch):
    image = torch.zeros(3, 50, 70)
    image[0, :, :35], image[1, :, 35:] = 9.0, 9.0
    (labels,) = label_maps(Colours(), [image], PixelInference(size=(25, 35)))
    assert labels.shape == (50, 70)
    assert (labels[:, :34] == 0).all()
    assert (labels[:, 36:] == 1).all()
    scores = torch.rand(2, 4, 9, 13)
    whole = pixels._enlarged(scores, (31, 50), identity)
    monkeypatch.setattr(pixels, "_AT_ONCE", 4 * 2 * 50 * 3)  # three rows at a time
    assert torch.allclose(pixels._enlarged(scores, (31, 50), identity), whole, atol=1e-5)
    assert torch.allclose(whole, F.interpolate(scores, (31, 50), mode="bilinear"))


def test_batches_are_neighbours_of_one_size(monkeypatch):
    images = [torch.zeros(3, *size) for size in ((4, 4), (4, 4), (4, 5), (4, 4))]
    assert [len(batch) for batch in pixels._batches(images)] == [2, 1, 1]
    monkeypatch.setattr(pixels, "_TOGETHER", 20)
    assert [len(batch) for batch in pixels._batches(images)] == [1, 1, 1, 1]


class Halves:
    """A left thing and a right stuff, whatever the image."""

    def __init__(self):
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(tuple(images.shape[-2:]))
        return {"size": tuple(images.shape[-2:]), "count": len(images)}

    def panoptic(self, outputs, things, object_threshold, overlap_threshold):
        assert (things, object_threshold, overlap_threshold) == ({0}, 0.5, 0.6)
        height, width = outputs["size"]
        numbers = torch.ones(height, width, dtype=torch.int32)
        numbers[:, width // 2 :] = 2
        segments = [{"id": i + 1, "label": i, "isthing": i == 0, "score": 0.9} for i in range(3)]
        return [{"segmentation": numbers, "segments": segments}] * outputs["count"]


def test_segments_have_the_size_of_the_image():
    model = Halves()
    options = PanopticInference((16, 32), 0.5, 0.6)
    found = panoptic_maps(model, [torch.zeros(3, 64, 64)] * 2 + [torch.zeros(3, 30, 90)], options, {0})
    assert model.sizes == [(16, 16), (11, 32)]
    assert [one["segmentation"].shape for one in found] == [(64, 64), (64, 64), (30, 90)]
    assert (found[2]["segmentation"][:, :45] == 1).all()
    assert (found[2]["segmentation"][:, 45:] == 2).all()
    assert [segment["id"] for segment in found[0]["segments"]] == [1, 2]  # the third has no pixel


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": (8, 8), "stride": (9, 4)}, "windows would leave gaps"),
        ({"scales": []}, "scales is"),
        ({"scales": [0.0]}, "scales is"),
        ({"size": (0, 4)}, "size is"),
    ],
)
def test_options_out_of_range(changes, words):
    with pytest.raises(VanError, match=words):
        PixelInference(**changes).check()


@pytest.mark.parametrize("name", ["object_threshold", "overlap_threshold"])
def test_thresholds_out_of_range(name):
    with pytest.raises(VanError, match=f"{name} is 2"):
        PanopticInference(**{name: 2}).check()


def semantic_weights():
    torch.manual_seed(0)
    model = SemanticFPNOptions(backbone_args=BACKBONE, pyramid_channels=8, channels=8).build(3)
    extra = {"inference": {"size": None, "mode": "whole"}}
    return TaskWeights("semantic", vars(model.options), ["a", "b", "c"], model.state_dict(), extra)


@pytest.fixture(scope="module")
def semantic():
    return SemanticPredictor(semantic_weights())


@pytest.mark.parametrize("size", [(1, 1), (33, 65), (100, 31), (64, 64)])
def test_any_size_is_padded_and_cropped_back(semantic, size):
    labels = semantic(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))
    assert labels.shape == size
    assert labels.dtype == np.uint8
    assert labels.max() < 3


def test_images_may_be_shrunk_to_a_pixel():
    image = torch.tensor([9, 200, 9], dtype=torch.uint8)[:, None, None].expand(3, 40, 30)
    (labels,) = label_maps(Colours(), [image], PixelInference(scales=[0.01]))
    assert torch.equal(labels, torch.ones(40, 30, dtype=torch.uint8))


def test_one_image_or_several(semantic, tmp_path):
    images = [Image.new("RGB", size, "red") for size in ((20, 30), (20, 30), (31, 8))]
    several = semantic(images)
    assert [labels.shape for labels in several] == [(30, 20), (30, 20), (8, 31)]
    assert all(np.array_equal(semantic(image), labels) for image, labels in zip(images, several, strict=True))
    (tmp_path / "broken.jpg").write_bytes(b"x")
    found = list(semantic.stream([images[0], tmp_path / "broken.jpg", images[2]]))
    assert [isinstance(one, DataError) for one in found] == [False, True, False]
    with pytest.raises(DataError, match="broken"):
        semantic(tmp_path / "broken.jpg")


def test_options_of_the_weights_and_their_changes():
    predictor = SemanticPredictor(semantic_weights(), flip=True, scales=[0.5, 1.0])
    assert predictor.inference == PixelInference(flip=True, scales=[0.5, 1.0])
    with pytest.raises(VanError, match="scales is"):
        SemanticPredictor(semantic_weights(), scales=[])


def test_saliency_lies_between_0_and_1():
    model = EDNOptions(backbone_args=BACKBONE, channels=8, global_channels=8).build(1)
    extra = {"inference": {"size": [32, 32], "keep_ratio": False}}
    weights = TaskWeights("saliency", vars(model.options), ["salient"], model.state_dict(), extra)
    found = SaliencyPredictor(weights)(np.zeros((50, 20, 3), np.uint8))
    assert found.shape == (50, 20)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1


def test_weights_of_another_task():
    weights = semantic_weights()
    weights.task = "detection"
    with pytest.raises(WeightsError, match="expected semantic"):
        SemanticPredictor(weights)


def test_weights_that_do_not_fit():
    weights = semantic_weights()
    del weights.tensors["head.classifier.bias"]
    with pytest.raises(WeightsError, match="do not fit"):
        SemanticPredictor(weights)
    weights = semantic_weights()
    weights.model["quux"] = 1
    with pytest.raises(VanError, match="quux"):
        SemanticPredictor(weights)
