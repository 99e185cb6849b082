import pytest
import torch

from van.analysis.counting import complexity
from van.errors import DataError, VanError
from van.networks.options import SimpleBaselineOptions
from van.networks.pose import (
    average_flipped,
    coco_results,
    decode_maps,
    gaussian_maps,
    heat_map_loss,
    image_keypoints,
    person_scores,
)

TINY = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


def tiny(**options) -> SimpleBaselineOptions:
    return SimpleBaselineOptions(backbone_args=TINY, **{"image_size": [64, 32], "channels": 8, **options})


class TestNetwork:
    @pytest.mark.parametrize(
        ("name", "size", "params", "macs"),
        [
            ("van_b0", [256, 192], 7.0, 1.9),
            ("van_b1", [256, 192], 17.5, 3.6),
            ("van_b2", [256, 192], 30.3, 6.1),  # T15
            ("van_b2", [384, 288], 30.3, 13.6),  # T15
            ("van_b3", [256, 192], 48.5, 9.9),
        ],
    )
    def test_size_is_that_of_the_paper(self, name, size, params, macs):
        model = SimpleBaselineOptions(backbone=name, image_size=size).build(17, device="meta")
        assert model.input_size == (3, *size)
        counts = complexity(model, model.input_size)
        assert counts.params / 1e6 == pytest.approx(params, abs=0.1)
        assert counts.macs / 1e9 == pytest.approx(macs, abs=0.1)

    def test_gives_a_map_of_a_quarter_for_each_keypoint(self):
        assert tiny().build(5)(torch.rand(2, 3, 64, 32)).shape == (2, 5, 16, 8)

    def test_fewer_deconvolutions_give_smaller_maps(self):
        model = tiny(deconvolutions=1).build(17)
        assert model.stride == 16
        assert model(torch.rand(1, 3, 64, 32)).shape == (1, 17, 4, 2)

    def test_whole_numbers_and_shares_are_the_same_image(self):
        model = tiny().build(17).eval()
        pixels = torch.randint(0, 256, (1, 3, 64, 32), dtype=torch.uint8)
        torch.testing.assert_close(model(pixels), model(pixels / 255))

    def test_normalises_with_mean_and_std(self):
        model = tiny().build(17).eval()
        other = tiny(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]).build(17).eval()
        other.load_state_dict(model.state_dict())
        images = torch.rand(1, 3, 64, 32)
        shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
        torch.testing.assert_close(other(images), model((images - shift) / scale * model.std + model.mean))

    def test_trains_every_parameter(self):
        model = tiny().build(17)
        torch.nn.init.normal_(model.head.weight)
        model(torch.rand(2, 3, 64, 32)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())

    def test_other_networks_of_timm(self):
        options = SimpleBaselineOptions(backbone="resnet18", image_size=[64, 64], channels=8)
        assert options.build(17)(torch.rand(1, 3, 64, 64)).shape == (1, 17, 16, 16)

    def test_complete_options_build_the_same_without_first_weights(self):
        model = tiny().build(17)
        options = model.options
        assert options.mean == pytest.approx([0.5, 0.5, 0.5])
        options.build(17).load_state_dict(model.state_dict())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"image_size": [100, 64]}, r"image_size is \[100, 64\].*multiples of 32"),
            ({"image_size": [64]}, "a height and a width"),
            ({"deconvolutions": 6}, "larger than the image"),
            ({"sigma": 0.0}, "sigma 0.0"),
            ({"channels": 0}, "channels 0"),
            ({"mean": [0.5, 0.5]}, "mean is"),
            ({"backbone": "van_b9"}, "van_b9"),
        ],
    )
    def test_wrong_options_are_named(self, options, message):
        with pytest.raises(VanError, match=message):
            tiny(**options).build(17, device="meta")


class TestTraining:
    POINTS = torch.tensor([[[12.0, 20.0, 2.0], [3.0, 4.0, 0.0]], [[30.0, 60.0, 1.0], [8.0, 9.0, 2.0]]])

    def test_loss_is_the_squared_error_of_the_labeled_keypoints(self):
        model = tiny(sigma=1.5).build(2)
        images = torch.rand(2, 3, 64, 32)
        losses = model(images, self.POINTS)
        target, weights = gaussian_maps(self.POINTS, (16, 8), 4, 1.5)
        maps = model(images)
        assert list(losses) == ["heat_map"]
        torch.testing.assert_close(losses["heat_map"], heat_map_loss(maps, target, weights))
        errors = (maps - target).square().mean((2, 3))
        torch.testing.assert_close(losses["heat_map"], (errors[0, 0] + errors[1, 0] + errors[1, 1]) / 3)

    def test_evaluation_gives_maps_whatever_the_targets(self):
        model = tiny().build(2).eval()
        images = torch.rand(2, 3, 64, 32)
        torch.testing.assert_close(model(images, self.POINTS), model(images))

    def test_targets_of_another_shape_are_named(self):
        with pytest.raises(DataError, match=r"\(2, 2, 3\), expected \(2, 3, 3\)"):
            tiny().build(3)(torch.rand(2, 3, 64, 32), self.POINTS)


class TestTargets:
    def test_gaussian_has_its_top_at_the_keypoint(self):
        maps, weights = gaussian_maps(torch.tensor([[[12.0, 20.0, 2.0]]]), (16, 8), 4, 2.0)
        assert maps.shape == (1, 1, 16, 8)
        assert maps[0, 0, 5, 3] == 1.0
        assert maps[0, 0, 5, 5] == pytest.approx(torch.exp(torch.tensor(-0.5)))
        assert maps[0, 0, 7, 5] == pytest.approx(torch.exp(torch.tensor(-1.0)))
        assert weights.tolist() == [[1.0]]

    def test_unknown_and_far_keypoints_do_not_count(self):
        points = torch.tensor([[[5, 5, 0], [5, 5, 1], [5, 5, 2], [-23, 5, 2], [-25, 5, 2], [500, 5, 2], [5, 87, 2]]])
        _, weights = gaussian_maps(points, (16, 8), 4, 2.0)
        assert weights.tolist() == [[0, 1, 1, 1, 0, 0, 0]]

    @pytest.mark.parametrize("sigma", [2, 3])
    def test_rounded_ones_are_those_of_the_published_code(self, sigma):
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(40, 5, 3, generator=generator) * torch.tensor([140.0, 180.0, 3.0]) - torch.tensor(
            [50, 50, 1]
        )
        points[..., 2] = points[..., 2].floor().clamp(min=0)
        height, width, stride, reach = 20, 12, 4, 3 * sigma
        maps, weights = gaussian_maps(points, (height, width), stride, sigma, rounded=True)
        patch = torch.arange(2 * reach + 1) - reach
        patch = torch.exp(-(patch[:, None] ** 2 + patch**2) / (2 * sigma**2))
        counted = 0
        for i, k in [(i, k) for i in range(40) for k in range(5)]:
            x, y = (int(value / stride + 0.5) for value in points[i, k, :2].tolist())
            outside = x - reach >= width or y - reach >= height or x + reach + 1 < 0 or y + reach + 1 < 0
            assert weights[i, k] == (points[i, k, 2] > 0 and not outside)
            canvas = torch.zeros(height + 60, width + 60)  # the map is its middle
            canvas[30 + y - reach : 31 + y + reach, 30 + x - reach : 31 + x + reach] = patch
            torch.testing.assert_close(maps[i, k], canvas[30 : 30 + height, 30 : 30 + width])
            counted += int(weights[i, k])
        assert 30 < counted < 190

    def test_loss_over_all_keypoints_is_that_of_the_published_code(self):
        model = tiny(round_centers=True, average_over="all").build(2)
        images, points = torch.rand(2, 3, 64, 32), TestTraining.POINTS
        target, weights = gaussian_maps(points, (16, 8), 4, 2.0, rounded=True)
        masked = weights[..., None, None]
        expected = torch.nn.functional.mse_loss(model(images) * masked, target * masked)
        torch.testing.assert_close(model(images, points)["heat_map"], expected)


class TestDecoding:
    def test_finds_keypoints_to_a_quarter_of_a_pixel(self):
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(20, 17, 3, generator=generator) * torch.tensor([20.0, 28.0, 0.0]) + torch.tensor([2, 2, 1])
        maps, _ = gaussian_maps(points, (32, 24), 1, 2.0)
        found = decode_maps(maps)
        error = (found[..., :2] - points[..., :2]).abs()
        assert error.max() <= 0.25 + 1e-4
        # the largest value alone is up to half a pixel off
        assert (found[..., :2].round() - points[..., :2]).abs().max() > 0.4

    @pytest.mark.parametrize(
        ("point", "expected"), [((5.3, 6.8), (5.25, 6.75)), ((5.0, 6.0), (5.0, 6.0)), ((0.3, 9.9), (0.0, 10.0))]
    )
    def test_moves_a_quarter_towards_the_larger_neighbour(self, point, expected):
        maps, _ = gaussian_maps(torch.tensor([[[*point, 1.0]]]), (11, 12), 1, 1.5)
        assert decode_maps(maps)[0, 0, :2].tolist() == list(expected)

    def test_is_that_of_the_published_code(self):
        maps = torch.randn(400, 5, 6, 5, generator=torch.Generator().manual_seed(0))
        maps[:20] -= 10  # nothing positive
        found = decode_maps(maps)
        for i, k in [(i, k) for i in range(400) for k in range(5)]:
            one = maps[i, k]
            x, y = int(one.argmax()) % 5, int(one.argmax()) // 5
            if one.max() <= 0:
                x, y = 0, 0
            expected = [float(x), float(y)]
            if 1 < x < 4 and 1 < y < 5:
                expected[0] += 0.25 * float(torch.sign(one[y, x + 1] - one[y, x - 1]))
                expected[1] += 0.25 * float(torch.sign(one[y + 1, x] - one[y - 1, x]))
            assert found[i, k, :2].tolist() == expected

    def test_gives_the_largest_value(self):
        maps = torch.rand(2, 3, 8, 6)
        torch.testing.assert_close(decode_maps(maps)[..., 2], maps.amax((2, 3)))

    def test_places_on_the_image(self):
        maps, _ = gaussian_maps(torch.tensor([[[8.0, 12.0, 1.0]]]), (8, 8), 4, 1.0)
        matrix = torch.tensor([[[0.0, -2.0, 50.0], [3.0, 0.0, 7.0]]])
        # pixel 8, 12 of the crop: 50 - 2 * 12, 7 + 3 * 8
        assert image_keypoints(maps, matrix, 4)[0, 0].tolist() == [26.0, 31.0, 1.0]


class TestFlip:
    def test_is_the_average_by_hand(self):
        maps = torch.tensor([[[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]], [[7.0, 8.0, 9.0]]]])
        flipped = torch.tensor([[[[10.0, 20.0, 30.0]], [[40.0, 50.0, 60.0]], [[70.0, 80.0, 90.0]]]])
        # mirrored back: 30 20 10 | 60 50 40 | 90 80 70; 1 and 2 swapped; moved right, the first pixel repeated
        expected = [[[(1 + 30) / 2, (2 + 30) / 2, (3 + 20) / 2]], [[(4 + 90) / 2, (5 + 90) / 2, (6 + 80) / 2]]]
        expected.append([[(7 + 60) / 2, (8 + 60) / 2, (9 + 50) / 2]])
        assert average_flipped(maps, flipped, [(1, 2)])[0].tolist() == expected

    def test_leaves_its_inputs_alone(self):
        maps, flipped = torch.rand(1, 4, 3, 5), torch.rand(1, 4, 3, 5)
        before = maps.clone(), flipped.clone()
        average_flipped(maps, flipped, [(0, 3)])
        assert torch.equal(maps, before[0])
        assert torch.equal(flipped, before[1])


class TestResults:
    def test_score_is_that_of_the_box_times_the_confident_keypoints(self):
        points = torch.tensor([[[0, 0, 0.9], [0, 0, 0.5], [0, 0, 0.1]], [[0, 0, 0.1], [0, 0, 0.0], [0, 0, 0.2]]])
        assert person_scores(points, torch.tensor([0.5, 1.0])).tolist() == pytest.approx([0.35, 0.0])

    def test_are_coco_s(self):
        maps, _ = gaussian_maps(torch.tensor([[[8.0, 12.0, 1.0], [4.0, 4.0, 1.0]]]), (8, 8), 4, 1.0)
        batch = {
            "matrix": torch.tensor([[[2.0, 0.0, 10.0], [0.0, 2.0, 20.0]]]),
            "score": torch.tensor([0.5], dtype=torch.float64),
            "image_id": torch.tensor([139]),
            "category_id": torch.tensor([1]),
        }
        expected = {"image_id": 139, "category_id": 1, "keypoints": [26.0, 44.0, 1.0, 18.0, 28.0, 1.0], "score": 0.5}
        assert coco_results(maps, batch, 4) == [expected]
