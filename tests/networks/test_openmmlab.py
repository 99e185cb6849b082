import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import van
from van.cli import main
from van.errors import WeightsError
from van.networks.registry import options_class
from van.networks.segmentation.openmmlab import load_openmmlab, segmenter_from_openmmlab
from van.networks.segmentation.options import SemanticFPNOptions, UPerNetOptions

CLASSES = 6


def conv(name, out, into, kernel, bias):
    shapes = {f"{name}.weight": (out, into, kernel, kernel)}
    return shapes | {f"{name}.bias": (out,)} if bias else shapes


def conv_module(name, out, into, kernel):
    """OpenMMLab's ConvModule with a norm: conv without bias, bn."""
    norm = {f"{name}.bn.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")}
    return conv(f"{name}.conv", out, into, kernel, False) | norm | {f"{name}.bn.num_batches_tracked": ()}


def fpn_shapes(dims, wide=256, channels=128):
    """Keys of OpenMMLab's FPN and FPNHead as its published configuration of VAN builds them."""
    shapes = {}
    for i, dim in enumerate(dims):
        shapes |= conv(f"neck.lateral_convs.{i}.conv", wide, dim, 1, True)
        shapes |= conv(f"neck.fpn_convs.{i}.conv", wide, wide, 3, True)
        for j in range(max(i, 1)):  # every other layer doubles
            shapes |= conv_module(f"decode_head.scale_heads.{i}.{2 * j}", channels, channels if j else wide, 3)
    return shapes | conv("decode_head.conv_seg", CLASSES, channels, 1, True)


def upernet_shapes(dims, channels=512, auxiliary=256):
    """Keys of OpenMMLab's UPerHead and FCNHead as its published configuration of VAN builds them."""
    shapes = conv("decode_head.conv_seg", CLASSES, channels, 1, True)
    for i in range(4):
        shapes |= conv_module(f"decode_head.psp_modules.{i}.1", channels, dims[-1], 1)
    shapes |= conv_module("decode_head.bottleneck", channels, dims[-1] + 4 * channels, 3)
    for i, dim in enumerate(dims[:-1]):
        shapes |= conv_module(f"decode_head.lateral_convs.{i}", channels, dim, 1)
        shapes |= conv_module(f"decode_head.fpn_convs.{i}", channels, channels, 3)
    shapes |= conv_module("decode_head.fpn_bottleneck", channels, 4 * channels, 3)
    shapes |= conv_module("auxiliary_head.convs.0", auxiliary, dims[2], 3)
    return shapes | conv("auxiliary_head.conv_seg", CLASSES, auxiliary, 1, True)


def fill(shapes):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.tensor(7)
        elif key.endswith("running_var") or ".bn.weight" in key:
            tensors[key] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = max(1, int(torch.tensor(shape[1:]).prod()))
            tensors[key] = torch.randn(shape, generator=generator) / fan_in**0.5
    return tensors


@pytest.fixture
def published(official_b0, tmp_path):
    """Write a checkpoint as OpenMMLab does and return its path and the tensors."""

    def write(shapes, **changes):
        backbone = {f"backbone.{k}": v for k, v in official_b0.items() if not k.startswith("head.")}
        tensors = backbone | fill(shapes) | changes
        tensors = {k: v for k, v in tensors.items() if v is not None}
        path = tmp_path / "van.pth"
        torch.save({"meta": {"CLASSES": ("wall", "sky", "tree", "cat", "cup", "car")}, "state_dict": tensors}, path)
        return path, tensors

    return write


class OpenMMLab:
    """The forward pass of their heads, written on their names."""

    def __init__(self, tensors):
        self.tensors = tensors

    def conv(self, name, x):
        weight = self.tensors[f"{name}.weight"]
        return F.conv2d(x, weight, self.tensors.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def module(self, name, x):
        norm = [self.tensors[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(self.conv(f"{name}.conv", x), *norm).relu()

    def resize(self, x, like):
        return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)

    def fpn(self, maps):
        laterals = [self.conv(f"neck.lateral_convs.{i}.conv", m) for i, m in enumerate(maps)]
        for i in (3, 2, 1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[-2:])
        total = laterals[0]
        for i, lateral in enumerate(laterals):
            x = self.conv(f"neck.fpn_convs.{i}.conv", lateral)
            for j in range(max(i, 1)):
                x = self.module(f"decode_head.scale_heads.{i}.{2 * j}", x)
                if i:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            total = x if i == 0 else total + self.resize(x, total)
        return self.conv("decode_head.conv_seg", total)

    def upernet(self, maps):
        pooled = [maps[3]]
        for i, side in enumerate((1, 2, 3, 6)):
            x = self.module(f"decode_head.psp_modules.{i}.1", F.adaptive_avg_pool2d(maps[3], side))
            pooled.append(self.resize(x, maps[3]))
        levels = [self.module(f"decode_head.lateral_convs.{i}", maps[i]) for i in range(3)]
        levels.append(self.module("decode_head.bottleneck", torch.cat(pooled, 1)))
        for i in (3, 2, 1):
            levels[i - 1] = levels[i - 1] + self.resize(levels[i], levels[i - 1])
        outs = [self.module(f"decode_head.fpn_convs.{i}", levels[i]) for i in range(3)] + [levels[3]]
        outs = [self.resize(x, outs[0]) for x in outs]
        return self.conv("decode_head.conv_seg", self.module("decode_head.fpn_bottleneck", torch.cat(outs, 1)))


DIMS = (32, 64, 160, 256)
BOTH = pytest.mark.parametrize(
    ("architecture", "shapes"), [("semantic_fpn", fpn_shapes), ("upernet", upernet_shapes)], ids=["fpn", "upernet"]
)


@BOTH
class TestPublishedLayout:
    def test_every_key_is_used_and_the_result_is_theirs(self, architecture, shapes, published):
        pytest.importorskip("transformers")
        path, tensors = published(shapes(DIMS))
        model, names = segmenter_from_openmmlab(path)
        assert names == ["wall", "sky", "tree", "cat", "cup", "car"]
        assert (model.options.architecture, model.options.backbone, model.num_classes) == (architecture, "van_b0", 6)
        assert model.options.backbone_args["norm_eps"] == 1e-5
        assert len(model.state_dict()) == len(tensors)  # key by key: as many, each with a value of the file
        left = {k: v.double().sum().item() for k, v in tensors.items()}
        for value in model.state_dict().values():
            total = value.double().sum().item()
            left.pop(next(k for k, v in left.items() if v == total and tensors[k].shape == value.shape))
        assert left == {}
        for size in ((64, 96), (75, 101)):  # theirs does not pad
            images = torch.rand(1, 3, *size)
            with torch.no_grad():
                maps = model.backbone(model.prepare(images, pad=False))
                theirs = OpenMMLab(tensors)
                expected = theirs.fpn(maps) if architecture == "semantic_fpn" else theirs.upernet(maps)
                expected = F.interpolate(expected, size=size, mode="bilinear", align_corners=False)
                torch.testing.assert_close(model(images, pad=False), expected, rtol=1e-4, atol=1e-4)

    def test_mismatches_are_named_and_nothing_is_loaded(self, architecture, shapes, published):
        pytest.importorskip("transformers")
        model = options_class("semantic", architecture)().build(CLASSES)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        some = next(k for k in fill(shapes(DIMS)) if k.endswith("conv.weight"))
        cases = {
            "decode_head.strange.weight .* has no place": {"decode_head.strange.weight": torch.zeros(3)},
            r"conv_seg.weight has shape \(9,": {"decode_head.conv_seg.weight": torch.zeros(9, 4, 1, 1)},
            "is missing": {some: None},
        }
        for message, changes in cases.items():
            path, _ = published(shapes(DIMS), **changes)
            with pytest.raises(WeightsError, match=message):
                load_openmmlab(model, path)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_head_or_no_head_is_said(published, official_b0, tmp_path):
    pytest.importorskip("transformers")
    path, _ = published(fpn_shapes(DIMS))
    with pytest.raises(WeightsError, match="holds a semantic_fpn, the model is a upernet"):
        load_openmmlab(UPerNetOptions().build(CLASSES), path)
    torch.save({"state_dict": official_b0}, tmp_path / "classifier.pth")
    with pytest.raises(WeightsError, match="expected a segmentation model of OpenMMLab"):
        segmenter_from_openmmlab(tmp_path / "classifier.pth")
    with pytest.raises(WeightsError, match="does not exist"):
        segmenter_from_openmmlab(tmp_path / "nothing.pth")


def test_numbers_of_no_published_model_need_options(published):
    path, tensors = published(fpn_shapes(DIMS))
    tensors = {k: v for k, v in tensors.items() if not k.startswith("backbone.block1.2.")}
    torch.save({"state_dict": tensors}, path)
    with pytest.raises(WeightsError, match="none of van_b0 to van_b6"):
        segmenter_from_openmmlab(path)
    options = SemanticFPNOptions(backbone_args={"depths": (2, 3, 5, 2)})
    model, names = segmenter_from_openmmlab(path, options)
    assert names is None
    assert not model.training


def test_predict_and_evaluate_take_the_file(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path, _ = published(fpn_shapes(DIMS))
    for folder in ("data/images", "data/masks"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save("data/images/a.png")
    Image.fromarray(np.full((40, 50), 1, np.uint8)).save("data/masks/a.png")
    (tmp_path / "data/classes.txt").write_text("sky\ncat\n")
    common = ["--weights", str(path), "--scales", "0.125", "--workers", "0"]
    assert main(["predict", "data/images", *common, "--output", "found"]) == 0
    (entry,) = map(json.loads, (tmp_path / "found/predictions.jsonl").read_text().splitlines())
    assert entry["labels"] == ["wall", "sky", "tree", "cat", "cup", "car"]
    with Image.open("found/a_classes.png") as image:
        found = np.asarray(image)
    assert found.shape == (40, 50)
    assert main(["evaluate", *common, "--data", "data", "--split", "all", "--output", "measured"]) == 0
    figures = json.loads((tmp_path / "measured/evaluation.json").read_text())
    assert figures["aAcc"] == pytest.approx((found == 3).mean(), abs=1e-4)  # by their names: cat is 3 there
    predictor = van.load(path)
    assert predictor.task.name == "semantic"
    assert tuple(predictor.inference.fit) == (512, 2048)
    assert (predictor.inference.to_multiple, predictor.inference.antialias) == ("resize", False)
    assert capsys.readouterr().out.count("results: measured") == 1


def test_without_names_classes_have_numbers(published):
    path, tensors = published(fpn_shapes(DIMS))
    torch.save({"state_dict": tensors}, path)
    assert van.load(path).class_names == ["0", "1", "2", "3", "4", "5"]
