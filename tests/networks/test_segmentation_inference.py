"""Looking at images of any size: windows, scales, mirror images."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional

from van.errors import VanError
from van.networks.segmentation import inference
from van.networks.segmentation.inference import full_maps, label_maps, panoptic_maps
from van.networks.segmentation.views import SemanticView, View


class Colours:
    """Each colour is a class; keeps the sizes of what it sees, and whether it is to pad."""

    def __init__(self):
        self.sizes, self.padded = [], set()

    def scores(self, images, pad):
        self.sizes.append(tuple(images.shape[-2:]))
        self.padded.add(pad)
        return images.float()

    def normalized(self, scores):
        return scores.softmax(1)


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
    options = View(slide=True, crop=(8, 8), stride=stride)
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
        return inference._labels(mean)

    labels = full_maps(scores, image, View(slide=True, crop=(16, 16), stride=(12, 12)), finish)
    assert torch.equal(labels, image.argmax(1).to(torch.uint8))
    assert len(before) == 33 * 5
    # a window of row i begins at 12 i: all above it is over
    assert all(count >= 12 * (i // 5) * 64 for i, count in enumerate(before))


@pytest.mark.parametrize("size", [(7, 11), (64, 48), (33, 100)])
@pytest.mark.parametrize(
    "options",
    [
        SemanticView(),
        SemanticView(flip_test=True),
        SemanticView(slide=True, crop=(16, 20), stride=(10, 20), flip_test=True),
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
    label_maps(model, [image], SemanticView(fit=(20, 30)))
    label_maps(model, [image], SemanticView(image_size=(20, 30)))
    label_maps(model, [image], SemanticView(scales=[0.5, 1.0, 1.5], flip_test=True))
    label_maps(model, [image], SemanticView(slide=True, crop=(40, 40), stride=(40, 40), scales=[0.5]))
    assert model.sizes == [(15, 30), (20, 30), *[(20, 40)] * 2, *[(40, 80)] * 2, *[(60, 120)] * 2, (20, 20), (20, 20)]


@pytest.mark.parametrize(
    ("to_multiple", "options", "sizes", "padded"),
    [
        ("pad", {"fit": (20, 30)}, [(15, 30)], True),
        ("none", {"fit": (20, 30)}, [(15, 30)], False),
        ("resize", {"fit": (20, 30)}, [(32, 32)], True),
        ("resize", {"scales": [0.5, 1.0, 1.75]}, [(32, 64), (64, 96), (96, 160)], True),
        ("resize", {"image_size": (64, 96), "scales": [1.0, 1.25]}, [(64, 96), (96, 128)], True),
        ("resize", {"slide": True, "crop": (40, 90), "stride": (40, 90)}, [(64, 96)] * 4, True),
    ],
)
def test_sides_that_are_no_multiple_of_32(to_multiple, options, sizes, padded):
    model, image = Colours(), torch.rand(3, 40, 80)
    (labels,) = label_maps(model, [image], SemanticView(to_multiple=to_multiple, **options))
    assert labels.shape == (40, 80)
    assert model.sizes == sizes
    assert model.padded == {padded}


@pytest.mark.parametrize("options", [{}, {"flip_test": True}, {"slide": True, "crop": (8, 10), "stride": (8, 10)}])
def test_images_can_be_scaled_down_without_smoothing(options):
    """A third of the size: every third pixel, as MMSegmentation does, or their mean."""
    image = torch.zeros(3, 24, 30)
    image[0], image[1, 1::3, 1::3] = 0.5, 1.0
    for antialias, label in ((True, 0), (False, 1)):
        (labels,) = label_maps(Colours(), [image], SemanticView(fit=(8, 10), antialias=antialias, **options))
        assert labels.unique().tolist() == [label]


class Field:
    """Logits that depend on colours and on places, as those of a network do."""

    def scores(self, images, pad):
        height, width = images.shape[-2:]
        x = torch.linspace(0, 3, width).cos() + torch.linspace(0, 2, height)[:, None].sin()
        return torch.cat([4 * images.float(), x.expand(len(images), 1, -1, -1)], 1)

    def normalized(self, scores):
        return scores.softmax(1)


@pytest.mark.parametrize("size", [(70, 101), (33, 40)])
@pytest.mark.parametrize("flip_test", [False, True])
def test_scales_are_averaged_as_openmmlab_does(size, flip_test, monkeypatch):
    """Every scale of the original image, resized to multiples of 32; logits to its size, softmax, the plain mean."""
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(1, 3, 5, 6), size, mode="bicubic")[0].clamp(0, 1)
    fit, scales = (48, 96), [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    total = torch.zeros(4, *size)
    for scale in scales:
        factor = min(fit[0] * scale / min(size), fit[1] * scale / max(size))
        seen = [int(-(-round(side * factor) // 32) * 32) for side in size]
        scaled = functional.resize(image[None], seen, antialias=True)
        for mirrored in (False, True)[: 1 + flip_test]:
            logits = Field().scores(scaled.flip(3) if mirrored else scaled, True)
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            total += (logits.flip(3) if mirrored else logits)[0].softmax(0)
    view = SemanticView(fit=fit, scales=scales, flip_test=flip_test, to_multiple="resize")
    found = full_maps(lambda x: Field().scores(x, True), image[None], view, identity, Field().normalized)[0]
    torch.testing.assert_close(found, total / (len(scales) * (1 + flip_test)))
    (labels,) = label_maps(Field(), [image], view)
    assert torch.equal(labels, total.argmax(0).to(torch.uint8))
    # of a large image, maps of the fitted size are added up
    monkeypatch.setattr(inference, "_KEPT", 100)
    (coarse,) = label_maps(Field(), [image], view)
    assert coarse.shape == labels.shape
    assert (coarse == labels).float().mean() > 0.95


def test_scores_of_one_look_are_brought_to_the_size_of_the_image_as_they_are():
    image = torch.rand(3, 21, 30)
    (labels,) = label_maps(Field(), [image], SemanticView(fit=(32, 50)))
    logits = Field().scores(functional.resize(image[None], [32, 46], antialias=True), True)
    assert torch.equal(labels, F.interpolate(logits, (21, 30), mode="bilinear")[0].argmax(0).to(torch.uint8))


def test_scaled_images_give_results_of_their_own_size(monkeypatch):
    image = torch.zeros(3, 50, 70)
    image[0, :, :35], image[1, :, 35:] = 9.0, 9.0
    (labels,) = label_maps(Colours(), [image], SemanticView(fit=(25, 35)))
    assert labels.shape == (50, 70)
    assert (labels[:, :34] == 0).all()
    assert (labels[:, 36:] == 1).all()
    scores = torch.rand(2, 4, 9, 13)
    whole = inference._enlarged(scores, (31, 50), identity)
    monkeypatch.setattr(inference, "_AT_ONCE", 4 * 2 * 50 * 3)  # three rows at a time
    assert torch.allclose(inference._enlarged(scores, (31, 50), identity), whole, atol=1e-5)
    assert torch.allclose(whole, F.interpolate(scores, (31, 50), mode="bilinear"))


def test_batches_are_neighbours_of_one_size(monkeypatch):
    images = [torch.zeros(3, *size) for size in ((4, 4), (4, 4), (4, 5), (4, 4))]
    assert [len(batch) for batch in inference._batches(images)] == [2, 1, 1]
    monkeypatch.setattr(inference, "_TOGETHER", 20)
    assert [len(batch) for batch in inference._batches(images)] == [1, 1, 1, 1]


class Halves:
    """A left thing and a right stuff, whatever the image."""

    def __init__(self):
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(tuple(images.shape[-2:]))
        logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 9.0]]).expand(len(images), -1, -1)
        return {"size": tuple(images.shape[-2:]), "count": len(images), "class_logits": logits}

    def panoptic(self, outputs, things, score_threshold, overlap_threshold):
        assert (things, score_threshold, overlap_threshold) == ({0}, 0.5, 0.6)
        height, width = outputs["size"]
        numbers = torch.ones(height, width, dtype=torch.int32)
        numbers[:, width // 2 :] = 2
        segments = [{"id": i + 1, "label": i, "isthing": i == 0, "score": 0.9} for i in range(3)]
        return [{"segmentation": numbers, "segments": segments}] * outputs["count"]


def test_segments_have_the_size_of_the_image():
    model = Halves()
    images = [torch.zeros(3, 64, 64)] * 2 + [torch.zeros(3, 30, 90)]
    found = panoptic_maps(model, images, {0}, (16, 32), 0.5, 0.6)
    assert model.sizes == [(16, 16), (11, 32)]
    assert [one["segmentation"].shape for one in found] == [(64, 64), (64, 64), (30, 90)]
    assert (found[2]["segmentation"][:, :45] == 1).all()
    assert (found[2]["segmentation"][:, 45:] == 2).all()
    assert [segment["id"] for segment in found[0]["segments"]] == [1, 2]  # the third has no pixel
    # the best query that says there is an object
    assert found[0]["best_score"] == pytest.approx(torch.tensor([1.0, 0.0, 0.0]).softmax(0)[0].item())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slide": True, "crop": (8, 8), "stride": (9, 4)}, "windows would leave gaps"),
        ({"crop": (8, 8)}, "crop is .* sliding windows"),
        ({"stride": (8, 8)}, "stride is .* sliding windows"),
        ({"fit": (8, 8), "image_size": (8, 8)}, "one of them"),
        ({"scales": []}, "scales is"),
        ({"scales": [0.0]}, "scales is"),
        ({"fit": (0, 4)}, "fit is"),
        ({"image_size": (4,)}, "image_size is"),
        ({"slide": True, "crop": (0, 4)}, "crop is"),
        ({"to_multiple": "crop"}, "to_multiple is 'crop', expected pad, resize or none"),
    ],
)
def test_options_out_of_range(changes, words):
    with pytest.raises(VanError, match=words):
        SemanticView(**changes).check()


def test_window_by_default():
    assert View(slide=True).window == ((512, 512), (341, 341))
    assert View(slide=True, crop=(90, 60)).window == ((90, 60), (60, 40))
    assert View(slide=True, crop=(90, 60), stride=(9, 9)).window == ((90, 60), (9, 9))


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (View(), {"crop": (90, 60)}, View(slide=True, crop=(90, 60))),
        (View(), {"stride": (9, 9)}, View(slide=True, stride=(9, 9))),
        (View(slide=True, crop=(9, 9), stride=(3, 3)), {"crop": (6, 6)}, View(slide=True, crop=(6, 6))),
        (View(slide=True, crop=(9, 9)), {"slide": False}, View()),
        (View(fit=(9, 9)), {"image_size": (4, 5)}, View(image_size=(4, 5))),
        (View(image_size=(9, 9)), {"fit": (4, 5), "flip_test": True}, View(fit=(4, 5), flip_test=True)),
    ],
)
def test_changes_bring_what_goes_with_them(before, changes, after):
    assert before.changed(changes) == after


def test_images_may_be_shrunk_to_a_pixel():
    image = torch.tensor([9, 200, 9], dtype=torch.uint8)[:, None, None].expand(3, 40, 30)
    (labels,) = label_maps(Colours(), [image], SemanticView(scales=[0.01]))
    assert torch.equal(labels, torch.ones(40, 30, dtype=torch.uint8))
