from types import SimpleNamespace

import pytest
import torch

from van.networks.options import SimpleBaselineOptions
from van.networks.pose import heat_map_loss
from van.tasks.optimization import Optimization
from van.tasks.pose import PoseTask

TINY = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


class Recorder:
    """Stands in for the evaluator."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.results = []

    def update(self, results):
        self.results += results

    def compute(self):
        return {"AP": 0.25, "AP50": 0.5}


def batch_of(count: int, visible: float = 2.0):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 17, 3, generator=generator) * 32
    points[..., 2] = visible
    return {
        "image": torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "keypoints": points,
        "matrix": torch.eye(3)[:2].repeat(count, 1, 1),
        "image_id": torch.arange(count),
        "category_id": torch.ones(count, dtype=torch.int64),
        "score": torch.ones(count, dtype=torch.float64),
        "index": torch.arange(count),
    }


@pytest.fixture
def task(monkeypatch):
    torch.manual_seed(0)
    model = SimpleBaselineOptions(backbone_args=TINY, image_size=[32, 32], channels=8).build(17)
    task = PoseTask(model, 1e-2, 1, 1, Optimization(), Recorder())
    task.trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=1, current_epoch=0)
    task.logged = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: task.logged.update({name: value}))
    monkeypatch.setattr(task, "log_dict", lambda values, **_: task.logged.update(values))
    return task


class TestLoss:
    def test_is_the_mean_over_the_maps_that_count(self):
        maps, target = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
        weights = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
        chosen = [(maps[i, j] - target[i, j]).square().mean() for i, j in ((0, 0), (0, 2), (1, 2))]
        torch.testing.assert_close(heat_map_loss(maps, target, weights), torch.stack(chosen).mean())

    def test_invisible_keypoints_do_not_count(self):
        maps = torch.rand(1, 3, 4, 5, requires_grad=True)
        target = torch.rand(1, 3, 4, 5)
        heat_map_loss(maps, target, torch.tensor([[1.0, 0.0, 1.0]])).backward()
        assert maps.grad[0, 1].abs().max() == 0
        assert maps.grad[0, [0, 2]].abs().min() > 0

    def test_nobody_is_no_loss(self):
        loss = heat_map_loss(torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5), torch.zeros(1, 3))
        assert loss == 0


class TestSteps:
    def test_learns_a_batch(self, task):
        batch = batch_of(4)
        optimizer = torch.optim.Adam(task.parameters(), 1e-2)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = task.training_step(batch, 0)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    def test_positions_of_invisible_keypoints_change_nothing(self, task):
        batch = batch_of(2)
        batch["keypoints"][:, 5, 2] = 0
        before = task.training_step(batch, 0)
        batch["keypoints"][:, 5, :2] += 7
        assert task.training_step(batch, 0) == before
        batch["keypoints"][:, 6, :2] += 7
        assert task.training_step(batch, 0) != before

    def test_validation_gives_results_to_the_evaluator(self, task):
        task.eval()
        task.on_validation_epoch_start()
        task.validation_step(batch_of(3), 0)
        assert [result["image_id"] for result in task.evaluator.results] == [0, 1, 2]
        assert len(task.evaluator.results[0]["keypoints"]) == 51
        task.on_validation_epoch_end()
        assert (task.logged["val_ap"], task.logged["val_ap50"]) == (0.25, 0.5)
        task.on_validation_epoch_start()
        assert task.evaluator.results == []

    def test_persons_that_the_sampler_repeats_count_once(self, task):
        # five persons on two processes: this one has 1, 3 and the first again
        task.trainer = SimpleNamespace(world_size=2, global_rank=1, global_step=1, current_epoch=0)
        task.eval()
        task.on_validation_epoch_start()
        whole = batch_of(5)
        for chosen in ([1, 3], [0]):
            task.validation_step({key: value[chosen] for key, value in whole.items()}, 0)
        assert [result["image_id"] for result in task.evaluator.results] == [1, 3]
