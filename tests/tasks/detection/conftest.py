"""Small detectors in weight files."""

import numpy as np
import pytest
import torch
from PIL import Image

from van.engine.parsing import to_mapping
from van.models.weight_file import Header, write_weights
from van.networks.registry import from_dict

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory):
    """The weight file of an architecture with random weights, which finds something everywhere."""

    def make(architecture, task="detection", **options):
        torch.manual_seed(0)
        model = {"architecture": architecture, "backbone_args": BACKBONE, "min_size": [64], "max_size": 96}
        model |= {"pyramid_channels": 32, "score_threshold": 0.0, "detections_per_image": 5, **options}
        network = from_dict(task, model).build(3)
        header = Header(task, ["cat", "dog", "emu"], to_mapping(network.options), {"category_ids": [4, 7, 9]})
        return write_weights(
            header, network.state_dict(), tmp_path_factory.mktemp(architecture) / "weights.safetensors"
        )

    return make


@pytest.fixture(scope="session")
def boxes_only(weights_of):
    return weights_of("retinanet", detections_per_image=30)


@pytest.fixture(scope="session")
def with_masks(weights_of):
    return weights_of("mask_rcnn", "instances", box_width=16, mask_width=8, proposals_test=20)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate([(48, 64), (80, 64), (64, 64)]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(paths[-1])
    return paths
