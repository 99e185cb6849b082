import pytest
import timm
import torch

import van
from van.errors import VanError, WeightsError
from van.models import Checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """A grey-scale B0 for three classes that was trained with other settings than the default."""
    torch.manual_seed(0)
    args = {"kernel_size": 7, "dilation": 2, "norm_eps": 1e-4}
    model = van.create_model("van_b0", num_classes=3, in_chans=1, **args)
    preprocessing = {"input_size": (1, 32, 32), "mean": (0.3,), "std": (0.2,), "crop_pct": 1.0}
    ckpt = Checkpoint(model.state_dict(), "van", "van_b0", 3, 1, args, ["cat", "dog", "owl"], preprocessing)
    return model, write_checkpoint(ckpt, tmp_path_factory.mktemp("run") / "weights.safetensors")


def test_by_name():
    model = van.create_model("van_b0")
    assert isinstance(model, van.VAN)
    assert model.training
    assert model.num_classes == 1000
    assert van.create_model("van_b1", num_classes=7, device="meta").num_classes == 7
    assert van.create_model("van_b0", num_classes=0).num_classes == 0


def test_arguments_reach_the_model():
    model = van.create_model("van_b0", in_chans=4, drop_path_rate=0.3, lka_variant="sum", kernel_size=7)
    assert model.in_chans == 4
    assert model.stages[3].blocks[1].drop_path.drop_prob == pytest.approx(0.3)
    assert model.stages[0].blocks[0].attn.lka.variant == "sum"


def test_by_tag():
    model = van.create_model("van_b2.mmseg_in1k", device="meta")
    assert model.num_classes == 0
    assert model.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert van.create_model("van_b2.in1k", device="meta").pretrained_cfg["mean"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("name", [None, "van_b0", "van_b0.in1k"])
def test_from_a_file(name, as_folder, fine_tuned):
    expected, path = fine_tuned
    model = van.create_model(name, pretrained=path.parent if as_folder else str(path))
    assert (model.num_classes, model.in_chans) == (3, 1)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-4}
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(model.eval()(x), expected.eval()(x))
    assert model.pretrained_cfg["mean"] == (0.3,)
    assert timm.data.resolve_data_config(model=model)["input_size"] == (1, 32, 32)
    assert model.pretrained_cfg["num_classes"] == 3


def test_from_a_file_for_other_classes(fine_tuned):
    expected, path = fine_tuned
    torch.manual_seed(1)
    model = van.create_model(pretrained=path, num_classes=5, head_init_scale=0.001)
    assert model.num_classes == 5
    assert model.head.fc.weight.std() < 1e-4, "the new head is scaled"
    assert torch.equal(model.stages[3].norm.weight, expected.stages[3].norm.weight)
    assert van.create_model(pretrained=path, num_classes=0).num_classes == 0


def test_what_the_caller_says_wins_over_the_file(fine_tuned):
    _, path = fine_tuned
    model = van.create_model(
        pretrained=path, norm_eps=1e-3, drop_path_rate=0.5, pretrained_cfg_overlay={"mean": (0.9,)}
    )
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    assert model.pretrained_cfg["mean"] == (0.9,)
    with pytest.raises(WeightsError, match=r"attn\.lka\.dw_conv\.weight has shape \(32, 1, 3, 3\)"):
        van.create_model(pretrained=path, kernel_size=21, dilation=3)


def test_file_of_unknown_size_needs_a_name(tmp_path):
    small = van.create_model("van_b0", num_classes=2, depths=(1, 1, 1, 1))
    ckpt = Checkpoint(small.state_dict(), "van", None, 2, 3, {"depths": (1, 1, 1, 1)})
    path = write_checkpoint(ckpt, tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match=r"small\.safetensors: .* fit none of van_b0, .* Name the model"):
        van.create_model(pretrained=path)
    model = van.create_model("van_b0", pretrained=path)
    assert torch.equal(model.head.fc.weight, small.head.fc.weight)


@pytest.mark.parametrize("name", ["van_b7", "van-b0", "resnet18", "", None, "van_b0b", "vanb0.in1k"])
def test_unknown_name(name):
    with pytest.raises(VanError, match=r"There is no model .*expected one of van_b0, .*van_b6"):
        van.create_model(name)


def test_unknown_name_gets_a_hint():
    with pytest.raises(VanError, match="Did you mean van_b3"):
        van.create_model("van-b3")


def test_unknown_tag():
    with pytest.raises(VanError, match=r"no weights 'van_b0\.in99k', expected one of .*van_b0\.in1k"):
        van.create_model("van_b0.in99k")


@pytest.mark.parametrize("name", ["van_b0", "van_b0.transformers_in1k", "van_b0.mmseg_in1k"])
def test_download_without_network(name, monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.OpenerDirector.open", no_network)
    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"weights of {name} could not be downloaded .*give a weight file"):
        van.create_model(name, pretrained=True, cache_dir=tmp_path / "cache")


def test_missing_file_is_no_download():
    with pytest.raises(WeightsError, match=r"nowhere\.pth does not exist"):
        van.create_model("van_b0", pretrained="nowhere.pth")


def test_timm_lists_the_models():
    assert timm.list_models("van_*") == [f"van_b{i}" for i in range(7)]
    assert {"van_b0.in1k", "van_b6.mmseg_in22k"} <= set(timm.list_pretrained("van_*"))
    assert not [n for n in timm.list_pretrained("van_b4*") if not n.endswith("mmseg_in22k")]
