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


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-4), (torch.float64, 1e-10)])
def test_training_steps_agree(dtype, bound):
    """Three steps: gradients of every parameter, the parameters, and the statistics of BatchNorm."""
    torch.manual_seed(0)
    ours = timm.create_model("van_b0", num_classes=10).to(dtype).train()
    reference = ReferenceVAN("van_b0", num_classes=10).to(dtype).train()

    def official(tensors):
        return to_format(Checkpoint(tensors, "van", "van_b0", 10, 3), "official")

    reference.load_state_dict(official(ours.state_dict()))
    optimizers = [torch.optim.SGD(model.parameters(), 0.01, momentum=0.9) for model in (ours, reference)]
    for _ in range(3):
        x = torch.randn(4, 3, 64, 64, dtype=dtype)
        for model, optimizer in zip((ours, reference), optimizers, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), torch.arange(4)).backward()
            optimizer.step()
        gradients = official({name: p.grad for name, p in ours.named_parameters()})
        largest = max(p.grad.abs().max() for p in reference.parameters())
        for name, parameter in reference.named_parameters():
            # biases before a BatchNorm have no gradient but rounding
            assert (gradients[name] - parameter.grad).abs().max() <= bound * parameter.grad.abs().max() + (
                bound * 1e-2 * largest
            ), name
    for name, tensor in official(ours.state_dict()).items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], rtol=bound, atol=bound, msg=name)
