"""What a training step asks of the device: values that Python reads make it wait."""

import traceback
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from van.networks.registry import from_dict

TINY = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
ROI = {"canonical_scale": 28, "box_width": 16, "proposals_train": 20, "box_batch_size_per_image": 8}
DETR = {"queries": 10, "encoder_layers": 1, "decoder_layers": 2, "feedforward_width": 32}
MASK2FORMER = {
    "pyramid_channels": 64, "queries": 5, "encoder_layers": 1, "encoder_width": 32, "decoder_layers": 1,
    "decoder_width": 32, "heads": 4, "points": 64,
}  # fmt: skip
DETECTORS = {
    "retinanet": {},
    "fcos": {},
    "atss": {},
    "gfl": {},
    "faster_rcnn": ROI,
    "mask_rcnn": ROI,
    "cascade_mask_rcnn": ROI,
    "mask2former": MASK2FORMER,
    "deformable_detr": DETR,
    "rt_detr": {**DETR, "denoising_queries": 4},
}
LOSSES = ("compute_loss", "loss_for_object_detection", "loss_rt_detr", "loss_deformable_detr")


class Reads(TorchDispatchMode):
    """Keeps the files and functions on the stack of every read of a value."""

    def __init__(self):
        super().__init__()
        self.stacks: list[list[str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero):
            self.stacks.append([f"{Path(f.filename).name}:{f.name}" for f in traceback.extract_stack()])
        return func(*args, **(kwargs or {}))


def reads(task, options, outputs, *batch) -> list[list[str]]:
    network = from_dict(task, {"backbone_args": TINY, **options}).build(outputs)
    network(*batch)  # whatever happens once only
    with Reads() as mode:
        losses = network(*batch)
    assert all(loss.requires_grad for loss in losses.values())
    return mode.stacks


def test_reads_are_seen():
    with Reads() as mode:
        assert bool(torch.ones(3).sum() > 2)
        torch.ones(2).tolist()
        torch.ones(()).item()
    assert len(mode.stacks) >= 2


@pytest.mark.parametrize(
    ("task", "options", "outputs", "target"),
    [
        ("semantic", {"architecture": "semantic_fpn"}, 4, torch.randint(0, 4, (2, 60, 70))),
        ("semantic", {"architecture": "upernet", "channels": 16}, 4, torch.randint(0, 4, (2, 60, 70))),
        ("saliency", {"channels": [16] * 6, "global_channels": 16}, 1, torch.rand(2, 60, 70)),
    ],
)
def test_nothing_is_read_where_pixels_are_labeled(task, options, outputs, target):
    if options.get("architecture") == "upernet":
        pytest.importorskip("transformers")
    assert reads(task, options, outputs, torch.randint(0, 256, (2, 3, 60, 70), dtype=torch.uint8), target) == []


def test_nothing_is_read_for_poses():
    images, keypoints = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8), torch.ones(2, 17, 3)
    assert reads("pose", {"image_size": [64, 32], "channels": 8}, 17, images, keypoints) == []


@pytest.mark.parametrize("architecture", DETECTORS)
def test_detectors_read_only_for_their_losses(architecture):
    if architecture.endswith(("detr", "mask2former")):
        pytest.importorskip("transformers")
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 10:50, 10:40] = 1
    target = {"boxes": torch.tensor([[10.0, 10, 40, 50]]), "labels": torch.tensor([2]), "masks": masks}
    task = "instances" if "mask" in architecture else "detection"
    options = {"architecture": architecture, "min_size": [64], "max_size": 64, "pyramid_channels": 32}
    stacks = reads(task, {**options, **DETECTORS[architecture]}, 3, images, [target, target])
    outside = ["\n".join(stack) for stack in stacks]
    outside = [stack for stack in outside if not any(name in stack for name in LOSSES)]
    # transformers looks for overflow in each of its encoder layers, of which there is one here
    ours = [stack for stack in outside if "modeling_" not in stack]
    assert ours == []
    assert len(outside) <= (1 if architecture.endswith(("detr", "mask2former")) else 0)
