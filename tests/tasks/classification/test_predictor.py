"""A classifier on images of every form: what `van.load` gives."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import van
from van.errors import DataError, VanError, WeightsError
from van.models import write_checkpoint
from van.models.weights import Checkpoint
from van.tasks.classification.results import Classification
from van.tasks.classification.task import imagenet_class_names

NAMES = ["cat", "dog", "fox"]
SIZE = 40


def write_weights(path, num_classes=3, class_names=None, in_chans=3, **args):
    """Random weights of a tiny VAN, with what training writes beside them."""
    torch.manual_seed(0)
    tiny = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), **args}
    model = van.create_model("van_b0", num_classes=num_classes, in_chans=in_chans, **tiny)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)  # logits that differ clearly
    preprocessing = {
        "input_size": [in_chans, 32, 32], "mean": [0.5] * in_chans, "std": [0.25] * in_chans,
        "interpolation": "bicubic", "crop_pct": 1.0,
    }  # fmt: skip
    ckpt = Checkpoint(
        state_dict=model.state_dict(), format="van", variant="van_b0", num_classes=num_classes, in_chans=in_chans,
        model_args=tiny, class_names=class_names, preprocessing=preprocessing,
    )  # fmt: skip
    return write_checkpoint(ckpt, path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors", class_names=NAMES)


@pytest.fixture(scope="module")
def predictor(weights):
    return van.load(weights, device="cpu", batch_size=4)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    # lossless, so that a picture is the same in every form
    folder = tmp_path_factory.mktemp("images")
    for seed in range(10):
        picture(seed).save(folder / f"{seed}.png")
    return [folder / f"{seed}.png" for seed in range(10)]


def same(first, second):
    assert first.classes == second.classes
    assert first.labels.tolist() == second.labels.tolist()
    assert first.probabilities == pytest.approx(second.probabilities, abs=1e-6)


def test_prediction_is_the_models(predictor, files):
    result = predictor(files[0])
    tensor = torch.from_numpy(np.asarray(picture(0).resize((32, 32), Image.Resampling.BICUBIC)).copy())
    with torch.no_grad():
        logits = predictor.model((tensor.permute(2, 0, 1)[None] / 255 - 0.5) / 0.25)[0]
    expected = logits.softmax(dim=0)
    assert result.labels.tolist() == expected.argsort(descending=True).tolist()
    assert result.classes == [NAMES[i] for i in result.labels]
    assert result.probabilities == pytest.approx(expected.sort(descending=True).values.numpy(), abs=1e-5)
    assert sum(result.probabilities) == pytest.approx(1)
    assert not predictor.model.training


def test_every_form_of_an_image(predictor, files):
    expected = predictor(files[0])
    assert isinstance(expected, Classification)
    array = np.asarray(picture(0))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    data = files[0].read_bytes()
    with files[0].open("rb") as file:
        same(predictor(file), expected)
    for form in (str(files[0]), data, io.BytesIO(data), picture(0), array, array / 255, tensor, tensor / 255):
        same(predictor(form), expected)


def test_several_images(predictor, files):
    expected = [predictor(file) for file in files]
    assert len({float(result.probabilities[0]) for result in expected}) == 10
    arrays = np.stack([np.asarray(picture(seed)) for seed in range(10)])
    tensors = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    mixed = [files[0], str(files[1]), files[2].read_bytes(), picture(3), arrays[4], tensors[5], *files[6:]]
    for form in (files, tuple(files), iter(files), arrays, tensors, list(arrays), mixed):
        results = predictor(form)
        assert isinstance(results, list)
        for result, one in zip(results, expected, strict=True):
            same(result, one)
    (single,) = predictor([files[0]])
    same(single, expected[0])
    assert predictor([]) == []


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_batch_size_does_not_matter(weights, predictor, files, batch_size):
    for result, expected in zip(van.load(weights, "cpu", batch_size)(files), predictor(files), strict=True):
        same(result, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_keeps_the_order(predictor, files, workers):
    chosen = [files[i] for i in (3, 1, 4, 1, 5, 9, 2, 6)]
    for file, result in zip(chosen, predictor.stream(chosen, workers=workers), strict=True):
        same(result, predictor(file))


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_goes_on_after_a_broken_image(predictor, files, tmp_path, workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:300])
    results = list(predictor.stream([files[0], broken, files[1], "missing.png", *[broken] * 5], workers=workers))
    same(results[0], predictor(files[0]))
    same(results[2], predictor(files[1]))
    for index in (1, 3, *range(4, 9)):
        assert isinstance(results[index], DataError)
    assert "broken.png" in str(results[1])
    assert "missing.png" in str(results[3])


def test_call_raises_for_a_broken_image(predictor, files, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.png"):
        predictor([files[0], tmp_path / "broken.png"])
    with pytest.raises(DataError, match="Image 2 is"):
        predictor([files[0], b"nothing"])
    with pytest.raises(DataError, match="not an image"):
        predictor(b"nothing")
    with pytest.raises(DataError, match="folder"):
        predictor(tmp_path)


@pytest.mark.parametrize("top_k", [1, 2, 3, 50])
def test_top_k(weights, predictor, files, top_k):
    result = van.load(weights, "cpu", top_k=top_k)(files[0])
    count = min(top_k, 3)
    assert len(result.classes) == len(result.labels) == len(result.probabilities) == count
    assert result.labels.tolist() == predictor(files[0]).labels.tolist()[:count]
    assert result.probabilities.tolist() == sorted(result.probabilities, reverse=True)


def test_no_class_at_all_is_refused(weights):
    with pytest.raises(VanError, match="top_k is 0"):
        van.load(weights, "cpu", top_k=0)


def test_class_names(tmp_path, files):
    numbers = van.load(write_weights(tmp_path / "3.safetensors"), "cpu")
    assert numbers.class_names == ["0", "1", "2"]
    thousand = van.load(write_weights(tmp_path / "1000.safetensors", 1000), "cpu")
    assert thousand.class_names == imagenet_class_names()
    assert thousand.class_names[1].startswith("goldfish")
    assert len(thousand(files[0]).classes) == 5
    own = van.load(write_weights(tmp_path / "own.safetensors", 1000, [f"c{i}" for i in range(1000)]), "cpu")
    assert own.class_names[999] == "c999"


def test_preprocessing_comes_from_the_file(predictor):
    expected = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 1.0}
    found = {key: predictor.extra["preprocessing"][key] for key in expected}
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()} == expected


def test_one_channel(tmp_path):
    predictor = van.load(write_weights(tmp_path / "grey.safetensors", in_chans=1), "cpu")
    grey = picture(0).convert("L")
    expected = predictor(grey)
    same(predictor(np.asarray(grey)), expected)
    same(predictor(torch.from_numpy(np.asarray(grey).copy())[None]), expected)
    same(predictor(grey.convert("RGB")), expected)
    colour = predictor(picture(0))
    same(colour, expected)
    assert colour.image.mode == "RGB"  # what is drawn stays in color
    assert expected.draw().size[0] >= SIZE
    for result in predictor.stream([picture(0)], keep_images=False):
        same(result, expected)


def test_other_channels(tmp_path):
    weights = write_weights(tmp_path / "four.safetensors", in_chans=4)
    with pytest.raises(DataError, match="4 channels"):
        van.load(weights, "cpu")


def test_model_is_channels_last(predictor):
    weight = predictor.model.stages[1].patch_embed.proj.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_weights_without_a_classifier(tmp_path):
    weights = write_weights(tmp_path / "headless.safetensors", 0)
    with pytest.raises(WeightsError, match=r"headless\.safetensors has no classifier"):
        van.load(weights)


def test_weights_that_cannot_be_read(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.safetensors"):
        van.load(tmp_path / "nothing.safetensors")
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(WeightsError, match=r"text\.pth"):
        van.load(tmp_path / "text.pth")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xla"])
def test_device_that_is_not_there(weights, device):
    with pytest.raises(VanError, match=f"'{device}'.*cpu"):
        van.load(weights, device)
