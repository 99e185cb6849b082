"""Proposals and region heads of the two-stage detectors, with the losses and matches of the published code."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import generalized_box_iou_loss, roi_align

from van.errors import VanError
from van.networks.detection.faster_rcnn import FasterRCNNOptions
from van.networks.detection.parts import RoIAlign
from van.networks.detection.region_heads import Samples, best_matches, giou_loss
from van.networks.registry import from_dict

TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
BOXES = torch.tensor([[4.0, 6, 30, 40], [20, 10, 60, 50]])


def tiny(architecture, **options):
    torch.manual_seed(0)
    small = {"backbone_args": TINY, "min_size": [64], "max_size": 64, "pyramid_channels": 16, "box_width": 16}
    task = "detection" if architecture == "faster_rcnn" else "instances"
    small |= {"canonical_scale": 28, "proposals_train": 30, "proposals_test": 10, "box_batch_size_per_image": 16}
    return from_dict(task, {"architecture": architecture, **small, **options}).build(3)


def scene():
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    for (x1, y1, x2, y2), mask in zip(BOXES.int().tolist(), masks, strict=True):
        mask[y1:y2, x1:x2] = 1
    return torch.rand(3, 64, 64), {"boxes": BOXES, "labels": torch.tensor([2, 0]), "masks": masks}


# ------------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("weights", [(10.0, 10.0, 5.0, 5.0), (30.0, 30.0, 15.0, 15.0)])
def test_giou_is_that_of_torchvision_on_decoded_boxes(weights):
    torch.manual_seed(0)
    proposals = BOXES[torch.tensor([0, 1, 1, 0, 1])] + 3 * torch.randn(5, 4)
    truth = BOXES[torch.tensor([0, 1, 0, 1, 1])]
    deltas = (2 * torch.randn(5, 4)).requires_grad_()
    loss = giou_loss(deltas, proposals, truth, BoxCoder(weights))
    # decoded by hand: centers move by shares of the proposal, sides grow by an exponent
    sides, centres = proposals[:, 2:] - proposals[:, :2], (proposals[:, 2:] + proposals[:, :2]) / 2
    middle = centres + deltas[:, :2] / torch.tensor(weights[:2]) * sides
    half = sides * (deltas[:, 2:] / torch.tensor(weights[2:])).exp() / 2
    expected = 10 * generalized_box_iou_loss(torch.cat([middle - half, middle + half], 1), truth).sum()
    torch.testing.assert_close(loss, expected)
    (ours,), (theirs,) = torch.autograd.grad(loss, deltas), torch.autograd.grad(expected, deltas)
    torch.testing.assert_close(ours, theirs)
    assert ours.abs().max() > 0.1


@pytest.mark.parametrize("kind", ["smooth_l1", "l1", "giou"])
def test_boxes_of_samples_with_objects_are_learned(kind):
    heads = tiny("faster_rcnn", box_loss=kind).network.roi_heads
    proposals = [BOXES + 2, BOXES - 1]
    matched, labels = [torch.tensor([0, 0]), torch.tensor([0, 1])], [torch.tensor([3, 0]), torch.tensor([0, 1])]
    wanted = heads.box_coder.encode([BOXES[one] for one in matched], proposals)
    deltas = torch.randn(4, 16, requires_grad=True)
    outputs = (torch.zeros(4, 4), deltas)
    targets = [{"boxes": BOXES, "labels": torch.tensor([3, 1])}] * 2
    losses = heads.sample_losses(outputs, Samples(proposals, matched, labels, list(wanted)), targets, None)
    positive, classes = torch.tensor([0, 3]), torch.tensor([3, 1])
    own = deltas.view(4, 4, 4)[positive, classes]
    if kind == "giou":
        decoded = heads.box_coder.decode_single(own, torch.cat(proposals)[positive])
        expected = 10 * generalized_box_iou_loss(decoded, BOXES).sum()
    elif kind == "l1":
        expected = (own - torch.cat(wanted)[positive]).abs().sum()
    else:
        expected = F.smooth_l1_loss(own, torch.cat(wanted)[positive], beta=1 / 9, reduction="sum")
    torch.testing.assert_close(losses["loss_box_reg"], expected / 4)  # all samples count, as in torchvision
    torch.testing.assert_close(losses["loss_classifier"], torch.tensor(4.0).log())


@pytest.mark.parametrize("architecture", ["mask_rcnn", "cascade_mask_rcnn"])
@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_losses_are_those_of_the_options(architecture, box_loss):
    losses = {}
    for kind in ("smooth_l1", box_loss):
        detector = tiny(architecture, box_loss=kind, proposal_loss="smooth_l1" if kind == "smooth_l1" else "l1")
        torch.manual_seed(1)  # of the samples
        losses[kind] = detector(*([one] for one in scene()))
        torch.stack(list(losses[kind].values())).sum().backward()
    changed = {name for name, loss in losses[box_loss].items() if not torch.equal(loss, losses["smooth_l1"][name])}
    assert {name for name in changed if "box_reg" in name} == {name for name in losses[box_loss] if "box_reg" in name}
    assert not any("objectness" in name or "classifier_1" in name for name in changed)


def test_images_without_objects_have_no_box_loss():
    image, target = scene()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": target["masks"][:0]}
    losses = tiny("cascade_mask_rcnn", box_loss="giou", low_quality_matches=True)([image], [nothing])
    assert all(losses[f"loss_box_reg_{stage}"] == 0 for stage in (1, 2, 3))
    assert all(loss.isfinite() for loss in losses.values())


# ------------------------------------------------------------------------------------------------ matches


def test_each_object_gets_its_best_proposal():
    iou = torch.tensor([[0.9, 0.6, 0.1, 0.0], [0.7, 0.7, 0.3, 0.2], [0.1, 0.2, 0.4, 0.3]])
    matched = torch.tensor([0, 1, -1, -1])
    # the second object's best are the first two proposals; the third's best is below 0.5
    assert best_matches(iou, matched, 0.5).tolist() == [1, 1, -1, -1]
    assert best_matches(iou, matched, 0.3).tolist() == [1, 1, 2, -1]
    assert best_matches(iou, matched, 0.95).tolist() == matched.tolist()


@pytest.mark.parametrize(("asked", "first"), [(False, 0), (True, 1)])
def test_low_quality_matches_change_what_a_proposal_learns(asked, first):
    heads = tiny("faster_rcnn", low_quality_matches=asked).network.roi_heads
    objects = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 30]])
    proposal = torch.tensor([[0.0, 0, 20, 24]])  # IoU 0.83 and 0.8
    given = heads.add_gt_proposals([proposal], [objects])
    (matched,), (labels,) = heads.assign_targets_to_proposals(given, [objects], [torch.tensor([5, 7])])
    assert matched.tolist() == [first, 0, 1]
    assert labels.tolist() == [[5, 7][first], 5, 7]


# ------------------------------------------------------------------------------------------------ pooling, counts


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_regions_are_pooled_as_asked(sampling_ratio, aligned):
    torch.manual_seed(0)
    pool = RoIAlign(7, FasterRCNNOptions(sampling_ratio=sampling_ratio, aligned=aligned, canonical_scale=28))
    maps = {str(i): torch.rand(1, 2, 64 >> i, 64 >> i) for i in range(4)}
    boxes = torch.tensor([[5.0, 6, 13, 17], [10, 20, 45, 52], [0, 0, 200, 150]])
    pooled = pool(maps, [boxes], [(256, 256)])
    for one, box, level in zip(pooled, boxes, (0, 2, 3), strict=True):
        size, ratio = (7, 7), sampling_ratio
        expected = roi_align(maps[str(level)], [box[None]], size, 1 / 4 / 2**level, ratio, aligned=aligned)[0]
        torch.testing.assert_close(one, expected)


def test_candidates_and_proposals_are_counted_apart():
    detector = tiny("mask_rcnn", candidates_train=40, candidates_test=25)
    rpn = detector.network.rpn
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (40, 30)
    rpn.eval()
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (25, 10)
    rpn = tiny("mask_rcnn").network.rpn
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (30, 30)


@pytest.mark.parametrize(
    "options", [{"candidates_train": 0}, {"proposals_test": 0}, {"sampling_ratio": -1}], ids=lambda o: next(iter(o))
)
def test_numbers_out_of_range_are_named(options):
    ((name, value),) = options.items()
    with pytest.raises(VanError, match=f"{name} (is )?{value}"):
        tiny("mask_rcnn", **options)


# ------------------------------------------------------------------------------------------------ several processes


class World:
    """Two processes, one after the other: the sums of a second pass are those of both first ones."""

    def __init__(self, monkeypatch):
        self.calls, self.totals = [], None
        for name, value in {"is_initialized": lambda: True, "get_world_size": lambda: 2}.items():
            monkeypatch.setattr(torch.distributed, name, value)
        monkeypatch.setattr(torch.distributed, "all_reduce", self.reduce)

    def reduce(self, tensor):
        self.calls.append(tensor.clone())
        if self.totals is not None:
            tensor.copy_(self.totals.pop(0))

    def run(self, function, *processes):
        passes = []
        for process in processes:
            self.calls = []
            function(process)
            passes.append(self.calls)
        results = []
        for process in processes:
            self.calls, self.totals = [], [sum(parts) for parts in zip(*passes, strict=True)]
            results.append(function(process))
            assert not self.totals
        return results


@pytest.mark.parametrize("architecture", ["fcos", "atss", "gfl", "deformable_detr", "mask2former"])
def test_two_processes_learn_what_one_learns_from_all_images(architecture, monkeypatch):
    options = {"architecture": architecture, "backbone_args": TINY, "freeze_norm": True, "pyramid_channels": 64}
    options |= {"min_size": [64], "max_size": 64}
    if architecture in ("deformable_detr", "mask2former"):
        pytest.importorskip("transformers")
        options |= {"queries": 10, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.0}
    torch.manual_seed(0)
    task = "instances" if architecture == "mask2former" else "detection"
    detector = from_dict(task, options).build(3)
    if architecture == "mask2former":  # points are drawn at random, classes are averaged over queries
        detector.network.model.head.criterion.sample_points_using_uncertainty = _grid
    if architecture == "gfl":  # scores of the start weigh less than 1, below which nothing is divided
        torch.nn.init.zeros_(detector.network.head.classification_head.cls_logits.bias)
    (first, both), (second, _) = scene(), scene()
    one = {name: value[:1] for name, value in both.items()}

    def losses(process):
        return detector(*process)

    everything = losses(([first, second], [both, one]))
    here, there = World(monkeypatch).run(losses, ([first], [both]), ([second], [one]))
    assert set(everything) == set(here)
    for name, whole in everything.items():
        if name != "class":
            torch.testing.assert_close((here[name] + there[name]) / 2, whole, rtol=1e-4, atol=1e-5)


def _grid(logits, *_):
    steps = torch.linspace(0.05, 0.95, 12)
    return torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(1, -1, 2).expand(len(logits), -1, -1)
