"""Images that are joined, covered and blurred: what targets say is compared with the pixels."""

import colorsys

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv
from scipy.ndimage import binary_opening
from torchvision import tv_tensors

from van.data.augmentation import (
    DetectionAugmentation,
    InstancesAugmentation,
    PanopticAugmentation,
    PoseAugmentation,
    SaliencyAugmentation,
    SemanticAugmentation,
)
from van.data.mixing import GREY, LEAST_VISIBLE, Augmented, LabelTargets, Mixing, ObjectTargets, SegmentTargets
from van.data.panoptic import SegmentsToLearn
from van.data.transforms import crop_transform
from van.errors import DataError

SIZES = [(96, 128), (128, 96), (110, 110), (64, 150), (200, 120), (90, 90)]  # height, width
OBJECTS = 4
COLORS = [
    tuple(round(255 * v) for v in colorsys.hsv_to_rgb(i / (len(SIZES) * OBJECTS), 1, 1))
    for i in range(len(SIZES) * OBJECTS)
]


def scene(number):
    """An image on black, and a mask and label of each of its ellipses, every one of a color of its own."""
    height, width = SIZES[number]
    rng = np.random.default_rng(number)
    ys, xs = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((OBJECTS, height, width), bool)
    for i in range(OBJECTS):  # one in each quarter
        half = height / 4, width / 4
        center = np.array([half[0] * (1 + 2 * (i // 2)), half[1] * (1 + 2 * (i % 2))]) + rng.uniform(-4, 4, 2)
        radii = rng.uniform(0.5, 0.75, 2) * half
        masks[i] = ((ys - center[0]) / radii[0]) ** 2 + ((xs - center[1]) / radii[1]) ** 2 <= 1
    labels = np.arange(number * OBJECTS, (number + 1) * OBJECTS)
    image = np.zeros((3, height, width), np.uint8)
    for mask, label in zip(masks, labels, strict=True):
        image[:, mask] = np.array(COLORS[label])[:, None]
    return tv_tensors.Image(torch.from_numpy(image)), masks, torch.from_numpy(labels)


def box_of(mask):
    ys, xs = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return [float(v) for v in (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)]


class Scenes:
    """Scenes as a data set of one kind of target."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        image, masks, labels = scene(index)
        return image, getattr(self, self.kind)(masks, labels, index)

    def boxes(self, masks, labels, index):
        boxes = torch.tensor([box_of(mask) for mask in masks])
        found = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=masks.shape[1:])
        return {"boxes": found, "labels": labels, "image_id": index, "size": masks.shape[1:]}

    def objects(self, masks, labels, index):
        return {**self.boxes(masks, labels, index), "masks": tv_tensors.Mask(torch.from_numpy(masks).to(torch.uint8))}

    def labels(self, masks, labels, index):
        return tv_tensors.Mask(torch.from_numpy((masks * (1 + labels.numpy())[:, None, None]).sum(0).astype(np.uint8)))

    def segments(self, masks, labels, index):
        numbers = (masks * np.arange(2, 2 + OBJECTS)[:, None, None]).sum(0) + ~masks.any(0)
        things = [
            {"id": 2 + i, "label": int(label), "isthing": True, "iscrowd": i == 3}  # the last is a crowd
            for i, label in enumerate(labels)
        ]
        segments = [{"id": 1, "label": 99, "isthing": False, "iscrowd": False}, *things]
        found = tv_tensors.Mask(torch.from_numpy(numbers.astype(np.int32)))
        return {"segmentation": found, "segments": segments, "image_id": index, "size": masks.shape[1:]}


def nearest(image):
    """Which label's color each pixel of an image has, in any shade, (H, W); -1 where it is dark or grey."""
    hues, saturations, values = rgb_to_hsv(image.numpy().transpose(1, 2, 0) / 255).transpose(2, 0, 1)
    found = np.round(hues * len(COLORS)).astype(int) % len(COLORS)
    return np.where((values > 0.43) & (saturations > 0.7), found, -1)


class Once(Augmented):
    """Joins different images alone, so that each color is that of one object."""

    def __getitem__(self, index):
        others = iter(i for i in torch.randperm(len(self)).tolist() if i != index)
        return self.transform(*self.mixing(self.samples[index], lambda: self.samples[next(others)]))


def pipeline(augmentation, kind):
    mixing = augmentation.mixing(ObjectTargets) or Mixing(ObjectTargets)
    return Once(Scenes(kind), augmentation.transform(min_size=[120], max_size=200), mixing)


CHANGES = [{"mosaic": 1.0}, {"random_erasing": 1.0}, {"blur": 1.0}, {"mosaic": 1.0, "random_erasing": 1.0, "blur": 1.0}]


@pytest.mark.parametrize("change", [*CHANGES, {"copy_paste": 1.0}, {"mosaic": 1.0, "copy_paste": 1.0}])
@pytest.mark.parametrize("kind", ["objects", "boxes"])
def test_boxes_and_masks_still_enclose_what_is_visible(kind, change):
    if kind == "boxes" and "copy_paste" in change:
        pytest.skip("copy-paste needs masks")
    augmented = pipeline(InstancesAugmentation(hflip=0.5, **change), kind)
    compared = 0
    for turn in range(10):
        torch.manual_seed(turn)
        image, target = augmented[turn % len(SIZES)]
        height, width = image.shape[-2:]
        boxes = target["boxes"]
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert image.dtype == torch.uint8
        colors = nearest(image)
        assert len(set(target["labels"].tolist())) == len(boxes)
        for i, label in enumerate(target["labels"].tolist()):
            visible = binary_opening(colors == label, np.ones((4, 4)))  # without seams between two other colors
            if visible.sum() < 120:
                continue
            box, seen = boxes[i].numpy(), np.array(box_of(visible))
            compared += 1
            # nothing of the object is outside
            assert (box[:2] <= seen[:2] + 3).all(), (box, seen)
            assert (box[2:] >= seen[2:] - 3).all(), (box, seen)
            if kind == "objects":  # and the box is tight, and the mask the visible part
                mask = target["masks"][i].numpy().astype(bool)
                assert np.abs(box - box_of(mask)).max() <= 2
                assert (mask & visible).sum() > 0.85 * visible.sum()
                assert (colors == label)[mask].mean() > 0.7
    assert compared > 30


@pytest.mark.parametrize("change", ["mosaic", "copy_paste", "random_erasing"])
def test_objects_are_dropped_where_too_little_is_left_and_only_there(change):
    augmented = pipeline(InstancesAugmentation(hflip=0.0, **{change: 1.0}), "objects")
    kept, gone = 0, 0
    for turn in range(18):
        torch.manual_seed(turn)
        image, target = augmented[turn % len(SIZES)]
        labels, colors = target["labels"].tolist(), nearest(image)
        for label in range(len(COLORS)):
            if label in labels:
                kept += 1
                continue
            pixels, whole = (colors == label).sum(), scene(label // OBJECTS)[1][label % OBJECTS].sum()
            gone += pixels > 0
            # pictures are scaled by at most 4.5 in area here: no object of visible size is without a box
            assert pixels < 5 * LEAST_VISIBLE * whole
    assert kept > 40


def test_mosaic_joins_four_images_of_the_set_in_the_size_of_the_first():
    sizes, files = set(), set()
    for turn in range(20):
        torch.manual_seed(turn)
        drawn = []
        data = Scenes("objects")

        def draw(drawn=drawn, data=data):
            drawn.append(int(torch.randint(len(data), ())))
            return data[drawn[-1]]

        image, target = Mixing(ObjectTargets, mosaic=1.0)(data[0], draw)
        assert len(drawn) == 3
        assert tuple(image.shape[-2:]) == SIZES[0] == target["size"]
        assert target["image_id"] == 0
        assert {label // OBJECTS for label in target["labels"].tolist()} <= {0, *drawn}
        sizes.add(len(target["labels"]))
        files.update(drawn)
    assert files == set(range(len(SIZES)))
    assert max(sizes) > OBJECTS


def test_mixup_keeps_the_objects_of_both_images():
    data = Scenes("objects")
    torch.manual_seed(0)
    image, target = Mixing(ObjectTargets, mixup=1.0)(data[0], lambda: data[4])
    assert sorted(target["labels"].tolist()) == [*range(4), *range(16, 20)]
    assert tuple(image.shape[-2:]) == SIZES[0]
    first = data[0]
    for i, mask in enumerate(first[1]["masks"].bool()):  # over black an object has a share of its own color
        inside = image[:, mask].float().max(1).values / 255
        assert 0.3 < inside.max() < 1
        assert torch.equal(target["boxes"][i], first[1]["boxes"][i])
    # the second is fitted into the first: 200 x 120 pixels in 96 x 128
    assert torch.allclose(target["boxes"][4:, 2:], data[4][1]["boxes"][:, 2:] * 96 / 200, atol=1)


def test_copy_paste_hides_what_is_below():
    data = Scenes("objects")
    for turn in range(20):
        torch.manual_seed(turn)
        _, target = Mixing(ObjectTargets, copy_paste=1.0)(data[0], lambda: data[2])
        assert (target["masks"].sum(0) <= 1).all()  # no pixel belongs to two objects
        assert set(target["labels"].tolist()) & set(range(8, 12))


@pytest.mark.parametrize("change", [{"mosaic": 1.0}, {"random_erasing": 1.0}, {"mosaic": 1.0, "blur": 1.0}])
def test_labels_of_pixels_follow_the_pixels(change):
    options = SemanticAugmentation(
        fit=(100, 160), crop_size=(96, 112), max_class_share=1.0, photometric=0.0, hflip=0.5, **change
    )
    augmented = Augmented(Scenes("labels"), options.transform(), options.mixing(LabelTargets))
    ignored = 0
    for turn in range(10):
        torch.manual_seed(turn)
        image, labels = augmented[turn % len(SIZES)]
        assert tuple(labels.shape) == tuple(image.shape[-2:]) == (96, 112)
        covered = (image == GREY).all(0)
        assert (labels[covered] == 255).all()
        ignored += int(covered.sum())
        object_pixels = ((labels > 0) & (labels < 255)).numpy()
        assert (nearest(image) == labels.numpy().astype(int) - 1)[object_pixels].mean() > 0.85
    assert ignored > 0 or "random_erasing" not in change


@pytest.mark.parametrize("change", [{"mosaic": 1.0}, {"copy_paste": 1.0}, {"mosaic": 1.0, "copy_paste": 1.0}])
def test_segments_follow_the_pixels(change):
    options = PanopticAugmentation(scale_range=(0.9, 1.1), crop_size=(120, 120), **change)
    augmented = Augmented(Scenes("segments"), SegmentsToLearn(options.transform()), options.mixing(SegmentTargets))
    several = 0
    for turn in range(10):
        torch.manual_seed(turn)
        image, target = augmented[turn % len(SIZES)]
        ids = [segment["id"] for segment in target["segments"]]
        assert len(set(ids)) == len(ids)
        assert sum(segment["label"] == 99 for segment in target["segments"]) <= 1  # stuff stays one segment
        assert set(target["segmentation"].unique().tolist()) <= {0, *ids}
        crowds = {segment["label"] for segment in target["segments"] if segment["iscrowd"]}
        assert crowds <= {label for label in range(24) if label % OBJECTS == 3}  # they stay crowds
        assert not crowds & set(target["labels"].tolist())
        several += len(target["labels"]) > OBJECTS
        for segment in (s for s in target["segments"] if s["isthing"]):
            mask = (target["segmentation"] == segment["id"]).numpy()
            if mask.sum() > 100:
                assert (nearest(image) == segment["label"])[mask].mean() > 0.7
    assert several


def test_copy_paste_leaves_crowds_where_they_are():
    data = Scenes("segments")
    for turn in range(10):
        torch.manual_seed(turn)
        _, target = Mixing(SegmentTargets, copy_paste=1.0)(data[0], lambda: data[1])
        assert 7 not in [segment["label"] for segment in target["segments"]]


def test_covered_keypoints_are_labeled_but_not_visible():
    change = crop_transform(PoseAugmentation(random_erasing=1.0))
    image = torch.zeros(3, 60, 40, dtype=torch.uint8)
    places = torch.cartesian_prod(torch.arange(40), torch.arange(60)).float()
    keypoints = torch.cat([places, torch.full((2400, 1), 2.0)], 1)
    keypoints[::7, 2] = 0
    torch.manual_seed(0)
    covered, points = change(image, keypoints)
    grey = (covered == GREY).all(0)
    assert 0.01 < grey.float().mean() < 0.4
    hidden = grey[places[:, 1].long(), places[:, 0].long()]
    assert (points[hidden & (keypoints[:, 2] == 2), 2] == 1).all()
    assert torch.equal(points[~hidden], keypoints[~hidden])
    assert (points[keypoints[:, 2] == 0, 2] == 0).all()
    assert torch.equal(points[:, :2], keypoints[:, :2])
    outside = torch.tensor([[-5.0, 3.0, 2.0], [39.6, 80.0, 2.0]])
    assert torch.equal(change(image, outside)[1], outside)


@pytest.mark.parametrize(
    "change", [PoseAugmentation(photometric=1.0), PoseAugmentation(blur=1.0)], ids=["photometric", "blur"]
)
def test_pixels_of_a_crop_change_alone(change):
    torch.manual_seed(1)
    image, keypoints = torch.randint(0, 255, (3, 60, 40)).to(torch.uint8), torch.rand(17, 3) * 30
    changed, points = crop_transform(change)(image, keypoints)
    assert changed.dtype == torch.uint8
    assert changed.shape == image.shape
    assert not torch.equal(changed, image)
    assert torch.equal(points, keypoints)
    assert crop_transform(PoseAugmentation()) is None


def test_what_is_covered_does_not_count_for_saliency():
    (transform,) = SaliencyAugmentation([(80, 80)], crop=0.0, random_erasing=1.0, hflip=0.0).transform()
    torch.manual_seed(0)
    image, masks, _ = scene(0)
    covered, mask = transform(image, tv_tensors.Mask(torch.from_numpy(masks.any(0)).to(torch.uint8)))
    assert torch.equal((covered == GREY).all(0), mask == 255)
    assert (mask == 255).any()


@pytest.mark.parametrize("name", ["mosaic", "mixup"])
def test_no_image_is_joined_where_none_has_objects(name):
    empty = Scenes("objects")[0]
    none = {key: value[:0] for key, value in empty[1].items() if key in ("labels", "masks")}
    boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=SIZES[0])
    sample = empty[0], {**empty[1], **none, "boxes": boxes}
    image, target = Mixing(ObjectTargets, **{name: 1.0})(sample, lambda: sample)
    assert image.shape == sample[0].shape
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, *SIZES[0])
    pasted = Mixing(ObjectTargets, copy_paste=1.0)(sample, lambda: Scenes("objects")[1])
    assert len(pasted[1]["boxes"]) >= 1


@pytest.mark.parametrize("size", [(1, 40), (2, 2), (3, 500)])
def test_tiny_images_are_joined(size):
    image = tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8))
    data = Scenes("labels")
    labels = tv_tensors.Mask(torch.zeros(size, dtype=torch.uint8))
    changed, found = Mixing(LabelTargets, mosaic=1.0)((image, labels), lambda: data[0])
    assert tuple(changed.shape[-2:]) == tuple(found.shape) == size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mosaic": 1.5}, "mosaic is 1.5, expected a number from 0 to 1"),
        ({"mixup": -1.0}, "mixup is -1.0"),
        ({"unmixed_epochs": 3}, "unmixed_epochs is 3, which has no effect without mosaic or mixup"),
        ({"unmixed_epochs": -1, "mosaic": 1.0}, "unmixed_epochs is -1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(DataError, match=message):
        DetectionAugmentation(**options).mixing(ObjectTargets)


@pytest.mark.parametrize("options", [{"blur": 2.0}, {"random_erasing": -0.1}])
def test_wrong_changes_of_pixels(options):
    for augmentation, arguments in (
        (DetectionAugmentation, ([40], 60)), (SemanticAugmentation, ()), (PanopticAugmentation, ()),
        (SaliencyAugmentation, ()), (PoseAugmentation, (["nose"], (40, 30))),
    ):  # fmt: skip
        with pytest.raises(DataError, match=next(iter(options))):
            augmentation(**options).transform(*arguments)
