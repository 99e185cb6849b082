"""Groups of parameters, options of the optimizer, and the learning rate at each step, at the object."""

import math

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import van
from van.engine.learner import Learner
from van.engine.optimizer import build_optimizer, build_schedule, carry_over, parameter_groups
from van.engine.options import Optimization, TrainOptions
from van.errors import VanError
from van.models.backbone import Backbone
from van.networks.registry import from_dict

TINY = {"embed_dims": (8, 16, 24, 32), "depths": (1, 2, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


@pytest.fixture(scope="module")
def classifier():
    return van.create_model("van_b0", num_classes=4, device="meta", **TINY)


@pytest.fixture(scope="module")
def segmenter():
    options = {"architecture": "semantic_fpn", "backbone_args": TINY, "pyramid_channels": 8, "channels": 8}
    return from_dict("semantic", options).build(3, device="meta")


def settings(network, **options) -> dict[str, tuple[float, float]]:
    """Factor of the learning rate and weight decay of each parameter, by name."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group.get("lr_scale", 1.0), group["weight_decay"])
        for group in parameter_groups(network, Optimization(**options))
        for parameter in group["params"]
    }


class TestGroups:
    def test_default_is_one_group_with_and_one_without_decay(self, segmenter):
        groups = parameter_groups(segmenter, Optimization(weight_decay=0.07))
        assert [(set(group), group["weight_decay"]) for group in groups] == [
            ({"params", "weight_decay"}, 0.0),
            ({"params", "weight_decay"}, 0.07),
        ]
        assert all(parameter.ndim == 1 for parameter in groups[0]["params"])
        assert all(parameter.ndim > 1 for parameter in groups[1]["params"])

    def test_every_trained_parameter_is_in_one_group(self, segmenter):
        found = settings(segmenter, lr_factors={"backbone": 0.1, "head": 3.0}, layer_decay=0.5, no_decay=["stages_0"])
        assert set(found) == {name for name, _ in segmenter.named_parameters()}

    def test_factor_of_a_part(self, segmenter):
        for name, (factor, _) in settings(segmenter, lr_factors={"backbone": 0.1}).items():
            assert factor == (0.1 if name.startswith("backbone.") else 1.0)

    def test_the_most_particular_name_counts(self, segmenter):
        factors = {"backbone.body.stages_3": 0.5, "backbone": 0.1, "*.norm?": 2.0}
        found = settings(segmenter, lr_factors=factors)
        assert found["backbone.body.stages_2.blocks.0.mlp.fc1.weight"][0] == 0.1
        assert found["backbone.body.stages_3.blocks.0.mlp.fc1.weight"][0] == 0.5
        assert found["backbone.body.stages_2.blocks.0.norm1.weight"][0] == 2.0
        assert found["neck.inner_blocks.0.0.weight"][0] == 1.0

    def test_the_full_learning_rate_comes_first(self, segmenter):
        groups = parameter_groups(segmenter, Optimization(lr_factors={"backbone": 0.1, "head": 10.0}))
        assert [group.get("lr_scale", 1.0) for group in groups] == [1.0, 1.0, 10.0, 10.0, 0.1, 0.1]

    def test_layer_decay_is_that_of_timm(self, classifier):
        names = {parameter: name for name, parameter in classifier.named_parameters()}
        expected = {
            names[parameter]: (group["lr_scale"], group["weight_decay"])
            for group in param_groups_layer_decay(classifier, 0.05, classifier.no_weight_decay(), layer_decay=0.7)
            for parameter in group["params"]
        }
        found = settings(classifier, layer_decay=0.7)
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert values == pytest.approx(expected[name])

    def test_layer_decay_of_a_backbone_is_that_of_the_classifier(self, classifier, segmenter):
        alone, inside = settings(classifier, layer_decay=0.7), settings(segmenter, layer_decay=0.7)
        for name, values in inside.items():
            known = name.removeprefix("backbone.body.").replace("stages_", "stages.")
            assert values == (alone[known] if name.startswith("backbone") else (1.0, values[1]))
        assert inside["backbone.body.stages_3.norm.weight"][0] == pytest.approx(0.7)
        assert inside["backbone.body.stages_0.patch_embed.proj.weight"][0] == pytest.approx(0.7**6)

    def test_layer_decay_of_other_networks_of_timm(self):
        with torch.device("meta"):
            network = nn.ModuleDict(
                {"backbone": Backbone("convnext_atto", drop_path_rate=0.1), "head": nn.Linear(2, 2)}
            )
        found = settings(network, layer_decay=0.5)
        assert found["head.weight"][0] == 1.0
        assert found["backbone.body.stages_3.blocks.1.conv_dw.weight"][0] == 0.5
        assert found["backbone.body.stem_0.weight"][0] < 0.01

    def test_layer_decay_needs_the_order_of_the_layers(self):
        with torch.device("meta"):
            network = nn.ModuleDict({"backbone": Backbone("poolformer_s12")})
        with pytest.raises(VanError, match="layer_decay is not available for poolformer_s12"):
            parameter_groups(network, Optimization(layer_decay=0.5))

    def test_layer_decay_and_factor_multiply(self, segmenter):
        found = settings(segmenter, layer_decay=0.7, lr_factors={"backbone": 0.1})
        assert found["backbone.body.stages_3.norm.weight"][0] == pytest.approx(0.07)

    def test_further_parts_without_decay(self, segmenter):
        found = settings(segmenter, no_decay=["neck", "*.fc1"])
        for name, (_, decay) in found.items():
            exempt = name.endswith(("bias", "gamma")) or "norm" in name or ".fc1." in name or name.startswith("neck")
            batch_norm = name.startswith("head") and segmenter.get_parameter(name).ndim == 1
            assert decay == (0.0 if exempt or batch_norm else 0.05)

    def test_decay_of_everything_but_a_part(self, segmenter):
        found = settings(segmenter, decay_all=True, no_decay=["head.classifier"])
        assert {name for name, (_, decay) in found.items() if not decay} == {
            "head.classifier.weight",
            "head.classifier.bias",
        }

    def test_frozen_parameters_are_in_no_group(self):
        network = nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)})
        network["one"].requires_grad_(False)
        assert set(settings(network)) == {"two.weight", "two.bias"}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"lr_factors": {"bakbone": 0.1}}, "lr_factors names 'bakbone', .* Did you mean backbone"),
            ({"no_decay": ["stages.0"]}, "no_decay names 'stages.0', .* Did you mean stages_0"),
            ({"no_decay": ["ead"]}, "no_decay names 'ead', which no parameter"),
        ],
    )
    def test_unknown_parts(self, segmenter, options, words):
        with pytest.raises(VanError, match=words):
            parameter_groups(segmenter, Optimization(**options))

    def test_layer_decay_needs_a_backbone(self):
        with pytest.raises(VanError, match="layer_decay needs a network with a backbone"):
            parameter_groups(nn.Linear(2, 2), Optimization(layer_decay=0.5))

    def test_frozen_part_has_no_learning_rate(self):
        network = nn.ModuleDict({"one": nn.Linear(2, 2).requires_grad_(False), "two": nn.Linear(2, 2)})
        with pytest.raises(VanError, match="'one', which is not trained in any case"):
            parameter_groups(network, Optimization(lr_factors={"one": 0.1}))


def optimizer_of(precision="32-true", **options):
    return build_optimizer(nn.Linear(2, 2), Optimization(**options), 0.1, precision)


class TestOptimizer:
    def test_options_of_the_optimizer(self):
        group = optimizer_of(betas=[0.8, 0.95], eps=1e-5).param_groups[0]
        assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.95), 1e-5, 0.1)
        assert optimizer_of(optimizer="sgd", momentum=0.7).param_groups[0]["momentum"] == 0.7
        assert optimizer_of(optimizer="sgd").param_groups[0]["momentum"] == 0.9

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"optimizer": "sgd", "betas": [0.9, 0.99]}, "betas is .* but the optimizer sgd has none"),
            ({"optimizer": "sgd", "eps": 1e-6}, "eps is 1e-06, but the optimizer sgd has none"),
            ({"momentum": 0.9}, "momentum is 0.9, but the optimizer adamw has none"),
            ({"betas": [0.9]}, "betas is .*, expected 2 numbers for the optimizer adamw"),
            ({"optimizer": "quux"}, "The optimizer 'quux' cannot be built"),
        ],
    )
    def test_what_an_optimizer_does_not_have(self, options, words):
        with pytest.raises(VanError, match=words):
            optimizer_of(**options)

    @pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "momentum"])
    def test_fused_where_torch_can(self, name):
        assert optimizer_of(optimizer=name).param_groups[0]["fused"] is True

    def test_not_fused_where_it_cannot_be(self, classifier):
        assert not optimizer_of(clip_grad=1.0, precision="16-mixed").param_groups[0]["fused"]
        assert optimizer_of(clip_grad=1.0).param_groups[0]["fused"]
        assert "fused" not in optimizer_of(optimizer="lamb").param_groups[0]
        assert not build_optimizer(classifier, Optimization(), 0.1, "32-true").param_groups[0]["fused"]  # no device

    @pytest.mark.parametrize("name", ["adamw", "sgd"])
    def test_fused_steps_are_those_of_the_plain_optimizer(self, name):
        torch.manual_seed(0)
        networks = [nn.Linear(5, 3), nn.Linear(5, 3)]
        networks[1].load_state_dict(networks[0].state_dict())
        optimizers = [build_optimizer(network, Optimization(optimizer=name), 0.05, "32-true") for network in networks]
        for group in optimizers[1].param_groups:
            group["fused"] = False
        for _ in range(10):
            images = torch.randn(4, 5)
            for network, optimizer in zip(networks, optimizers, strict=True):
                optimizer.zero_grad()
                network(images).square().sum().backward()
                optimizer.step()
        for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)

    def test_fused_steps_undo_the_scale_of_half_precision(self):
        networks = [nn.Linear(5, 3), nn.Linear(5, 3)]
        networks[1].load_state_dict(networks[0].state_dict())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        images = torch.randn(4, 5)
        for network, scaled in zip(networks, (False, True), strict=True):
            optimizer = build_optimizer(network, Optimization(), 0.05, "16-mixed")
            loss = network(images).square().sum()
            (scaler.scale(loss) if scaled else loss).backward()
            if scaled:
                scaler.step(optimizer)
            else:
                optimizer.step()
        for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            torch.testing.assert_close(one, other)


def rates(epochs=4, each=5, by_steps=False, lr=1.0, factors=None, **options) -> list[list[float]]:
    """The learning rate of every group at every step."""
    network = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    given = Optimization(weight_decay=0.0, lr_factors=factors or {}, **options)
    given.check(lr)
    optimizer = build_optimizer(network, given, lr, "32-true")
    schedule = build_schedule(optimizer, given, lr, epochs, each, by_steps)
    found = []
    for step in range((epochs + given.cooldown_epochs) * each):
        schedule.step_update(step)
        found.append([group["lr"] for group in optimizer.param_groups])
    return found


class TestSchedule:
    def test_factor_holds_at_every_step(self):
        for head, backbone in rates(factors={"backbone": 0.1}, warmup_epochs=1, min_lr=0.01):
            assert backbone == pytest.approx(0.1 * head)

    def test_warm_up_starts_where_it_is_told_to(self):
        found = [rate for (rate,) in rates(warmup_epochs=1, warmup_lr=0.5, min_lr=0.01)]
        assert found[:6] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2])

    def test_defaults(self):
        found = [rate for (rate,) in rates()]
        assert found[:2] == pytest.approx([1e-6, 0.2], rel=1e-4)  # one epoch of warm-up
        assert rates(lr=1e-8)[0] == pytest.approx([1e-8])
        assert [rate for (rate,) in rates(schedule="step", milestones=[2])][9:11] == pytest.approx([1.0, 0.1])
        assert [rate for (rate,) in rates(schedule="poly", min_lr=0.0)][10] == pytest.approx(0.5)

    def test_milestones_are_steps_where_the_length_is(self):
        found = [rate for (rate,) in rates(by_steps=True, schedule="step", milestones=[7], warmup_iterations=0)]
        assert found == pytest.approx([1.0] * 7 + [0.1] * 13)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"gamma": 0.1}, "gamma is 0.1, which only schedule step uses; the schedule is cosine"),
            ({"power": 1.0}, "power is 1.0, which only schedule poly uses"),
            ({"milestones": [2]}, r"milestones is \[2\], which only schedule step uses"),
            ({"schedule": "step", "power": 0.9}, "power is 0.9, which only schedule poly uses; the schedule is step"),
            ({"schedule": "step", "min_lr": 0.0}, "min_lr is 0.0, which schedule step does not use"),
            ({"schedule": "step", "cooldown_epochs": 2}, "cooldown_epochs is 2, which schedule step does not use"),
            ({"schedule": "step", "gamma": 0.5}, "gamma is 0.5, which has no effect without milestones"),
            ({"warmup_epochs": 1.0, "warmup_iterations": 5}, "warmup_epochs is 1.0 and warmup_iterations 5"),
            ({"warmup_epochs": 0, "warmup_lr": 0.1}, "warmup_lr is 0.1, but there is no warm-up"),
            ({"warmup_iterations": 0, "warmup_lr": 0.1}, "warmup_lr is 0.1, but there is no warm-up"),
            ({"weight_decay": 0.0, "decay_all": True}, "decay_all has no effect where weight_decay is 0"),
            ({"weight_decay": 0.0, "no_decay": ["head"]}, "no_decay has no effect where weight_decay is 0"),
            ({"weight_decay": -1.0}, r"weight_decay is -1\.0, expected 0 or more"),
            ({"min_lr": -1e-6}, "min_lr is -1e-06, expected a number from 0 to the learning rate 1"),
            ({"min_lr": 2.0}, "min_lr is 2.0, expected a number from 0 to the learning rate 1"),
            ({"warmup_lr": 2.0}, "warmup_lr is 2.0, expected a number from 0 to the learning rate 1"),
            ({"lr_factors": {"head": 0.0}}, "lr_factors.head is 0.0, expected a number above 0"),
            ({"layer_decay": 1.5}, "layer_decay is 1.5, expected a number from 0 to 1"),
            ({"layer_decay": 0.0}, "layer_decay is 0.0, expected a number above 0"),
            ({"betas": [0.9, 1.0]}, r"betas is \[0.9, 1.0\], expected numbers from 0 to less than 1"),
            ({"momentum": -0.5}, "momentum is -0.5, expected numbers from 0"),
            ({"eps": 0.0}, "eps is 0.0, expected a number above 0"),
            ({"lr_base_batch": 0}, "lr_base_batch is 0, expected 1 or more"),
            ({"ema_decay": 1.5}, "ema_decay is 1.5, expected a number from 0 to 1"),
        ],
    )
    def test_options_that_are_out_of_range_or_do_nothing(self, options, words):
        with pytest.raises(VanError, match=words):
            TrainOptions(data="none", lr=1.0, optimization=Optimization(**options)).check()


class TestResume:
    def test_options_given_now_win(self):
        network = nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)})
        before = build_optimizer(network, Optimization(lr_factors={"one": 0.5}, eps=1e-4), 0.1, "32-true")
        saved = before.state_dict()
        now = Optimization(lr_factors={"one": 0.25}, eps=1e-3, weight_decay=0.5)
        again = build_optimizer(network, now, 0.1, "32-true")
        carry_over(again.param_groups, saved)
        again.load_state_dict(saved)
        assert [group.get("lr_scale", 1.0) for group in again.param_groups] == [1.0, 1.0, 0.25, 0.25]
        assert {group["eps"] for group in again.param_groups} == {1e-3}
        assert {group["weight_decay"] for group in again.param_groups} == {0.0, 0.5}

    def test_other_groups_are_refused(self):
        network = nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)})
        saved = build_optimizer(network, Optimization(), 0.1, "32-true").state_dict()
        again = build_optimizer(network, Optimization(lr_factors={"one": 0.5}), 0.1, "32-true")
        with pytest.raises(VanError, match="lr_factors, layer_decay"):
            carry_over(again.param_groups, saved)


def test_linear_rule_scales_with_the_effective_batch():
    options = TrainOptions(
        data="none", lr=0.1, batch_size=64, accumulate=8, optimization=Optimization(lr_base_batch=256, min_lr=0.15)
    )
    options.check()  # min_lr lies below the scaled learning rate
    learner = Learner(nn.Linear(2, 2), (), None, options).plan(10, 10)
    (optimizer,), [schedule] = learner.configure_optimizers()
    schedule["scheduler"].step_update(10)
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.2)
    assert options.remarks("images") == [
        "Effective batch: 512 images (8 batches of 64).",
        "Learning rate: 0.2 (0.1 for 256 images).",
    ]
    assert TrainOptions(data="none").remarks("images") == []
