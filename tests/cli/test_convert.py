import pytest
import safetensors.torch
import torch

from van.models import read_checkpoint


@pytest.fixture
def source(official_b0, tmp_path):
    path = tmp_path / "van_tiny_754.pth.tar"
    torch.save({"state_dict": official_b0}, path)
    return path


@pytest.mark.parametrize("form", ["van", "official", "transformers", "mmpretrain"])
def test_round_trip_returns_identical_tensors(van, source, official_b0, tmp_path, form):
    status, out, err = van("convert", source, "there.safetensors", "--to", form)
    assert status == 0, err
    assert "van_b0 with 1000 classes, official format" in out
    assert van("convert", "there.safetensors", "back.pth", "--to", "official")[0] == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert back.keys() == official_b0.keys()
    assert all(torch.equal(back[k], v) for k, v in official_b0.items())


def test_segmentation_backbone_has_no_classifier_and_says_so(van, source, tmp_path):
    status, out, _ = van("convert", source, "backbone.pth", "--to", "mmsegmentation")
    assert status == 0
    assert "left out: the classifier" in out
    assert read_checkpoint(tmp_path / "backbone.pth").num_classes == 0


def test_transformers_folder(van, source, tmp_path):
    assert van("convert", source, "folder", "--to", "transformers")[0] == 0
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["config.json", "model.safetensors"]
    tensors = safetensors.torch.load_file(tmp_path / "folder" / "model.safetensors")
    assert "van.encoder.stages.0.layers.0.pre_normomalization.weight" in tensors


def test_existing_file_is_kept_unless_asked(van, source, tmp_path):
    (tmp_path / "there.safetensors").write_text("precious")
    status, _, err = van("convert", source, "there.safetensors", "--to", "van")
    assert status == 1
    assert "--overwrite" in err
    assert (tmp_path / "there.safetensors").read_text() == "precious"
    assert van("convert", source, "there.safetensors", "--to", "van", "--overwrite")[0] == 0
    assert read_checkpoint(tmp_path / "there.safetensors").variant == "van_b0"


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["gone.pth", "x.safetensors", "--to", "van"], 1, "gone.pth does not exist"),
        (["van_tiny_754.pth.tar", "x.pth", "--to", "van"], 1, ".safetensors"),
        (["van_tiny_754.pth.tar", "x.pth", "--to", "keras"], 2, "keras"),
        (["van_tiny_754.pth.tar", "van_tiny_754.pth.tar/x.pth", "--to", "official"], 1, "x.pth"),
    ],
)
def test_errors_are_one_sentence(van, source, tmp_path, arguments, status, word):
    before = sorted(tmp_path.iterdir())
    result, _, err = van("convert", *arguments)
    assert result == status
    assert word in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
