"""Options by name: what is registered, what loads when, files from before, an architecture from outside."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from van.errors import VanError
from van.networks import registry
from van.networks.detection.options import DetectorOptions
from van.networks.detection.parts import Transform
from van.networks.registry import architectures, from_dict, options_class, register, upgrade

TASKS = ("detection", "instances", "semantic", "panoptic", "pose", "saliency")
ALL = [(task, name) for task in TASKS for name in architectures(task)]
TINY = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


def test_options_import_without_torch():
    code = f"""
import sys
from van.networks.registry import from_dict, options_class
for task, name in {ALL}:
    options_class(task, name)()
    from_dict(task, {{"architecture": name}})
heavy = ("torch", "torchvision", "timm", "transformers", "lightning", "matplotlib")
print([name for name in heavy if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


@pytest.mark.parametrize(("task", "name"), ALL)
def test_every_architecture_has_options_of_its_own(task, name):
    options = options_class(task, name)()
    assert options.architecture == name
    assert from_dict(task, json.loads(json.dumps(asdict(options)))) == options
    documented = "\n".join(base.__doc__ or "" for base in type(options).__mro__)
    assert [option.name for option in fields(options) if f"\n        {option.name}: " not in documented] == []


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("detection", {"architecture": "retinanett"}, "Did you mean retinanet"),
        ("detection", {"architecture": "mask_rcnn"}, "no detection architecture 'mask_rcnn'"),
        ("detecton", {}, "Did you mean detection"),
        ("detection", {"architecture": "gfl", "anchor_scales": 4}, "gfl has no option 'anchor_scales'.*anchor_scale"),
        ("detection", {"architecture": "gfl", "center_sampling_radius": 1.0}, "gfl has no option"),
        ("detection", {"score_thresh": 0.1}, "Did you mean score_threshold"),  # an old name in the new form
    ],
)
def test_what_is_unknown_is_named_with_the_nearest(task, options, message):
    with pytest.raises(VanError, match=message):
        from_dict(task, options)


@pytest.mark.parametrize(
    ("task", "architecture", "old", "new"),
    [
        ("detection", "retinanet", "score_thresh", "score_threshold"),
        ("detection", "fcos", "nms_thresh", "nms_threshold"),
        ("instances", "mask_rcnn", "detections_per_img", "detections_per_image"),
        ("detection", "retinanet", "fg_iou_thresh", "foreground_iou"),
        ("detection", "retinanet", "bg_iou_thresh", "background_iou"),
        ("detection", "deformable_detr", "num_queries", "queries"),
        ("detection", "rt_detr", "num_denoising", "denoising_queries"),
        ("detection", "rt_detr", "feedforward", "feedforward_width"),
        ("panoptic", "mask2former", "channels", "pyramid_channels"),
        ("semantic", "semantic_fpn", "channels", "channels"),
        ("instances", "mask2former", "queries", "queries"),
        ("saliency", None, "global_channels", "global_channels"),
    ],
)
def test_files_from_before_give_the_same_options(task, architecture, old, new):
    about = {"backbone": "van_b1", "backbone_args": {"norm_eps": 1e-5}, "mean": [0.5, 0.5, 0.5], "arguments": {old: 96}}
    about |= {"architecture": architecture} if architecture else {}
    options = from_dict(task, about)
    assert (options.backbone, getattr(options, new)) == ("van_b1", 96)
    assert upgrade(asdict(options)) == asdict(options)


def test_files_of_pose_networks_had_no_architecture():
    options = from_dict("pose", {"backbone": "van_b0", "image_size": [96, 96], "sigma": 1.5, "channels": 64})
    assert options == options_class("pose", "simple_baseline")(image_size=[96, 96], sigma=1.5, channels=64)


# ------------------------------------------------------------------------------------------- a detector from outside


@dataclass
class CenterOptions(DetectorOptions):
    """One object at most: the best position of the last feature map.

    Attributes:
        architecture: center.
        side: Side length of all boxes.
    """

    architecture: Literal["center"] = "center"
    side: float = 32.0

    def detector(self, backbone, num_classes):
        return Center(backbone, num_classes, self)


class Center(nn.Module):
    def __init__(self, backbone, num_classes, options):
        super().__init__()
        self.backbone, self.side, self.transform = backbone, options.side, Transform(options)
        self.head = nn.Conv2d(backbone.channels[-1], num_classes, 1)

    def counted_forward(self, images):
        return self.head(self.backbone(images)[-1])

    def forward(self, images, targets=None):
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets)
        logits = self.counted_forward(batch.tensors)
        if self.training:
            wanted = torch.zeros_like(logits)
            for one, target in zip(wanted, targets, strict=True):
                x, y = ((target["boxes"][:, :2] + target["boxes"][:, 2:]) / 64).long().unbind(1)
                one[target["labels"], y, x] = 1
            return {"loss_center": F.binary_cross_entropy_with_logits(logits, wanted)}
        scores, place = logits.sigmoid().flatten(1).max(1, keepdim=True)
        labels, positions = place // logits[0, 0].numel(), place % logits[0, 0].numel()
        x, y = positions % logits.shape[3] * 32.0 + 16, positions // logits.shape[3] * 32.0 + 16
        half = self.side / 2
        boxes = torch.stack([x - half, y - half, x + half, y + half], 2)
        found = [{"boxes": b, "labels": n, "scores": s} for b, n, s in zip(boxes, labels, scores, strict=True)]
        return self.transform.postprocess(found, batch.image_sizes, sizes)


@pytest.fixture(params=["class", "import string"])
def center(request, monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_ARCHITECTURES", {task: dict(v) for task, v in registry._ARCHITECTURES.items()})
    monkeypatch.setitem(sys.modules, "outside", sys.modules[__name__])
    register("detection", "center", CenterOptions if request.param == "class" else "outside:CenterOptions")


def test_a_detector_from_outside_trains_and_detects(center):
    torch.manual_seed(0)
    options = {"architecture": "center", "backbone_args": TINY, "min_size": [64], "max_size": 64, "side": 20.0}
    network = from_dict("detection", options).build(2)
    images = [torch.zeros(3, 64, 64, dtype=torch.uint8)]
    images[0][:, 40:56, 8:24] = 255
    targets = [{"boxes": torch.tensor([[8.0, 40, 24, 56]]), "labels": torch.tensor([1])}]
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(20):
        loss = network(images, targets)["loss_center"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert network.input_size == (3, 64, 64)
    network.counted_forward(torch.zeros(1, *network.input_size))
    again = from_dict("detection", asdict(network.options)).build(2).eval()
    again.load_state_dict(network.state_dict())
    found = again(images)[0]
    assert (found["labels"].tolist(), found["boxes"].tolist()) == ([1], [[6, 38, 26, 58]])


def test_a_name_is_given_once(center):
    assert architectures("detection")[-1] == "center"
    assert options_class("detection", "center") is CenterOptions
    register("detection", "center", CenterOptions)
    with pytest.raises(VanError, match="'fcos' is registered"):
        register("detection", "fcos", CenterOptions)
