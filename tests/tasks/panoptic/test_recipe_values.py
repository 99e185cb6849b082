"""Every value of the recipes for COCO at the object that it is meant for."""

import pytest
import torch
from tests.tasks.recipe_values import drop_rates, network_of, options_of, rates, settings

RECIPES = ["panoptic/mask2former_van_b2_coco", "panoptic/mask2former_van_b6_in22k_coco"]
pytestmark = pytest.mark.parametrize("name", RECIPES)
pytest.importorskip("transformers")


def test_schedule(name):
    options = options_of(name)
    assert (options.epochs, options.batch_size, options.iterations) == (50, 16, None)
    optimizer, found = rates(name, 7393, 0.01, 43.9, 44.1, 48.1)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}
    assert found == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    assert (options.optimization.clip_grad, options.optimization.ema_decay) == (0.01, None)


def test_backbone_learns_slowly_and_norms_and_embeddings_do_not_decay(name):
    assert options_of(name).sync_batchnorm
    for parameter, (module, lr, decay) in settings(name).items():
        assert lr == pytest.approx(1e-5 if parameter.startswith("backbone.") else 1e-4), parameter
        still = isinstance(module, torch.nn.Embedding) or "Norm" in type(module).__name__
        assert decay == (0.0 if still else 0.05), parameter


def test_drop_path_rises_to_the_rate(name):
    found = drop_rates(network_of(name))
    assert len(found) == (108 if "b6" in name else 21)
    assert found == pytest.approx(torch.linspace(0, 0.3, len(found)).tolist())


def test_network_and_losses(name):
    network = network_of(name)
    assert (network.options.mean, network.options.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert network.weights == {"class": 2.0, "mask": 5.0, "dice": 5.0}
    criterion = network.head.criterion
    assert (criterion.num_points, criterion.oversample_ratio, criterion.importance_sample_ratio) == (12544, 3.0, 0.75)
    assert criterion.eos_coef == 0.1
    assert criterion.matcher.num_points == 12544
    head = network.head
    assert len(head.pixel_decoder.encoder.layers) == 6
    assert len(head.transformer_module.decoder.layers) == 9
    queries = 200 if "b6" in name else 100
    assert head.transformer_module.queries_features.weight.shape == (queries, 256)


def test_random_changes(name):
    flip, jitter, crop = options_of(name).augmentation.transform().transforms
    assert flip.p == 0.5
    assert (tuple(jitter.target_size), tuple(jitter.scale_range)) == ((1024, 1024), (0.1, 2.0))
    assert crop.size == (1024, 1024)


def test_own_evaluation_is_the_published_test(name):
    inference = options_of(name).inference
    assert (tuple(inference.fit), inference.score_threshold, inference.overlap_threshold) == ((800, 1333), 0.8, 0.8)
