"""Random changes of images together with their labels."""

import colorsys

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from van.data.augmentation import PanopticAugmentation, SaliencyAugmentation, SemanticAugmentation
from van.data.transforms import PhotometricDistortion, RandomCropOrPad, RandomScale, fitted
from van.errors import DataError


def sample(labels):
    """An image that shows its labels in all three channels."""
    labels = torch.as_tensor(labels, dtype=torch.uint8)
    return tv_tensors.Image(labels.expand(3, *labels.shape).clone()), tv_tensors.Mask(labels)


def halves(height=40, width=60):
    labels = torch.zeros(height, width)
    labels[:, width // 2 :] = 9
    return sample(labels)


def test_fitted_keeps_proportions():
    assert fitted(300, 400, (512, 2048)) == (512, 683)
    assert fitted(400, 300, (512, 2048)) == (683, 512)
    assert fitted(100, 1000, (512, 2048)) == (205, 2048)  # the long edge is what limits
    assert fitted(300, 400, (512, 2048), 0.5) == (256, 341)
    assert fitted(1, 5000, (64, 64)) == (1, 64)


def test_scales_are_in_the_range():
    torch.manual_seed(0)
    scale = RandomScale((40, 400), (0.5, 2.0))
    heights = []
    for _ in range(50):
        image, labels = scale(*halves())
        assert image.shape[-2:] == labels.shape
        assert set(labels.unique().tolist()) == {0, 9}
        heights.append(labels.shape[0])
    assert 20 <= min(heights) < 30
    assert 70 < max(heights) <= 80


def test_images_can_be_scaled_down_without_smoothing():
    image = torch.zeros(3, 24, 30, dtype=torch.uint8)
    image[:, 1::3, 1::3] = 90
    labels = tv_tensors.Mask(torch.zeros(24, 30, dtype=torch.uint8))
    change = {antialias: RandomScale((8, 10), (1.0, 1.0), antialias) for antialias in (True, False)}
    seen = {antialias: scale(tv_tensors.Image(image), labels)[0] for antialias, scale in change.items()}
    assert seen[False].unique().tolist() == [90]
    assert int(seen[True].max()) < 30


def test_windows_are_moved_together_and_padded_with_what_does_not_count():
    torch.manual_seed(0)
    image, labels = RandomCropOrPad((50, 30))(*halves())
    assert image.shape == (3, 50, 30)
    assert labels.shape == (50, 30)
    assert torch.equal(image[0, :40], labels[:40])
    assert labels[40:].unique().tolist() == [255]
    assert image[:, 40:].unique().tolist() == [127]


def test_windows_with_too_much_of_one_class_are_drawn_again():
    torch.manual_seed(0)
    shares = {}
    for most in (1.0, 0.75):
        crop = RandomCropOrPad((20, 20), most)
        found = [float((crop(*halves())[1] == 9).float().mean()) for _ in range(100)]
        shares[most] = sum(0.25 < share < 0.75 for share in found)
    assert shares[1.0] < 45
    assert shares[0.75] > 85
    # pixels that do not count have no share; a single class is taken in the end
    labels = torch.full((40, 40), 255)
    labels[:, :4] = 1
    assert RandomCropOrPad((20, 20), 0.75)(*sample(labels))[1].shape == (20, 20)


def test_semantic_labels_stay_labels():
    torch.manual_seed(0)
    change = SemanticAugmentation((40, 80), (0.5, 2.0), (32, 48)).transform()
    seen, mirrored = set(), 0
    for _ in range(40):
        image, labels = change(*halves())
        assert image.shape == (3, 32, 48)
        assert labels.shape == (32, 48)
        assert labels.dtype == torch.uint8
        seen |= set(labels.unique().tolist())
        counted = labels[0][labels[0] != 255]
        mirrored += bool(counted[0] > counted[-1])
    assert seen == {0, 9, 255}
    assert 5 < mirrored < 35


def test_photometric_changes_leave_labels_alone():
    image, labels = sample(torch.randint(0, 200, (8, 8), generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(1)
    settings = {"fit": (8, 8), "scale_range": (1.0, 1.0), "crop_size": (8, 8), "max_class_share": 1.0, "hflip": 0.0}
    same = SemanticAugmentation(**settings, photometric=0.0).transform()(image, labels)
    assert torch.equal(same[0], image)
    other = SemanticAugmentation(**settings, photometric=1.0).transform()(image, labels)
    assert not torch.equal(other[0], image)
    assert torch.equal(other[1], labels)


def distorted(pixels, changes):
    """The plain way, pixel by pixel, from the description of SSD's changes; pixels (N, 3) from 0 to 255."""
    pixels = pixels.astype(float)
    for name, by in changes.items():
        if name == "brightness":
            pixels = pixels + by
        elif name == "contrast":
            pixels = pixels * by
        else:
            turned = []
            for pixel in pixels:
                hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
                if name == "saturation":
                    saturation = min(1.0, saturation * by)
                else:
                    hue = (hue + by / 180) % 1.0
                turned.append(colorsys.hsv_to_rgb(hue, saturation, value))
            pixels = 255 * np.array(turned)
        pixels = pixels.clip(0, 255)
    return pixels


@pytest.mark.parametrize(
    "changes",
    [
        {"brightness": 32.0},
        {"brightness": -32.0},
        {"contrast": 0.5},
        {"contrast": 1.5},
        {"saturation": 0.5},
        {"saturation": 1.5},
        {"hue": 18.0},
        {"hue": -18.0},
        {"brightness": 20.0, "contrast": 1.3, "saturation": 1.4, "hue": -11.0},
        {"brightness": -9.0, "saturation": 0.6, "hue": 14.0, "contrast": 0.7},
    ],
)
def test_photometric_magnitudes(changes):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3), np.uint8)
    pixels[:4] = [[0, 0, 0], [255, 255, 255], [90, 90, 90], [255, 0, 0]]
    image = tv_tensors.Image(torch.from_numpy(pixels.T.reshape(3, 20, 15).copy()))
    found = PhotometricDistortion().transform(image, {"changes": changes})
    assert isinstance(found, tv_tensors.Image)
    assert found.dtype == torch.uint8
    expected = distorted(pixels, changes).T.reshape(3, 20, 15)
    assert np.abs(found.numpy() - expected).max() <= 0.51  # of rounding


def test_photometric_changes_are_drawn_as_openmmlab_does():
    torch.manual_seed(0)
    drawn = [PhotometricDistortion(0.5).make_params([])["changes"] for _ in range(600)]
    limits = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-18, 18)}
    for name, (low, high) in limits.items():
        values = [changes[name] for changes in drawn if name in changes]
        assert 0.42 < len(values) / len(drawn) < 0.58
        margin = 0.05 * (high - low)
        assert low <= min(values) < low + margin
        assert high - margin < max(values) <= high
    orders = [list(changes) for changes in drawn if len(changes) == 4]
    last, second = ["brightness", "saturation", "hue", "contrast"], ["brightness", "contrast", "saturation", "hue"]
    assert {tuple(order) for order in orders} == {tuple(last), tuple(second)}
    assert PhotometricDistortion(1.0, brightness=0.0, hue=5.0).make_params([])["changes"]["brightness"] == 0.0


def test_panoptic_jitter_gives_one_size():
    torch.manual_seed(0)
    change = PanopticAugmentation((0.1, 2.0), (48, 64)).transform()
    widths = []
    for _ in range(40):
        image, labels = change(*halves())
        assert image.shape == (3, 48, 64)
        assert labels.shape == (48, 64)
        widths.append(int((labels[0] != 255).sum()))
    assert min(widths) < 20
    assert max(widths) == 64
    # factor 1 fits the image into height and width, none of them more
    _, labels = PanopticAugmentation((1.0, 1.0), (20, 90), hflip=0.0).transform()(*halves())
    assert (labels != 255).nonzero().max(0).values.tolist() == [19, 29]


def test_saliency_is_brought_to_each_size():
    torch.manual_seed(0)
    image, mask = halves()
    mask[mask == 9] = 1
    for size, transform in zip(
        [(32, 40), (48, 48)], SaliencyAugmentation([(32, 40), (48, 48)]).transform(), strict=True
    ):
        resized, labels = transform(image, mask)
        assert resized.shape == (3, *size)
        assert labels.shape == size
        assert labels.unique().tolist() == [0, 1]


def test_opposite_sides_are_trimmed_alike_in_half_of_the_images():
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.arange(64.0).expand(3, 96, 64).contiguous())
    mask = tv_tensors.Mask(torch.zeros(96, 64, dtype=torch.uint8))
    (transform,) = SaliencyAugmentation([(96, 64)], crop=1 / 8, hflip=0.0).transform()
    first = []
    for _ in range(200):
        row = transform(image, mask)[0][0, 0]
        assert row[0] + row[-1] == pytest.approx(63, abs=1e-3)
        first.append(round(row[0].item()))
    assert max(first) == 8
    assert 0.4 < first.count(0) / 200 < 0.7  # half, and one in nine of the others


def test_saliency_is_flipped_as_asked():
    image, mask = tv_tensors.Image(torch.arange(6).view(1, 2, 3)), tv_tensors.Mask(torch.zeros(2, 3, dtype=torch.uint8))
    for flips, rows in (
        ({"hflip": 1.0}, [[2, 1, 0], [5, 4, 3]]),
        ({"hflip": 0.0, "vflip": 1.0}, [[3, 4, 5], [0, 1, 2]]),
    ):
        (transform,) = SaliencyAugmentation([(2, 3)], crop=0.0, **flips).transform()
        assert transform(image, mask)[0].tolist() == [rows]


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (SemanticAugmentation(hflip=2.0), r"augmentation\.hflip is 2\.0, expected a number from 0 to 1"),
        (
            SemanticAugmentation(scale_range=(2.0, 0.5)),
            r"augmentation\.scale_range is .*increasing.* above 0",
        ),
        (SemanticAugmentation(crop_size=(0, 5)), r"augmentation\.crop_size is .*height and width.* from 1"),
        (SemanticAugmentation(hue=91.0), r"augmentation\.hue is 91\.0, expected a number from 0 to 90"),
        (SemanticAugmentation(contrast=(1.5, 0.5)), r"augmentation\.contrast is .*increasing"),
        (PanopticAugmentation(scale_range=(0.0, 1.0)), r"augmentation\.scale_range"),
        (SaliencyAugmentation(crop=0.5), r"augmentation\.crop is 0\.5, expected a number from 0 to 0\.4"),
        (SaliencyAugmentation(vflip=-1), r"augmentation\.vflip is -1"),
        (SaliencyAugmentation([]), r"augmentation\.image_sizes is \[\], expected one or more"),
        (SaliencyAugmentation([(0, 5)]), r"augmentation\.image_sizes is .*\(0, 5\)"),
    ],
)
def test_values_out_of_range(augmentation, message):
    with pytest.raises(DataError, match=message):
        augmentation.transform()
