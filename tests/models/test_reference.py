import numpy as np
import pytest
import timm
import torch

from van.models.reference import ReferenceVAN
from van.models.variants import VARIANTS
from van.models.weights import Checkpoint, to_format


def relative_error(ours, theirs):
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def ours_and_logits(model, x):
    logits = model(x)
    return logits, model.forward_intermediates(x, intermediates_only=True)


def reference_and_logits(model, x):
    return model(x), model.forward_stages(x)


@pytest.mark.parametrize("size", ["224x224", "96x160"])
@pytest.mark.parametrize("name", ["van_b0", "van_b1"])
def test_published_code_agrees(name, size, golden_fill, official_b0, official_b1, tmp_path, request):
    """Both networks return what the published code returns for the same weights and image (see golden/README)."""
    state = {"van_b0": official_b0, "van_b1": official_b1}[name]
    golden = np.load(request.path.parents[1] / "golden" / f"{name}.npz")
    x = torch.from_numpy(golden_fill.image(*map(int, size.split("x"))))

    reference = ReferenceVAN(name).eval()
    reference.load_state_dict(state)
    torch.save({"state_dict": state}, tmp_path / "official.pth.tar")
    overlay = {"file": str(tmp_path / "official.pth.tar")}
    ours = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()

    with torch.inference_mode():
        outputs = {"ours": ours_and_logits(ours, x), "reference": reference_and_logits(reference, x)}
    for who, (logits, maps) in outputs.items():
        assert relative_error(logits, golden[f"logits_{size}"]) <= 1e-5, who
        for i, stage in enumerate(maps, start=1):
            assert tuple(stage.shape) == tuple(golden[f"stage{i}_{size}_shape"]), (who, i)
            flat = stage.contiguous().flatten()
            sample = flat[:: max(1, flat.numel() // 64)][:64]
            assert relative_error(sample, golden[f"stage{i}_{size}_sample"]) <= 1e-5, (who, i)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_agrees_with_the_reference(name):
    torch.manual_seed(0)
    reference = ReferenceVAN(name, num_classes=10).eval()
    ours = timm.create_model(name, num_classes=10).eval()
    for key, tensor in ours.state_dict().items():  # so that no bias, scale or statistic is at its neutral value
        if tensor.ndim == 1:
            tensor.add_(torch.rand_like(tensor) * (0.02 if key.endswith("gamma") else 0.2))
    official = to_format(Checkpoint(ours.state_dict(), "van", name, 10, 3), "official")
    reference.load_state_dict(official)
    x = torch.randn(1, 3, 40, 72)
    with torch.inference_mode():
        (logits, maps), (expected_logits, expected_maps) = ours_and_logits(ours, x), reference_and_logits(reference, x)
    assert relative_error(logits, expected_logits) <= 1e-5
    for stage, expected in zip(maps, expected_maps, strict=True):
        assert relative_error(stage, expected) <= 1e-5


@pytest.mark.parametrize("name", ["van_b0", "van_b1"])
def test_reference_has_the_official_names(name, official_shapes):
    with torch.device("meta"):
        state = ReferenceVAN(name).state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == official_shapes[name]


def test_reference_gradients_agree():
    torch.manual_seed(0)
    ours = timm.create_model("van_b0", num_classes=10).train()
    reference = ReferenceVAN("van_b0", num_classes=10).train()
    reference.load_state_dict(to_format(Checkpoint(ours.state_dict(), "van", "van_b0", 10, 3), "official"))
    ours, reference = ours.double(), reference.double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for model in (ours, reference):
        model(x).square().sum().backward()
    gradients = {k: p.grad for k, p in ours.named_parameters()}
    gradients = to_format(Checkpoint(gradients, "van", "van_b0", 10, 3), "official")
    for key, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-7, atol=1e-10, msg=key)
    statistics = to_format(Checkpoint(ours.state_dict(), "van", "van_b0", 10, 3), "official")
    for key, expected in reference.state_dict().items():
        torch.testing.assert_close(statistics[key], expected, rtol=1e-9, atol=1e-12, msg=key)
