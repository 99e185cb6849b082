"""A small pose network in a weight file."""

import numpy as np
import pytest
import torch
from PIL import Image

from van.data.shapes import KEYPOINTS
from van.engine.parsing import to_mapping
from van.models.weight_file import Header, write_weights
from van.networks.options import SimpleBaselineOptions

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
PAIRS = [[i, i + 1] for i in range(1, 17, 2)]


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """The weight file of a network that takes crops of 64 x 32 pixels and is sure of some keypoints."""
    torch.manual_seed(0)
    network = SimpleBaselineOptions(backbone_args=BACKBONE, image_size=[64, 32], channels=8).build(17)
    for i in (0, 3, 6):
        torch.nn.init.normal_(network.deconvolutions[i].weight, std=0.1)
    torch.nn.init.normal_(network.head.weight)
    torch.nn.init.constant_(network.head.bias, 0.1)
    extra = {"keypoint_names": list(KEYPOINTS), "flip_pairs": PAIRS, "skeleton": [[0, 1]], "category_ids": [1]}
    header = Header("pose", ["person"], to_mapping(network.options), extra)
    return write_weights(header, network.state_dict(), tmp_path_factory.mktemp("pose") / "weights.safetensors")


@pytest.fixture(scope="session")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8))
