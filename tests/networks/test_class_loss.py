"""Cross-entropy with weights of classes and focusing."""

import pytest
import torch
from torch.nn import functional as F

from van.networks.class_loss import ClassLoss
from van.networks.segmentation.semantic import semantic_loss

WEIGHTS = [0.5, 2.0, 1.0, 4.0]


def loss_of(weights=None, gamma=0.0, background=False) -> ClassLoss:
    loss = ClassLoss(background)
    loss.use(weights, gamma)
    return loss


@pytest.fixture
def logits():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)


LABELS = torch.tensor([0, 1, 3, 3, 2, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_are_those_of_torch(logits, smoothing):
    expected = F.cross_entropy(logits, LABELS, torch.tensor(WEIGHTS), label_smoothing=smoothing)
    assert torch.allclose(loss_of(WEIGHTS)(logits, LABELS, smoothing), expected)
    soft = F.one_hot(LABELS, 4).float()
    assert torch.allclose(loss_of(WEIGHTS)(logits, soft, smoothing), expected)


def test_without_anything_it_is_torch_bit_for_bit(logits):
    assert torch.equal(ClassLoss()(logits, LABELS, 0.1), F.cross_entropy(logits, LABELS, label_smoothing=0.1))


def test_background_keeps_weight_1(logits):
    expected = F.cross_entropy(logits, LABELS, torch.tensor([1.0, *WEIGHTS[1:]]))
    assert torch.allclose(loss_of(WEIGHTS[1:], background=True)(logits, LABELS), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_soft_and_hard_targets(logits, gamma):
    p = logits.softmax(1)
    soft = torch.tensor([0.3, 0.7, 0.0, 0.0]).expand(6, 4)
    w = torch.tensor(WEIGHTS)
    expected = -(w * soft * (1 - p) ** gamma * p.log()).sum() / (w * soft).sum()
    assert torch.allclose(loss_of(WEIGHTS, gamma)(logits, soft), expected)
    own = p[torch.arange(6), LABELS]
    hard = loss_of(None, gamma)(logits, LABELS)
    assert torch.allclose(hard, -((1 - own) ** gamma * own.log()).mean())
    assert hard < F.cross_entropy(logits, LABELS)


def test_gradients_are_finite_where_a_class_is_certain():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss_of(None, 0.5)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("weights", "gamma"), [(None, 0.0), (WEIGHTS, 0.0), (WEIGHTS, 2.0)])
def test_ignored_pixels_do_not_count(weights, gamma):
    maps = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 4, (1, 3, 5), generator=torch.Generator().manual_seed(2))
    labels[0, 0] = 255
    loss = loss_of(weights, gamma)
    kept = labels[0, 1:].reshape(-1)
    expected = loss(maps[0, :, 1:].reshape(4, -1).T, kept)
    assert torch.allclose(semantic_loss(maps, labels, class_loss=loss), expected)
    total = loss.sums(maps, labels, 255)[0]
    assert torch.allclose(semantic_loss(maps, labels, "all", loss), total / 15)
    assert semantic_loss(maps, torch.full_like(labels, 255), class_loss=loss) == 0


def test_weights_are_no_part_of_the_state():
    assert not loss_of(WEIGHTS).state_dict()
