import torch
from torch import nn

import van
from van.analysis.counting import complexity


def test_van_b0():
    """Parameters of the published code; multiply-accumulates as the paper counts them (0.9 G)."""
    assert complexity(van.create_model("van_b0"), (3, 224, 224)) == (4_105_800, 864_224_000)


def test_convolution_by_hand():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    counts = complexity(conv, (3, 16, 12))
    assert counts.params == 8 * 3 * 3 * 3 + 8
    assert counts.macs == (8 * 6) * 8 * 3 * 3 * 3


def test_depthwise_convolution_and_linear_layer_by_hand():
    network = nn.Sequential(nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    assert complexity(network, (4, 6, 6)) == (4 * 25 + 4 + 144 * 10 + 10, 36 * 4 * 25 + 144 * 10)


def test_elementwise_work_does_not_count():
    assert complexity(nn.Sequential(nn.BatchNorm2d(3), nn.GELU()), (3, 8, 8)) == (6, 0)


def test_grows_with_the_image_and_starts_on_any_device():
    small = complexity(van.create_model("van_b0", num_classes=0, device="meta"), (3, 64, 64))
    large = complexity(van.create_model("van_b0", num_classes=0), (3, 128, 128))
    assert large.params == small.params
    assert large.macs == 4 * small.macs
    assert torch.get_default_device() == torch.device("cpu")
