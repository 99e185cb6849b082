from dataclasses import asdict

import pytest
import torch

import van  # noqa: F401 - registers the backbones
from van.analysis.counting import complexity
from van.errors import DataError, VanError, WeightsError
from van.networks.dense import full_size
from van.networks.registry import from_dict
from van.networks.segmentation.options import SemanticFPNOptions, UPerNetOptions

TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
HEADS = {
    "semantic_fpn": {"pyramid_channels": 16, "channels": 16},
    "upernet": {"channels": 16, "auxiliary_channels": 16},
    "mask2former": {
        "pyramid_channels": 64, "queries": 8, "encoder_layers": 1, "decoder_layers": 2, "encoder_width": 32,
        "decoder_width": 32, "heads": 4, "points": 256,
    },
}  # fmt: skip
ALL = pytest.mark.parametrize("architecture", HEADS)


def tiny(architecture: str, num_classes: int = 4, **options):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    given = {"architecture": architecture, "backbone_args": TINY, **HEADS[architecture], **options}
    return from_dict("semantic", given).build(num_classes)


def batch(size=(64, 64), count=2, num_classes=4):
    """Images of four squares, each of its class's colour, and their labels."""
    height, width = size
    labels = torch.zeros(count, *size, dtype=torch.long)
    labels[:, height // 2 :] += 1
    labels[:, :, width // 2 :] += 2
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.8, 0.8, 0.1]])
    return colours[labels].permute(0, 3, 1, 2).contiguous(), labels


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


class TestCounts:
    """T12 of the paper: parameters in millions, multiply-accumulates in 10^9 (512 x 512, 2048 x 512)."""

    @pytest.mark.parametrize(
        ("backbone", "params", "macs"),
        [("van_b0", 7.98, 26), ("van_b1", 17.62, 35), ("van_b2", 30.33, 48), ("van_b3", 48.52, 68)],
    )
    def test_semantic_fpn(self, backbone, params, macs):
        model = SemanticFPNOptions(backbone=backbone).build(150, device="meta")
        counted = complexity(model, model.input_size)
        assert model.input_size == (3, 512, 512)
        assert counted.params / 1e6 == pytest.approx(params, abs=0.01)
        assert counted.macs / 1e9 == pytest.approx(macs, rel=0.03)

    @pytest.mark.parametrize(
        ("backbone", "params", "macs"),
        [
            ("van_b0", 32, None),
            ("van_b1", 44, None),
            ("van_b2", 57, 948),
            ("van_b3", 75, 1030),
            ("van_b4", 90, 1098),
            ("van_b5", 121.9, 1208),  # the paper says 117 M; its published configuration has these numbers
            ("van_b6", 231, 1658),
        ],
    )
    def test_upernet(self, backbone, params, macs):
        pytest.importorskip("transformers")
        model = UPerNetOptions(backbone=backbone).build(150, device="meta")
        counted = complexity(model, model.input_size)
        assert model.input_size == (3, 512, 2048)
        assert counted.params / 1e6 == pytest.approx(params, abs=1)
        assert macs is None or counted.macs / 1e9 == pytest.approx(macs, rel=0.03)

    def test_mask2former_of_the_papers_b2(self):
        pytest.importorskip("transformers")
        model = from_dict("panoptic", {"backbone": "van_b2"}).build(133, device="meta")
        counted = complexity(model, (3, 256, 256))
        assert counted.params / 1e6 == pytest.approx(45.87, abs=0.01)
        assert counted.macs > 10e9


@ALL
class TestEverySegmenter:
    def test_any_size_gives_results_of_that_size(self, architecture):
        model = tiny(architecture).eval()
        for size in ((64, 64), (33, 47), (1, 90)):
            images, _ = batch(size, count=1)
            with torch.no_grad():
                probabilities = model.probabilities(images)
            assert probabilities.shape == (1, 4, *size)
            assert probabilities.isfinite().all()
            assert (probabilities.sum(1) - 1).abs().max() < 1e-4

    def test_padding_is_cut_off_and_not_scaled_away(self, architecture):
        model = tiny(architecture).eval()
        images, _ = batch((40, 50), count=1)
        colours = (model.mean[0] * 1).expand(3, 64, 64).clone()
        colours[:, :40, :50] = images[0]
        with torch.no_grad():
            small, large = model.probabilities(images), model.probabilities(colours[None])
        torch.testing.assert_close(small, large[..., :40, :50])

    def test_images_can_be_taken_as_they_are(self, architecture):
        model = tiny(architecture).eval()
        for size in ((64, 64), (33, 47), (70, 101)):
            images, _ = batch(size, count=1)
            with torch.no_grad():
                found, padded = model.scores(images, pad=False), model.scores(images)
            assert found.shape == padded.shape == (1, 4, *size)
            assert torch.equal(found, padded) == (size == (64, 64))

    def test_bytes_are_read_as_floats(self, architecture):
        model = tiny(architecture).eval()
        images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(model.probabilities(images), model.probabilities(images / 255))

    def test_normalises_with_the_numbers_of_its_options(self, architecture):
        options = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
        model = tiny(architecture, **options)
        assert model.prepare(torch.full((2, 3, 32, 32), 0.5)).mean((0, 2, 3)).tolist() == pytest.approx(
            [(0.5 - m) / s for m, s in zip(options["mean"], options["std"], strict=True)]
        )
        assert (model.options.mean, model.options.std) == (options["mean"], options["std"])

    def test_gradients_reach_every_parameter(self, architecture):
        model = tiny(architecture, dropout=0.0).train()
        total(model(*batch())).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == []

    def test_all_pixels_ignored_is_no_nan(self, architecture):
        model = tiny(architecture).train()
        images, labels = batch()
        loss = total(model(images, torch.full_like(labels, 255)))
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_overfits_a_tiny_image(self, architecture):
        model = tiny(architecture, dropout=0.0).train()
        images, labels = batch(count=2)
        labels[:, :4] = 255
        optimizer = torch.optim.Adam(model.parameters(), 0.003 if architecture == "mask2former" else 0.01)
        losses = []
        for _ in range(100):
            loss = total(model(images, labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            right = (model.eval().probabilities(images).argmax(1) == labels)[labels != 255]
        assert losses[-1] < 0.3 * losses[0]
        assert right.float().mean() > 0.9

    def test_state_comes_back_from_the_completed_options(self, architecture):
        model = tiny(architecture, backbone_args={**TINY, "norm_eps": 1e-5}).eval()
        again = from_dict("semantic", asdict(model.options)).build(model.num_classes).eval()
        again.load_state_dict(model.state_dict())
        images, _ = batch(count=1)
        with torch.no_grad():
            torch.testing.assert_close(again.probabilities(images), model.probabilities(images), rtol=0, atol=0)

    def test_frozen_stages_do_not_change(self, architecture):
        model = tiny(architecture, frozen_stages=2, freeze_norm=True).train()
        before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
        total(model(*batch())).backward()
        torch.optim.SGD([p for p in model.parameters() if p.grad is not None], 0.1).step()
        changed = {k.split(".")[1] for k, v in model.backbone.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {"stages_2", "stages_3"}

    def test_runs_in_bfloat16(self, architecture):
        model = tiny(architecture).train()
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(*batch())
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())

    def test_wrong_targets_and_images_are_named(self, architecture):
        model = tiny(architecture).train()
        images, labels = batch()
        with pytest.raises(DataError, match=r"shape \(2, 32, 64\), expected integers of shape \(2, 64, 64\)"):
            model(images, labels[:, :32])
        with pytest.raises(DataError, match=r"\(2, 1, 64, 64\), expected \(B, 3, H, W\)"):
            model(images[:, :1], labels)
        with pytest.raises(DataError, match="Raise the batch size"):
            model(images[:1, :, :32, :32], labels[:1, :32, :32])

    def test_unknown_arguments_are_refused(self, architecture):
        with pytest.raises(VanError, match=r"'backbone_arg'.*Did you mean backbone_args"):
            tiny(architecture, backbone_arg={})
        with pytest.raises(VanError, match="0 outputs"):
            tiny(architecture, num_classes=0)
        with pytest.raises(VanError, match=r"mean is \[0.5\]"):
            tiny(architecture, mean=[0.5])
        if architecture != "mask2former":
            with pytest.raises(VanError, match="loss_over is 'some', expected labeled or all"):
                tiny(architecture, loss_over="some")


def test_padding_compiles_with_dynamic_sizes():
    model = tiny("semantic_fpn").eval()

    def prepared(images):
        return full_size(model.prepare(images)[..., ::4, ::4], model.prepare(images).shape, images.shape)

    compiled = torch.compile(prepared, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((40, 50), (64, 33)):
        images = torch.rand(2, 3, *size)
        torch.testing.assert_close(compiled(images), prepared(images))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["semantic_fpn", "upernet"])
def test_compiles_with_dynamic_sizes(architecture):
    model = tiny(architecture).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((40, 50), (64, 33)):
            images = torch.rand(2, 3, *size)
            torch.testing.assert_close(compiled(images), model(images))


def test_upernet_weighs_its_auxiliary_loss():
    whole, part = (tiny("upernet", dropout=0.0, auxiliary_weight=w)(*batch()) for w in (1.0, 0.4))
    assert part["auxiliary"].item() == pytest.approx(0.4 * whole["auxiliary"].item(), rel=1e-4)
    assert part["segmentation"].item() == pytest.approx(whole["segmentation"].item(), rel=1e-4)


def test_loss_is_the_mean_of_the_pixels_that_count():
    model = tiny("semantic_fpn", dropout=0.0).train()
    images, labels = batch()
    labels[:, 20:] = 255
    logits = model(images).detach()[:, :, :20]
    expected = torch.nn.functional.cross_entropy(logits, labels[:, :20])
    assert model(images, labels)["segmentation"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("architecture", ["semantic_fpn", "upernet"])
def test_loss_over_all_pixels_takes_ignored_ones_for_zero(architecture):
    images, labels = batch()
    labels[:, 16:] = 255  # three quarters
    labeled, whole = (
        tiny(architecture, dropout=0.0, loss_over=over).train()(images, labels) for over in ("labeled", "all")
    )
    assert len(labeled) == (2 if architecture == "upernet" else 1)
    for name, loss in labeled.items():
        assert whole[name].item() == pytest.approx(loss.item() / 4, rel=1e-5)


def test_another_network_of_timm():
    options = SemanticFPNOptions(backbone="resnet18", **HEADS["semantic_fpn"])
    with torch.no_grad():
        assert options.build(3).eval()(torch.rand(1, 3, 40, 32)).shape == (1, 3, 40, 32)


def test_255_is_no_class():
    with pytest.raises(VanError, match="num_classes is 256"):
        tiny("semantic_fpn", 256)


@pytest.mark.parametrize("architecture", ["semantic_fpn", "upernet"])
def test_float64_keeps_its_precision(architecture):
    model = tiny(architecture).double().eval()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        logits = model(images)
        assert logits.dtype == torch.float64
        assert not torch.equal(logits, logits.float().double())
        # bytes too are divided in float64
        images = (images * 255).round()
        torch.testing.assert_close(model(images.to(torch.uint8)), model(images / 255), rtol=0, atol=1e-14)


def test_backbone_weights_come_from_a_file(official_b0, tmp_path):
    torch.save({"state_dict": official_b0}, tmp_path / "b0.pth.tar")
    model = SemanticFPNOptions(**HEADS["semantic_fpn"]).build(3, tmp_path / "b0.pth.tar")
    assert torch.equal(model.backbone.body["stages_3"].norm.weight, official_b0["norm4.weight"])
    assert model.options.mean == [0.5, 0.5, 0.5]
    with pytest.raises(WeightsError):
        SemanticFPNOptions(backbone="van_b1").build(3, tmp_path / "b0.pth.tar")


def test_segmentation_models_pytorch_takes_the_backbone():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.FPN("tu-van_b0", encoder_weights=None, classes=5).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, 5, 64, 64)
