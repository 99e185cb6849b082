import copy

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

from van.engine.config import recipe_folder
from van.errors import DataError, VanError
from van.networks.detection.atss_heads import choose_anchors
from van.networks.detection.fcos import FCOSOptions
from van.networks.registry import from_dict

TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
ROI = {"anchor_sizes": [8, 16, 32, 64, 128], "canonical_scale": 28, "box_width": 32}
ROI |= {"proposals_train": 50, "proposals_test": 20, "box_batch_size_per_image": 16}
DETR = {"queries": 10, "encoder_layers": 1, "decoder_layers": 2, "feedforward_width": 32}
ARGUMENTS = {
    "retinanet": {"anchor_sizes": [16, 32, 64, 128, 256], "scales_per_octave": 1},
    "fcos": {},
    "faster_rcnn": ROI,
    "mask_rcnn": {**ROI, "mask_width": 16, "box_loss": "l1", "proposal_loss": "l1", "low_quality_matches": True}
    | {"sampling_ratio": 0, "aligned": True},
    "cascade_mask_rcnn": {**ROI, "mask_width": 16, "box_loss": "giou", "candidates_train": 60},
    "mask2former": {"queries": 10, "encoder_layers": 1, "encoder_width": 32, "decoder_layers": 2, "decoder_width": 32}
    | {"heads": 4, "points": 256},
    "atss": {"anchor_scale": 4},
    "gfl": {"anchor_scale": 4},
    "deformable_detr": {**DETR, "dropout": 0.0},
    "rt_detr": {**DETR, "denoising_queries": 8},
}
EVERY = pytest.mark.parametrize("architecture", ARGUMENTS)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(architecture: str, **options):
    if architecture.endswith(("detr", "mask2former")):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    width = 64 if architecture == "mask2former" else 32
    given = {"backbone_args": TINY, "min_size": [64], "max_size": 96, "pyramid_channels": width}
    return build({"architecture": architecture, **given, **ARGUMENTS[architecture], **options})


def build(options, num_classes=3, **arguments):
    task = "instances" if "mask" in options["architecture"] else "detection"
    return from_dict(task, options).build(num_classes, **arguments)


def scene():
    """A bright rectangle of class 2 on a dark image, as bytes."""
    image = torch.full((3, 64, 64), 60, dtype=torch.uint8)
    image[:, 16:52, 12:44] = 220
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 16:52, 12:44] = 1
    return image, {"boxes": torch.tensor([[12.0, 16, 44, 52]]), "labels": torch.tensor([2]), "masks": masks}


def nothing():
    masks = torch.zeros(0, 64, 64, dtype=torch.uint8)
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": masks}


def counts(path):
    content = yaml.safe_load(path.read_text())
    if content["model"]["architecture"].endswith("detr"):
        pytest.importorskip("transformers")
    detector = build(content["model"], content["num_classes"], device="meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector.counted_forward(torch.empty(1, *detector.input_size, device="meta"))
    return sum(p.numel() for p in detector.parameters()) / 1e6, counter.get_total_flops() / 2e9, detector


@pytest.mark.parametrize(
    ("recipe", "params", "margin", "macs"),
    [
        *((f"detection/retinanet_van_b{i}_coco", p, 0.1, None) for i, p in enumerate((13.4, 23.6, 36.3, 54.5))),
        *((f"instances/mask_rcnn_van_b{i}_coco", p, 0.1, None) for i, p in enumerate((23.9, 33.5, 46.2, 64.4))),
        ("instances/mask_rcnn_van_b2_coco_3x", 46.2, 0.1, 273),
        ("instances/cascade_mask_rcnn_van_b2_coco_3x", 84, 1, 752),
        ("detection/atss_van_b2_coco_3x", 34, 1, 221),
        ("detection/gfl_van_b2_coco_3x", 34, 1, 224),
    ],
)
def test_size_and_cost_are_those_of_the_paper(recipe, params, margin, macs):
    counted, cost, detector = counts(recipe_folder() / f"{recipe}.yaml")
    assert detector.input_size == (3, 800, 1280)
    assert counted == pytest.approx(params, abs=margin)
    if macs is not None:
        assert cost == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("recipe", ["deformable_detr_van_b2_coco", "rt_detr_van_b2_coco"])
def test_transformers_are_counted(recipe):
    params, cost, _ = counts(recipe_folder() / "detection" / f"{recipe}.yaml")
    assert params > 10
    assert cost > 100


@pytest.mark.parametrize("architecture", ["faster_rcnn", "cascade_mask_rcnn", "atss", "deformable_detr", "rt_detr"])
def test_it_starts_to_learn(architecture):
    detector, (image, target) = tiny(architecture), scene()
    optimizer = torch.optim.AdamW(detector.parameters(), 0.005)
    losses = []
    for _ in range(20):
        loss = torch.stack(list(detector([image], [target]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("architecture", "steps", "lr"),
    [
        *((name, 60, 0.005) for name in ("retinanet", "fcos", "gfl", "mask_rcnn", "mask2former")),
        pytest.param("atss", 60, 0.005, marks=pytest.mark.slow),
        *(pytest.param(name, 60, 0.005, marks=pytest.mark.slow) for name in ("faster_rcnn", "cascade_mask_rcnn")),
        pytest.param("deformable_detr", 150, 0.005, marks=pytest.mark.slow),
        pytest.param("rt_detr", 150, 0.003, marks=pytest.mark.slow),
    ],
)
def test_one_image_is_learnt(architecture, steps, lr):
    detector, (image, target) = tiny(architecture), scene()
    optimizer = torch.optim.AdamW(detector.parameters(), lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    losses = []
    for _ in range(steps):
        loss = torch.stack(list(detector([image], [target]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < max(losses) / 3
    detector.eval()
    with torch.no_grad():
        # twice the size and as floats: answers are in the pixels of what was given
        large = torch.nn.functional.interpolate(image[None].float() / 255, scale_factor=2.0)[0]
        for picture, factor in ((image, 1), (large, 2)):
            found = detector([picture])[0]
            assert found["labels"][0] == 2
            assert found["scores"][0] == found["scores"].max() > 0.4
            assert box_iou(found["boxes"][:1] / factor, target["boxes"]).item() > 0.6
            if detector.has_masks:
                assert found["masks"].shape[1:] == (1, *picture.shape[1:])
                mask = found["masks"][0, 0, ::factor, ::factor] > 0.5
                truth = target["masks"][0] > 0
                assert (mask & truth).sum() / (mask | truth).sum() > 0.7


@EVERY
def test_images_without_objects_train(architecture):
    detector, (image, target) = tiny(architecture), scene()
    wide = torch.rand(3, 50, 81)
    for images, targets in (([image], [nothing()]), ([image, image], [nothing(), target])):
        losses = detector(images, targets)
        assert all(loss.isfinite() and loss.requires_grad for loss in losses.values())
        detector.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        # distributed training waits for the gradient of every parameter but those of regions that do not exist
        without = [name for name, p in detector.named_parameters() if p.grad is None]
        assert not [name for name in without if "mask" not in name and "denoising" not in name]
    detector.eval()
    assert len(detector([image, wide])) == 2


@EVERY
def test_state_dict_builds_the_same_detector(architecture):
    detector = tiny(architecture, min_size=[64, 80]).eval()
    pointers = [t.data_ptr() for t in detector.state_dict().values() if t.numel()]
    assert len(pointers) == len(set(pointers))  # safetensors writes no tensor twice
    again = detector.options.build(3).eval()
    again.load_state_dict(detector.state_dict())
    image = torch.rand(3, 70, 90)
    with torch.no_grad():
        for first, second in zip(detector([image]), again([image]), strict=True):
            assert all(torch.equal(first[key], second[key]) for key in first)


@EVERY
def test_what_is_frozen_stays(architecture):
    detector, (image, target) = tiny(architecture, frozen_stages=2, freeze_norm=True), scene()
    backbone = next(m for m in detector.modules() if type(m).__name__ == "Backbone")
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.AdamW(detector.parameters(), 0.1, weight_decay=0.5)
    detector.train()
    torch.stack(list(detector([image, image], [target, target]).values())).sum().backward()
    optimizer.step()
    after = backbone.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed
    assert not [key for key in changed if "stages_0" in key or "stages_1" in key]
    assert not [key for key in changed if "running" in key or ".norm1." in key]


def test_official_weights_reach_the_backbone_with_their_preprocessing(tmp_path, official_b0):
    path = tmp_path / "van_tiny_754.pth.tar"
    torch.save({"state_dict": official_b0}, path)
    detector = build({"architecture": "retinanet", "pyramid_channels": 16}, pretrained=str(path))
    state = detector.state_dict()
    (key,) = [k for k in state if k.endswith("stages_3.norm.weight")]
    assert torch.equal(state[key], official_b0["norm4.weight"])
    assert detector.options.mean == [0.5, 0.5, 0.5]
    assert detector.options.backbone_args == {"norm_eps": 1e-6}
    headless = {k: v for k, v in official_b0.items() if not k.startswith("head.")}
    torch.save({"state_dict": headless}, path)  # now it is OpenMMLab's segmentation backbone
    detector = build({"architecture": "retinanet", "pyramid_channels": 16}, pretrained=str(path))
    assert detector.options.mean == [0.485, 0.456, 0.406]
    assert detector.options.backbone_args == {"norm_eps": 1e-5}


def test_bytes_and_floats_are_the_same_image():
    detector = tiny("fcos").eval()
    image = scene()[0]
    with torch.no_grad():
        first, second = detector([image])[0], detector([image / 255])[0]
    torch.testing.assert_close(first["boxes"], second["boxes"])


@pytest.mark.parametrize("architecture", ["retinanet", "fcos", "mask_rcnn", "cascade_mask_rcnn", "atss", "gfl"])
def test_boxes_keep_their_precision_in_mixed_precision(architecture):
    detector, (image, target) = tiny(architecture), scene()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector([image], [target])
        found = detector.eval()([image])[0]
    assert all(loss.isfinite() for loss in losses.values())
    assert found["boxes"].dtype == torch.float32


def test_training_without_targets_is_refused():
    with pytest.raises(DataError, match="0 targets for 1 images"):
        tiny("fcos")([scene()[0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_size": [1, 2, 3, 4, 5]}, "Did you mean anchor_sizes"),
        ({"anchor_sizes": [8, 16]}, "expected 5"),
        ({"min_size": [16]}, "at least 32"),
        ({"min_size": [2000]}, "max_size"),
        ({"score_threshold": 1.5}, "score_threshold is 1.5"),
        ({"detections_per_image": 0}, "detections_per_image is 0"),
        ({"mean": [0.5]}, "3 color channels"),
        ({"architecture": "atss", "pyramid_channels": 20}, "multiple of 8"),
        ({"backbone": "van_b9"}, "van_b9"),
        ({"backbone_args": {"drop_path": 0.1}}, "drop_path"),
        ({"frozen_stages": 5}, "frozen_stages is 5"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(VanError, match=message):
        build({"architecture": "retinanet", **options})


def test_options_of_another_architecture_are_refused():
    with pytest.raises(VanError, match="'fcos'"):
        FCOSOptions("gfl").build(3)  # pyright: ignore[reportArgumentType]


def test_choice_of_anchors_follows_the_paper():
    # one level, anchors of side 8 at 0, 4, 8, ... on a line, and a box around the three in the middle
    centres = torch.arange(0, 40, 4.0)
    anchors = torch.stack([centres - 4, torch.full_like(centres, -4), centres + 4, torch.full_like(centres, 4)], 1)
    boxes = torch.tensor([[10.0, -4, 22, 4]])
    iou = box_iou(anchors, boxes)[:, 0]
    near = (centres - 16).abs().argsort()[:5]
    threshold = iou[near].mean() + iou[near].std()
    expected = [0 if i in near and iou[i] >= threshold and 10 < centres[i] < 22 else -1 for i in range(len(anchors))]
    assert choose_anchors(anchors, [10], boxes, candidates=5).tolist() == expected
    assert 0 in expected
    assert choose_anchors(anchors, [10], boxes[:0]).tolist() == [-1] * 10


def test_images_are_scaled_in_evaluation_only():
    detector = tiny("fcos", min_size=[64, 96], max_size=112)
    targets = [scene()[1]]
    batch, same = detector.network.transform([torch.rand(3, 50, 60)], targets)
    assert batch.image_sizes == [(50, 60)]
    assert torch.equal(same[0]["boxes"], targets[0]["boxes"])
    detector.eval()
    assert {detector.network.transform([torch.rand(3, 48, 48)])[0].image_sizes[0] for _ in range(9)} == {(96, 96)}
    assert max(detector.network.transform([torch.rand(3, 20, 60)])[0].image_sizes[0]) <= 112
