"""Every value of the recipes for COCO at the object that it is meant for."""

from importlib.util import find_spec

import pytest
import torch
from tests.tasks.recipe_values import drop_rates, network_of, options_of, rates, settings
from torchvision.transforms import v2

from van.data.transforms import RandomRangeCrop, RandomShortEdge
from van.engine.config import list_recipes
from van.models.backbone import Backbone

COCO = [name for task in ("detection", "instances") for name in list_recipes(task) if "_coco" in name]
if find_spec("transformers") is None:
    COCO = [name for name in COCO if "detr" not in name and "mask2former" not in name]
PAPER = [name for name in COCO if "detr" not in name and "mask2former" not in name]
LONG = [name for name in COCO if name.endswith("_3x")]
SIZES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
STEPS = 7330  # of COCO in batches of 16


def steps_of(name):
    options = options_of(name)
    return options.augmentation.transform(options.model.min_size, options.model.max_size).transforms


@pytest.mark.parametrize("name", PAPER)
def test_schedule_is_that_of_swin_transformer(name):
    options = options_of(name)
    long = name in LONG
    assert (options.epochs, options.batch_size) == ((36, 16) if long else (12, 16))
    first, second = (27, 33) if long else (8, 11)
    points = (250 / STEPS, 500 / STEPS, first - 0.01, first + 0.01, second + 0.01)
    optimizer, (half, *after) = rates(name, STEPS, *points)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}
    assert half == pytest.approx(0.5e-4, rel=0.02)
    assert after == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    assert (options.optimization.clip_grad, options.optimization.ema_decay) == (None, None)


@pytest.mark.parametrize("name", PAPER)
def test_decay_warmup_and_batchnorm_are_those_of_swin_transformer(name):
    _, (start,) = rates(name, STEPS, 0)
    assert start == pytest.approx(1e-7)
    assert options_of(name).sync_batchnorm
    for parameter, (_, lr, decay) in settings(name).items():
        assert (lr, decay) == (pytest.approx(1e-4), 0.0 if "norm" in parameter else 0.05), parameter


@pytest.mark.parametrize("name", COCO)
def test_images_without_objects_are_left_out_where_published(name):
    assert options_of(name).keep_empty == name.endswith("detr_van_b2_coco")


@pytest.mark.parametrize("name", COCO)
def test_drop_path_rises_to_the_rate(name):
    rate = 0.3 if "mask2former" in name else 0.2 if name in LONG or "van_b3" in name else 0.1
    found = drop_rates(network_of(name))
    assert found == pytest.approx(torch.linspace(0, rate, len(found)).tolist())


@pytest.mark.parametrize("name", COCO)
def test_tests_are_at_800_by_1333_with_the_colors_of_imagenet(name):
    detector = network_of(name)
    transform = detector.network.transform
    assert (transform.min_size[-1], transform.max_size) == ((640, 1066) if "rt_detr" in name else (800, 1333))
    assert (transform.image_mean, transform.image_std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("name", COCO)
def test_random_changes(name):
    steps = steps_of(name)
    flip, *others, clean = steps
    assert (type(flip), flip.p) == (v2.RandomHorizontalFlip, 0.5)
    assert type(clean) is v2.SanitizeBoundingBoxes
    if "mask2former" in name:
        jitter, crop, _ = others
        assert (tuple(jitter.target_size), tuple(jitter.scale_range)) == ((1024, 1024), (0.1, 2.0))
        assert tuple(crop.size) == (1024, 1024)
        return
    resize = others[-1]
    sizes = SIZES[:6] if "rt_detr" in name else SIZES if name in LONG or "detr" in name else [800]
    assert (type(resize), resize.sizes) == (RandomShortEdge, sizes)
    assert resize.longest == (1066 if "rt_detr" in name else 1333)
    if name not in LONG and "deformable" not in name:
        assert len(others) == 1
        return
    before, _ = others
    first, crop = before.transforms
    assert (type(before), before.p) == (v2.RandomApply, 0.5)
    assert (type(first), first.sizes, first.longest) == (RandomShortEdge, [400, 500, 600], 1333)
    assert (type(crop), crop.low, crop.high) == (RandomRangeCrop, 384, 600)


@pytest.mark.parametrize("name", [name for name in COCO if "rcnn" in name])
def test_two_stages(name):
    network = network_of(name).network.train()
    rpn, heads, cascade = network.rpn, network.roi_heads, "cascade" in name
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (2000, 2000 if cascade else 1000)
    assert (rpn.eval().pre_nms_top_n(), rpn.post_nms_top_n()) == (1000, 1000)
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.7, 0.3)
    assert rpn.proposal_matcher.allow_low_quality_matches
    assert (rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction) == (256, 0.5)
    assert (rpn.nms_thresh, rpn.box_loss) == (0.7, "smooth_l1" if cascade else "l1")
    assert heads.box_loss == ("giou" if cascade else "l1")
    assert heads.low_quality_matches == ("/mask_rcnn" in name)
    assert (heads.proposal_matcher.high_threshold, heads.proposal_matcher.low_threshold) == (0.5, 0.5)
    assert (heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction) == (512, 0.25)
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.05, 0.5, 100)
    pools = [heads.box_roi_pool] + ([heads.mask_roi_pool] if "mask" in name else [])
    assert [(p.output_size, p.sampling_ratio, p.aligned) for p in pools] == [
        ((side, side), 0, True) for side in (7, 14)[: len(pools)]
    ]


@pytest.mark.parametrize("name", [name for name in PAPER if "rcnn" not in name])
def test_one_stage(name):
    network = network_of(name).network
    dense = any(word in name for word in ("atss", "gfl", "fcos"))
    assert (network.score_thresh, network.topk_candidates, network.detections_per_img) == (0.05, 1000, 100)
    assert network.nms_thresh == (0.6 if dense else 0.5)
    if "atss" in name or "gfl" in name:
        assert (network.candidates, network.anchor_scale) == (9, 8)
        assert network.anchor_generator.sizes == tuple((8 * stride,) for stride in (8, 16, 32, 64, 128))
    elif "retinanet" in name:
        matcher = network.proposal_matcher
        assert (matcher.high_threshold, matcher.low_threshold) == (0.5, 0.4)
        assert network.head.regression_head._loss_type == "l1"
        assert network.anchor_generator.num_anchors_per_location() == [9] * 5


def test_mask2former():
    name = "instances/mask2former_van_b2_coco"
    pytest.importorskip("transformers")
    options, model = options_of(name), network_of(name).network.model
    assert (options.epochs, options.batch_size, options.optimization.clip_grad) == (50, 16, 0.01)
    optimizer, found = rates(name, STEPS, 0.01, 43.9, 44.1, 48.1)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert found == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    assert model.head.transformer_module.queries_features.weight.shape == (100, 256)
    assert network_of(name).network.detections_per_image == 100
    assert options.sync_batchnorm
    for parameter, (module, lr, decay) in settings(name).items():
        assert lr == pytest.approx(1e-5 if "backbone" in parameter else 1e-4), parameter
        still = isinstance(module, torch.nn.Embedding) or "Norm" in type(module).__name__
        assert decay == (0.0 if still else 0.05), parameter


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "milestones", "clip", "ema"),
    [
        ("detection/deformable_detr_van_b2_coco", 50, 32, [40], 0.1, None),
        ("detection/rt_detr_van_b2_coco", 72, 16, [], 0.1, 0.9999),
    ],
)
def test_detrs(name, epochs, batch, milestones, clip, ema):
    pytest.importorskip("transformers")
    options = options_of(name)
    assert (options.epochs, options.batch_size) == (epochs, batch)
    assert (options.optimization.clip_grad, options.optimization.ema_decay) == (clip, ema)
    optimizer, (start, end) = rates(name, STEPS, 3, epochs - 0.5)
    assert start == pytest.approx(2e-4 if milestones else 1e-4)
    assert end == pytest.approx(start / 10 if milestones else start)
    deformable = "deformable" in name
    assert {group["weight_decay"] for group in optimizer.param_groups} == ({1e-4} if deformable else {0.0, 1e-4})
    slow = ["body"] + deformable * ["sampling_offsets", "reference_points"]
    for parameter, (_, lr, _) in settings(name).items():
        assert lr == pytest.approx(start / 10 if set(slow) & set(parameter.split(".")) else start), parameter
    backbone = next(m for m in network_of(name).train().modules() if isinstance(m, Backbone))
    assert not any(m.training for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
