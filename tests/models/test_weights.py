import argparse
import copy
import json
import os
import pickle
import re

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import LayerNorm2d

import van
from van.errors import WeightsError
from van.models import read_checkpoint, write_checkpoint
from van.models.weights import Checkpoint, to_format

FORMATS = ("van", "official", "transformers", "mmpretrain", "mmsegmentation")


def same(first, second):
    assert set(first) == set(second)
    for key, tensor in first.items():
        assert tensor.dtype == second[key].dtype, key
        assert torch.equal(tensor, second[key]), key


def norm_eps(model):
    found = {m.eps for m in model.modules() if isinstance(m, LayerNorm2d)}
    assert len(found) == 1
    return found.pop()


@pytest.fixture(scope="session")
def foreign(official_b0):
    """The same B0 weights as each publisher names them; renamed here by rules of our own, key by key."""

    def to_transformers(key):
        if key.startswith("head."):
            return key.replace("head.", "classifier.")
        if match := re.fullmatch(r"patch_embed(\d)\.(proj|norm)\.(\w+)", key):
            part = {"proj": "convolution", "norm": "normalization"}[match[2]]
            return f"van.encoder.stages.{int(match[1]) - 1}.embeddings.{part}.{match[3]}"
        if match := re.fullmatch(r"norm(\d)\.(\w+)", key):
            return f"van.encoder.stages.{int(match[1]) - 1}.normalization.{match[2]}"
        match = re.fullmatch(r"block(\d)\.(\d+)\.(.+)", key)
        rest = match[3]
        for theirs, hugging_face in {
            "norm1": "pre_normomalization",
            "norm2": "post_normalization",
            "layer_scale_1": "attention_scaling.weight",
            "layer_scale_2": "mlp_scaling.weight",
            "attn.proj_1": "attention.pre_projection.conv",
            "attn.proj_2": "attention.post_projection",
            "attn.spatial_gating_unit.conv0": "attention.attention_layer.attention.depth_wise",
            "attn.spatial_gating_unit.conv_spatial": "attention.attention_layer.attention.depth_wise_dilated",
            "attn.spatial_gating_unit.conv1": "attention.attention_layer.attention.point_wise",
            "mlp.fc1": "mlp.in_dense",
            "mlp.dwconv.dwconv": "mlp.depth_wise",
            "mlp.fc2": "mlp.out_dense",
        }.items():
            if rest == theirs or rest.startswith(theirs + "."):
                rest = hugging_face + rest[len(theirs) :]
                break
        return f"van.encoder.stages.{int(match[1]) - 1}.layers.{match[2]}.{rest}"

    def to_mmpretrain(key):
        if key.startswith("head."):
            return key.replace("head.", "head.fc.")
        key = key.replace("proj.", "projection.") if key.startswith("patch_embed") else key
        key = re.sub(r"^block", "blocks", key).replace("conv0", "DW_conv").replace("conv_spatial", "DW_D_conv")
        return "backbone." + key.replace("dwconv.dwconv", "dwconv")

    backbone = {k: v for k, v in official_b0.items() if not k.startswith("head.")}
    transformers = {to_transformers(k): v for k, v in official_b0.items()}
    unused = {"van.layernorm.weight": torch.ones(256), "van.layernorm.bias": torch.zeros(256)}
    return {
        "official": official_b0,
        "transformers": transformers | unused,
        "mmpretrain": {to_mmpretrain(k): v for k, v in official_b0.items()},
        "mmsegmentation": backbone,
    }


@pytest.fixture(scope="session")
def ours_b0(official_b0, tmp_path_factory):
    """The weights of official_b0 in our names."""
    path = tmp_path_factory.mktemp("official") / "b0.pth.tar"
    torch.save({"state_dict": official_b0}, path)
    return read_checkpoint(path).state_dict


@pytest.fixture
def save(tmp_path):
    def save(content, name="weights.pth"):
        path = tmp_path / name
        if name.endswith(".safetensors"):
            safetensors.torch.save_file(content, path)
        else:
            torch.save(content, path)
        return path

    return save


def new_b0(**kwargs):
    torch.manual_seed(1)
    return timm.create_model("van_b0", **kwargs).eval()


def refused(model, path, **kwargs):
    """Load what must not load; return the message, after a look that the model is as it was."""
    before, eps = copy.deepcopy(model.state_dict()), norm_eps(model)
    with pytest.raises(WeightsError) as caught:
        van.load_weights(model, path, **kwargs)
    same(model.state_dict(), before)
    assert norm_eps(model) == eps
    message = str(caught.value)
    assert str(path) in message
    return message


# ------------------------------------------------------------------------------------------------ read


def test_our_names_are_those_of_the_model(ours_b0):
    model = new_b0()
    assert {k: v.shape for k, v in ours_b0.items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_official_names_of_what_we_write(official_shapes):
    for name in ("van_b0", "van_b1"):
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        written = to_format(Checkpoint(state, "van", name, 1000, 3), "official")
        assert {k: list(v.shape) for k, v in written.items()} == official_shapes[name]


WRAPPERS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 300, "arch": "van_b0", "args": argparse.Namespace(lr=1e-3)},
    "22K model": lambda s: {"model": s},
    "22K module": lambda s: {"module": s},
    "nested": lambda s: {"state_dict": {"model": s}},
    "DDP": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "DDP under module": lambda s: {"module": {f"module.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {"model": {f"_orig_mod.{k}": v for k, v in s.items()}},
    "averaged": lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper, official_b0, ours_b0, save):
    path = save(WRAPPERS[wrapper](official_b0), "van_tiny_754.pth.tar")
    found = read_checkpoint(path)
    assert (found.format, found.variant, found.num_classes, found.in_chans) == ("official", "van_b0", 1000, 3)
    same(found.state_dict, ours_b0)
    model = new_b0()
    van.load_weights(model, path)
    same(model.state_dict(), ours_b0)
    # timm reads the file itself and hands the tensors over
    same(new_b0(pretrained=True, pretrained_cfg_overlay={"file": str(path)}).state_dict(), ours_b0)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_transformers(name, foreign, ours_b0, save, tmp_path):
    path = save(foreign["transformers"], name)
    found = read_checkpoint(tmp_path)  # the folder
    assert (found.format, found.variant, found.num_classes, found.class_names) == ("transformers", "van_b0", 1000, None)
    assert found.source == str(path)
    assert sorted(found.left_out) == ["van.layernorm.bias", "van.layernorm.weight"]
    same(found.state_dict, ours_b0)

    labels = {str(i): f"LABEL_{i}" for i in range(1000)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
    assert read_checkpoint(path).class_names is None, "placeholders are no names"
    labels = {str(i): f"class {i}" for i in range(1000)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels, "layer_norm_eps": 1e-5}))
    found = read_checkpoint(path)
    assert found.class_names == [f"class {i}" for i in range(1000)]
    model = new_b0()
    van.load_weights(model, tmp_path)
    same(model.state_dict(), ours_b0)
    assert norm_eps(model) == 1e-5

    (tmp_path / "config.json").write_text('{"id2label": [1, ')
    with pytest.raises(WeightsError, match=r"config\.json is not a configuration"):
        read_checkpoint(path)


def test_transformers_without_classifier(foreign, save):
    state = {k.removeprefix("van."): v for k, v in foreign["transformers"].items() if not k.startswith("classifier")}
    found = read_checkpoint(save(state))
    assert (found.format, found.variant, found.num_classes) == ("transformers", "van_b0", 0)


def test_mmpretrain(foreign, ours_b0, save):
    path = save({"meta": {"epoch": 1}, "state_dict": foreign["mmpretrain"]})
    found = read_checkpoint(path)
    assert (found.format, found.variant, found.num_classes) == ("mmpretrain", "van_b0", 1000)
    same(found.state_dict, ours_b0)
    model = new_b0()
    assert norm_eps(model) == 1e-6
    van.load_weights(model, path)
    assert norm_eps(model) == 1e-5


def test_mmsegmentation(foreign, ours_b0, save):
    backbone = foreign["mmsegmentation"]
    extra = {"decode_head.conv_seg.weight": 2, "auxiliary_head.convs.0.conv.weight": 3, "neck.fpn.bias": 4}
    extra = {k: torch.zeros(n) for k, n in extra.items()}
    full = {f"backbone.{k}": v for k, v in backbone.items()} | extra
    expected = {k: v for k, v in ours_b0.items() if not k.startswith("head.")}
    for state, left_out in ((backbone, []), (full, sorted(extra))):
        path = save({"state_dict": state})
        found = read_checkpoint(path)
        assert (found.format, found.variant, found.num_classes) == ("mmsegmentation", "van_b0", 0)
        assert found.preprocessing["mean"] == (0.485, 0.456, 0.406)
        assert sorted(found.left_out) == left_out
        same(found.state_dict, expected)
        model = new_b0(num_classes=0)
        van.load_weights(model, path)
        same(model.state_dict(), expected)
        assert norm_eps(model) == 1e-5


def test_official_preprocessing_and_eps(official_b0, save):
    path = save(official_b0)
    assert read_checkpoint(path).preprocessing["mean"] == (0.5, 0.5, 0.5)
    model = new_b0(norm_eps=1e-3)
    van.load_weights(model, path)
    assert norm_eps(model) == 1e-6


def test_files_of_older_torch(official_b0, ours_b0, tmp_path):
    torch.save(official_b0, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same(read_checkpoint(tmp_path / "old.pth").state_dict, ours_b0)


def test_other_sizes_are_recognised(official_b1, save):
    found = read_checkpoint(save(official_b1))
    assert found.variant == "van_b1"
    assert "van_b1" in found.describe()
    assert "1000 classes" in found.describe()


def test_half_precision_weights_load_into_float32(official_b0, save):
    path = save({k: v.half() if v.is_floating_point() else v for k, v in official_b0.items()})
    model = new_b0()
    van.load_weights(model, path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.head.fc.weight, official_b0["head.weight"].half().float())


# ------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("format", FORMATS)
def test_van_to_format_and_back(format, suffix, ours_b0, tmp_path):
    suffix = ".safetensors" if format == "van" else suffix
    names = [f"class {i}" for i in range(1000)]
    preprocessing = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"}
    start = Checkpoint(ours_b0, "van", "van_b0", 1000, 3, {"norm_eps": 1e-6}, names, preprocessing)
    written = write_checkpoint(start, tmp_path / f"out{suffix}", format)
    found = read_checkpoint(written)
    assert (found.format, found.variant) == (format, "van_b0")
    expected = ours_b0
    if format == "mmsegmentation":
        expected = {k: v for k, v in ours_b0.items() if not k.startswith("head.")}
    same(found.state_dict, expected)
    if (format, suffix) != ("transformers", ".pth"):  # transformers wants bare tensors
        assert found.preprocessing == preprocessing
        assert found.class_names == names
        assert found.model_args == {"norm_eps": 1e-6}
    again = write_checkpoint(found, tmp_path / "again.safetensors", "van")
    same(read_checkpoint(again).state_dict, expected)


@pytest.mark.parametrize("format", FORMATS[1:])
def test_format_to_van_and_back(format, foreign, save, tmp_path):
    first = read_checkpoint(save(foreign[format]))
    assert first.format == format
    through = read_checkpoint(write_checkpoint(first, tmp_path / "ours.safetensors"))
    assert through.format == "van"
    assert (through.model_args, through.preprocessing) == (first.model_args, first.preprocessing)
    write_checkpoint(through, tmp_path / "back.safetensors", format)
    same(safetensors.torch.load_file(tmp_path / "back.safetensors"), foreign[format])
    write_checkpoint(through, tmp_path / "back.bin", format)
    content = torch.load(tmp_path / "back.bin", weights_only=True)
    same(content if format == "transformers" else content["state_dict"], foreign[format])


def test_transformers_folder(ours_b0, tmp_path):
    names = [f"digit {i}" for i in range(1000)]
    ckpt = Checkpoint(ours_b0, "van", "van_b0", 1000, 3, {"norm_eps": 1e-5}, names)
    assert write_checkpoint(ckpt, tmp_path / "hf", "transformers") == tmp_path / "hf" / "model.safetensors"
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["hidden_sizes"] == [32, 64, 160, 256]
    assert config["depths"] == [3, 3, 5, 2]
    assert config["layer_norm_eps"] == 1e-5
    assert config["id2label"]["7"] == "digit 7"
    found = read_checkpoint(tmp_path / "hf")
    assert (found.class_names, found.model_args) == (names, {"norm_eps": 1e-5})


def test_eps_survives_every_way(foreign, save, tmp_path):
    path = save(foreign["mmpretrain"])
    ours = write_checkpoint(read_checkpoint(path), tmp_path / "ours.safetensors")
    for file in (path, ours):
        assert norm_eps(van.create_model(pretrained=file)) == 1e-5
        assert norm_eps(new_b0(pretrained=True, pretrained_cfg_overlay={"file": str(file)})) == 1e-5
        model = new_b0()
        van.load_weights(model, file)
        assert norm_eps(model) == 1e-5


def test_ablations_are_written_in_our_format_only(tmp_path):
    model = van.create_model("van_b0", num_classes=3, lka_variant="sum")
    ckpt = Checkpoint(model.state_dict(), "van", "van_b0", 3, 3, {"lka_variant": "sum"})
    path = write_checkpoint(ckpt, tmp_path / "sum.safetensors")
    assert van.create_model(pretrained=path).stages[0].blocks[0].attn.lka.variant == "sum"
    with pytest.raises(WeightsError, match="cannot hold lka_variant='sum'"):
        write_checkpoint(ckpt, tmp_path / "sum.pth", "official")
    assert "lka_variant='sum', the model has 'full'" in refused(new_b0(num_classes=3), path)

    model = van.create_model("van_b0", num_classes=3, lka_variant="dense", depths=(1, 1, 1, 1))
    ckpt = Checkpoint(model.state_dict(), "van", None, 3, 3, {"lka_variant": "dense"})
    write_checkpoint(ckpt, tmp_path / "dense.safetensors")
    other = van.create_model("van_b0", num_classes=3, lka_variant="dense", depths=(1, 1, 1, 1))
    van.load_weights(other, tmp_path / "dense.safetensors")
    same(other.state_dict(), model.state_dict())


# ------------------------------------------------------------------------------------------------ through timm


@pytest.mark.parametrize("format", FORMATS)
def test_timm_reads_every_format(format, foreign, ours_b0, save, tmp_path):
    if format == "van":
        path = write_checkpoint(Checkpoint(ours_b0, "van", "van_b0", 1000, 3), tmp_path / "ours.safetensors")
    else:
        path = save({"state_dict": foreign[format]} if format != "transformers" else foreign[format])
    overlay = {"file": str(path), "num_classes": 0 if format == "mmsegmentation" else 1000}
    x = torch.randn(1, 3, 32, 32)

    features = new_b0(pretrained=True, features_only=True, pretrained_cfg_overlay=overlay)
    plain = new_b0(num_classes=0, norm_eps=1e-5 if format.startswith("mm") else 1e-6)
    plain.load_state_dict({k: v for k, v in ours_b0.items() if not k.startswith("head.")})
    with torch.inference_mode():
        for ours, expected in zip(features(x), plain.forward_intermediates(x, intermediates_only=True), strict=True):
            torch.testing.assert_close(ours, expected)

    grey = new_b0(pretrained=True, num_classes=10, in_chans=1, pretrained_cfg_overlay=overlay)
    assert grey(x[:, :1]).shape == (1, 10)
    changed = {k for k, v in grey.state_dict().items() if k not in ours_b0 or not torch.equal(v, ours_b0[k])}
    assert changed == {"stages.0.patch_embed.proj.weight", "head.fc.weight", "head.fc.bias"}
    stem = ours_b0["stages.0.patch_embed.proj.weight"]
    torch.testing.assert_close(grey.stages[0].patch_embed.proj.weight.data, stem.sum(1, keepdim=True))


def test_timm_takes_a_fine_tuned_file(official_b0, save):
    state = official_b0 | {"head.weight": torch.ones(7, 256), "head.bias": torch.ones(7)}
    path = save(state)
    with pytest.raises(WeightsError, match="num_classes=7 to pretrained_cfg_overlay"):
        new_b0(pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    model = new_b0(pretrained=True, pretrained_cfg_overlay={"file": str(path), "num_classes": 7})
    assert torch.equal(model.head.fc.weight, torch.ones(7, 256))


def test_timm_refuses_what_does_not_fit(official_b1, save):
    path = save(official_b1)
    with pytest.raises(WeightsError, match=r"(?s)weights\.pth: .*\(64,.*\(32,.*create_model\('van_b1'\)"):
        new_b0(pretrained=True, pretrained_cfg_overlay={"file": str(path)})


def hub_cache(cache, repo, file, content):
    folder = cache / f"models--{repo.replace('/', '--')}"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    torch.save(content, folder / "snapshots" / revision / file)


@pytest.fixture
def offline(monkeypatch):
    """The hub client without network; it fails at once instead of trying."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the test reached for the network"))


@pytest.mark.usefixtures("offline")
def test_published_file_from_the_hub_cache(official_b0, ours_b0, tmp_path):
    content = {"state_dict": official_b0}
    hub_cache(tmp_path, "Visual-Attention-Network/VAN-Tiny-original", "van_tiny_754.pth.tar", content)
    model = timm.create_model("van_b0", pretrained=True, cache_dir=tmp_path)
    same(model.state_dict(), ours_b0)
    assert model.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    same(van.create_model("van_b0.in1k", pretrained=True, cache_dir=tmp_path).state_dict(), ours_b0)
    assert van.create_model("van_b0", pretrained="hub", num_classes=4, cache_dir=tmp_path).num_classes == 4
    features = timm.create_model("van_b0", pretrained=True, features_only=True, in_chans=4, cache_dir=tmp_path)
    assert features(torch.randn(2, 4, 64, 64))[-1].shape == (2, 256, 2, 2)


@pytest.mark.usefixtures("offline")
def test_transformers_file_from_the_hub_cache(foreign, ours_b0, tmp_path):
    hub_cache(tmp_path, "Visual-Attention-Network/van-tiny", "pytorch_model.bin", foreign["transformers"])
    model = timm.create_model("van_b0.transformers_in1k", pretrained=True, cache_dir=tmp_path)
    same(model.state_dict(), ours_b0)


@pytest.mark.usefixtures("offline")
def test_openmmlab_file_from_the_torch_cache(foreign, tmp_path):
    torch.save({"state_dict": foreign["mmsegmentation"]}, tmp_path / "van-b0_3rdparty_20230522-956f5e0d.pth")
    model = timm.create_model("van_b0.mmseg_in1k", pretrained=True, cache_dir=tmp_path)
    assert (model.num_classes, norm_eps(model)) == (0, 1e-5)
    assert model.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    features = timm.create_model("van_b0.mmseg_in1k", pretrained=True, cache_dir=tmp_path, features_only=True)
    assert len(features(torch.randn(2, 3, 64, 64))) == 4


@pytest.mark.usefixtures("offline")
def test_damaged_file_in_the_hub_cache(official_b0, tmp_path):
    hub_cache(tmp_path, "Visual-Attention-Network/VAN-Tiny-original", "van_tiny_754.pth.tar", official_b0)
    file = next(tmp_path.rglob("van_tiny_754.pth.tar"))
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"(?s)van_b0 cannot be read, the file may be truncated.*cache"):
        van.create_model("van_b0", pretrained=True, cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["van_b4", "van_b5", "van_b6"])
def test_unpublished_weights_name_what_exists(name):
    for create in (timm.create_model, van.create_model):
        with pytest.raises(WeightsError) as caught:
            create(name, pretrained=True)
        for word in (name, f"{name}.mmseg_in22k", "van_b0.in1k", "van_b3.in1k", "pretrained=False"):
            assert word in str(caught.value)


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("name", ["cut.pth", "old.pth", "cut.safetensors"])
def test_truncated_file(name, official_b0, tmp_path):
    path = tmp_path / name
    if name == "cut.safetensors":
        safetensors.torch.save_file(official_b0, path)
    else:
        torch.save(official_b0, path, _use_new_zipfile_serialization=name == "cut.pth")
    content = path.read_bytes()
    model = new_b0()
    for size in (-1, 1_000_000, 5_000, 100, 9, 5, 0):
        path.write_bytes(content[:size])
        assert re.search("truncated|damaged", refused(model, path))


@pytest.mark.parametrize(
    "content", [b"These are not weights.\n" * 40, b"\x80\x04.", b"(lp0\n.", b'{"a": 1}  {  ', os.urandom(4096)]
)
def test_something_else_in_the_file(content, tmp_path):
    (tmp_path / "notes.pth").write_bytes(content)
    refused(new_b0(), tmp_path / "notes.pth")


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2], "text", {"epoch": 3}, {1: torch.ones(2)}, None])
def test_file_without_tensors(content, save):
    assert "holds no tensors" in refused(new_b0(), save(content))


def test_file_that_holds_itself(save):
    content = {}
    content["state_dict"] = content
    assert "holds no tensors" in refused(new_b0(), save(content))


def test_another_network(save):
    resnet = timm.create_model("resnet18").state_dict()
    message = refused(new_b0(), save(resnet))
    assert "holds no VAN" in message
    assert "conv1.weight" in message


def test_larger_variant(official_b1, save):
    path = save({"state_dict": official_b1})
    message = refused(new_b0(), path)
    for word in ("patch_embed1.proj.weight", "(64, 3, 7, 7)", "(32, 3, 7, 7)", "van_b0", "create_model('van_b1')"):
        assert word in message
    with pytest.raises(WeightsError, match=r"create_model\('van_b1'\)"):
        van.create_model("van_b0", pretrained=path)


def test_deeper_variant(tmp_path):
    """B3 has the channels of B2 and more blocks."""
    deep = timm.create_model("van_b3", num_classes=2)
    path = write_checkpoint(Checkpoint(deep.state_dict(), "van", "van_b3", 2, 3), tmp_path / "b3.safetensors")
    message = refused(timm.create_model("van_b2", num_classes=2), path)
    assert "stages.1.blocks.3." in message
    assert "create_model('van_b3')" in message


def test_missing_key(official_b0, save):
    state = {k: v for k, v in official_b0.items() if k != "block2.1.mlp.fc1.weight"}
    message = refused(new_b0(), save(state))
    for word in ("missing", "block2.1.mlp.fc1.weight", "stages.1.blocks.1.mlp.fc1.weight", "(512, 64, 1, 1)"):
        assert word in message


def test_missing_head_bias(official_b0, save):
    message = refused(new_b0(), save({k: v for k, v in official_b0.items() if k != "head.bias"}))
    assert "missing, first head.bias" in message


@pytest.mark.parametrize("format", FORMATS)
def test_extra_key(format, foreign, ours_b0, save):
    state = dict(ours_b0 if format == "van" else foreign[format])
    state["block9.surprise.weight"] = torch.zeros(2, 5)
    model = new_b0(num_classes=0 if format == "mmsegmentation" else 1000)
    message = refused(model, save(state))
    assert "block9.surprise.weight" in message
    assert "(2, 5)" in message


def test_wrong_shape_of_one_tensor(official_b0, save):
    message = refused(new_b0(), save(official_b0 | {"block1.0.attn.proj_1.weight": torch.zeros(32, 16, 1, 1)}))
    for word in ("block1.0.attn.proj_1.weight", "(32, 16, 1, 1)", "(32, 32, 1, 1)"):
        assert word in message


def test_another_number_of_classes(official_b0, ours_b0, save):
    path = save(official_b0)
    model = new_b0(num_classes=10)
    message = refused(model, path)
    for word in ("head.weight", "(1000, 256)", "(10, 256)", "num_classes=10"):
        assert word in message
    assert "num_classes is 11, but the model has 10" in str(refused_argument(model, path))

    head = model.head.fc.weight.clone()
    van.load_weights(model, path, num_classes=10)
    assert torch.equal(model.head.fc.weight, head), "the classifier that the model had stays"
    same(
        {k: v for k, v in model.state_dict().items() if "head" not in k},
        {k: v for k, v in ours_b0.items() if "head" not in k},
    )
    model = van.create_model("van_b0", pretrained=path, num_classes=10)
    assert model.num_classes == 10


def refused_argument(model, path):
    with pytest.raises(WeightsError) as caught:
        van.load_weights(model, path, num_classes=11)
    return caught.value


def test_matching_classes_are_loaded_although_asked_for(official_b0, save):
    model = new_b0()
    van.load_weights(model, save(official_b0), num_classes=1000)
    assert torch.equal(model.head.fc.weight, official_b0["head.weight"])


def test_file_without_classifier(foreign, save):
    path = save(foreign["mmsegmentation"])
    message = refused(new_b0(), path)
    for word in ("no classifier", "(1000, 256)", "num_classes=1000"):
        assert word in message
    van.load_weights(new_b0(), path, num_classes=1000)
    van.load_weights(new_b0(num_classes=0), path)
    with pytest.raises(WeightsError, match="num_classes=0 to pretrained_cfg_overlay"):
        new_b0(pretrained=True, pretrained_cfg_overlay={"file": str(path)})


def test_model_without_classifier_takes_the_backbone(official_b0, ours_b0, save):
    model = new_b0(num_classes=0)
    van.load_weights(model, save(official_b0))
    same(model.state_dict(), {k: v for k, v in ours_b0.items() if not k.startswith("head.")})


def test_stem_is_adapted_to_other_channels(official_b0, save):
    path = save(official_b0)
    stem = official_b0["patch_embed1.proj.weight"]
    for model in (new_b0(in_chans=1), van.create_model("van_b0", in_chans=1)):
        van.load_weights(model, path)
        torch.testing.assert_close(model.stages[0].patch_embed.proj.weight.data, stem.sum(1, keepdim=True))
    assert van.create_model(pretrained=path, in_chans=5).in_chans == 5

    grey = save(official_b0 | {"patch_embed1.proj.weight": stem[:, :1]}, "grey.pth")
    assert read_checkpoint(grey).in_chans == 1
    assert van.create_model(pretrained=grey).in_chans == 1
    message = refused(new_b0(), grey)
    assert "(32, 1, 7, 7)" in message


class Malicious:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # from torch, where timm reads the file
@pytest.mark.parametrize("how", ["zip", "old", "pickle"])
@pytest.mark.parametrize("function", ["os.system", "builtins.exec"])
def test_malicious_pickle_is_refused_and_not_run(function, how, official_b0, tmp_path):
    victim = tmp_path / "victim"
    call = {
        "os.system": (os.system, f"touch {victim}"),
        "builtins.exec": (exec, f"open({str(victim)!r}, 'w').close()"),
    }[function]
    content = {"state_dict": official_b0, "extra": Malicious(*call)}
    path = tmp_path / "evil.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(*call)))  # not the protocol of torch.save
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    message = refused(new_b0(), path)
    assert not victim.exists()
    assert "nothing in it was run" in message
    assert how == "pickle" or function.split(".")[1] in message
    with pytest.raises(RuntimeError):
        new_b0(pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert not victim.exists()
    if how == "zip":  # the file is really dangerous
        torch.load(path, weights_only=False)
        assert victim.exists()


def test_missing_path_and_empty_folder(tmp_path):
    assert "does not exist" in refused(new_b0(), tmp_path / "nothing.pth")
    message = refused(new_b0(), tmp_path)
    assert "folder without weights.safetensors, model.safetensors or pytorch_model.bin" in message
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / ("x" * 300))


def test_folder_prefers_our_weights(ours_b0, foreign, save, tmp_path):
    save(foreign["transformers"], "model.safetensors")
    write_checkpoint(Checkpoint(ours_b0, "van", "van_b0", 1000, 3), tmp_path / "weights.safetensors")
    assert read_checkpoint(tmp_path).format == "van"


# ------------------------------------------------------------------------------------------------ write


def test_unwritable_destination(ours_b0, tmp_path):
    ckpt = Checkpoint(ours_b0, "van", "van_b0", 1000, 3)
    (tmp_path / "file").write_text("kept")
    for to, path in (
        ("van", tmp_path / "file" / "x.safetensors"),
        ("official", tmp_path / "file" / "x.pth"),
        ("transformers", tmp_path / "file" / "hf"),
    ):
        with pytest.raises(WeightsError, match="cannot be written"):
            write_checkpoint(ckpt, path, to)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError, match="cannot be written"):
        write_checkpoint(ckpt, tmp_path / "folder.pth", "official")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.pth"], "nothing is left over"


def test_failed_write_keeps_the_old_file(ours_b0, tmp_path, monkeypatch):
    ckpt = Checkpoint(ours_b0, "van", "van_b0", 1000, 3)
    path = write_checkpoint(ckpt, tmp_path / "w.safetensors")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(WeightsError, match="No space left on device"):
        write_checkpoint(Checkpoint({}, "van", None, 0, 3), path)
    same(read_checkpoint(path).state_dict, ours_b0)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_written_files_have_ordinary_permissions(ours_b0, tmp_path):
    path = write_checkpoint(Checkpoint(ours_b0, "van", "van_b0", 1000, 3), tmp_path / "new" / "w.safetensors")
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_wrong_format_or_suffix(ours_b0, tmp_path):
    ckpt = Checkpoint(ours_b0, "van", "van_b0", 1000, 3)
    with pytest.raises(WeightsError, match="'onnx', expected one of van, official"):
        write_checkpoint(ckpt, tmp_path / "x.pth", "onnx")
    with pytest.raises(WeightsError, match=r"should end in \.safetensors"):
        write_checkpoint(ckpt, tmp_path / "x.pth", "van")
