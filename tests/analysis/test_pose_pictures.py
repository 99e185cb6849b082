import numpy as np
import pytest
from PIL import Image

from van.analysis.pose_pictures import LEFT, MIDDLE, RIGHT, draw_poses, pose_curves, pose_sheet

NAMES = ["nose", "left_wrist", "left_ankle", "right_wrist", "right_ankle"]
SKELETON = [(1, 2), (3, 4), (2, 4)]
POSE = np.array([[250, 50, 1], [150, 150, 1], [150, 400, 1], [350, 150, 1], [350, 400, 1.0]])


def grey(width: int = 500, height: int = 500) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


class TestSkeletons:
    def test_sides_have_their_colours(self):
        picture = draw_poses(grey(), [POSE], NAMES, SKELETON)
        assert picture.getpixel((150, 275)) == LEFT
        assert picture.getpixel((350, 275)) == RIGHT
        assert picture.getpixel((250, 400)) == MIDDLE
        assert picture.getpixel((250, 50)) == MIDDLE
        assert picture.getpixel((150, 150)) == LEFT
        assert picture.getpixel((250, 250)) == (128, 128, 128)

    def test_lines_have_a_dark_rim(self):
        picture = draw_poses(grey(), [POSE], NAMES, SKELETON)
        row = [picture.getpixel((x, 275)) for x in range(130, 170)]
        assert row.index((0, 0, 0)) < row.index(LEFT)

    def test_uncertain_keypoints_are_left_out(self):
        pose = POSE.copy()
        pose[2, 2] = 0.1
        picture = draw_poses(grey(), [pose], NAMES, SKELETON)
        assert picture.getpixel((150, 275)) == picture.getpixel((150, 400)) == (128, 128, 128)
        assert picture.getpixel((350, 275)) == RIGHT
        pose[:, 2] = 0.0
        assert draw_poses(grey(), [pose], NAMES, SKELETON, ["nobody"]).getcolors() == [(250000, (128, 128, 128))]

    def test_small_images_are_enlarged_with_their_poses(self):
        picture = draw_poses(grey(100, 50), [POSE / [5, 10, 1]], NAMES, SKELETON)
        assert picture.size == (500, 250)
        assert picture.getpixel((152, 137)) == LEFT

    def test_the_image_itself_is_left_alone(self):
        image = grey()
        draw_poses(image, [POSE], NAMES, SKELETON, ["person 0.93"])
        assert image.getcolors() == [(250000, (128, 128, 128))]

    @pytest.mark.parametrize("move", [(0, 0), (-300, -60), (300, 300)])
    def test_labels_stay_on_the_image(self, move):
        moved = POSE + np.array([*move, 0])
        picture = np.asarray(draw_poses(grey(), [moved], NAMES, [], ["person 0.93"]))
        plain = np.asarray(draw_poses(grey(), [moved], NAMES, []))
        changed = np.argwhere((picture != plain).any(2))
        assert (np.ptp(changed, axis=0) >= (12, 60)).all()
        box = picture[changed[:, 0].min() : changed[:, 0].max(), changed[:, 1].min() : changed[:, 1].max()]
        assert box.max() >= 250  # white on black
        assert box.min() == 0


def test_sheet_shows_pairs(tmp_path):
    images = [grey(60, 40), grey(40, 60), grey(40, 40), grey(40, 40)]
    figure = pose_sheet(images, images, images, "A $title$")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 8
    assert [axes.get_title() for axes in shown[:2]] == ["annotated", "predicted"]
    figure.savefig(tmp_path / "sheet.png")


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_mark_the_best_epoch(tmp_path, epochs):
    rows = [
        {"epoch": i + 1, "train_loss": 0.1, "val_loss": 0.2, "val_ap": ap, "val_ap50": 2 * ap}
        for i, ap in enumerate([0.1, 0.4, 0.3][:epochs])
    ]
    figure = pose_curves(rows, "title")
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels[2] == ("best: 10.0 %, epoch 1" if epochs == 1 else "best: 40.0 %, epoch 2")
    figure.savefig(tmp_path / "curves.png")
