import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from van.engine import drawing
from van.engine.drawing import (
    LEFT,
    MIDDLE,
    RIGHT,
    class_legend,
    class_map,
    class_shares,
    draw_boxes,
    draw_classes,
    draw_keypoints,
    draw_note,
    draw_ranking,
    draw_saliency,
    draw_segments,
    palette,
    printable,
    saliency_image,
    shorten,
)
from van.errors import DataError

NAMES = ["cat", "dog", "a name that goes on and on and never ends"]
COLOURS = [tuple(colour) for colour in palette(8).tolist()]
BOXES = np.array([[10, 20, 60, 80], [70, 10, 140, 90]], float)


def blank(width=600, height=400, colour=(128, 128, 128)):
    return Image.new("RGB", (width, height), colour)


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.fixture
def placed_labels(monkeypatch):
    """Where the last drawing has put its labels (N, 4), and the sizes of their fonts: placed_labels()."""
    found = []
    write = drawing._Labels.write
    monkeypatch.setattr(drawing._Labels, "write", lambda self: found.append(self) or write(self))
    return lambda: (found[-1].taken, [font.size for _, font, _ in found[-1].texts])


def count_of(image, colour):
    return int((pixels(image) == colour).all(axis=2).sum())


def test_no_heavy_library_is_loaded_before_something_is_drawn():
    code = "import sys, van.engine.drawing; print([n for n in ('torch', 'matplotlib') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


class TestColoursAndText:
    def test_colours_differ_and_do_not_depend_on_how_many_there_are(self):
        colours = palette(150).astype(int)
        assert np.array_equal(palette(7), colours[:7])
        assert min(np.abs(a - b).max() for a, b in itertools.combinations(colours, 2)) > 0
        assert min(np.abs(a - b).sum() for a, b in itertools.combinations(colours[:21], 2)) > 30

    def test_long_texts_are_cut_inside(self):
        short = shorten("a very long name of a class\nthat goes on", 18)
        assert len(short) == 18
        assert short.startswith("a very")
        assert short.endswith("goes on")

    def test_characters_without_a_font_become_boxes(self):
        assert printable("größer  категория\nx") == "größer категория x"
        assert printable("\U000f0000 a") == "□ a"


class TestBoxes:
    def test_boxes_have_the_colours_of_their_classes(self):
        picture = draw_boxes(blank(150, 100, "white"), BOXES, [0, 1], NAMES, [0.9, 0.6])
        factor = picture.width // 150
        assert factor > 1  # enlarged: names can be read
        assert picture.size == (150 * factor, 100 * factor)
        for box, colour in zip(BOXES * factor, COLOURS, strict=False):
            edge = {picture.getpixel((int(box[0]) + k, int(box[1] + box[3]) // 2)) for k in range(4)}
            assert colour in edge
            assert picture.getpixel((int(box[0] + box[2]) // 2, int(box[1] + box[3]) // 2)) == (255, 255, 255)

    def test_masks_are_tinted_and_outlined(self):
        masks = np.zeros((2, 100, 150), bool)
        masks[0, 30:70, 20:50] = True
        picture = draw_boxes(blank(150, 100, "white"), BOXES, [0, 1], NAMES, [0.9, 0.6], masks)
        factor = picture.width // 150
        inside = picture.getpixel((35 * factor, 50 * factor))
        assert np.abs(np.subtract(inside, 0.6 * 255 + 0.4 * np.array(COLOURS[0]))).max() < 4
        assert picture.getpixel((20 * factor, 50 * factor)) == COLOURS[0]
        assert picture.getpixel((15 * factor, 50 * factor)) == (255, 255, 255)

    def test_names_and_scores_are_written_above_the_box(self):
        image = blank(800, 600, "white")
        one = (np.array([[200.0, 200, 500, 400]]), [0])
        pictures = [
            pixels(draw_boxes(image, *one, [name], scores))
            for name, scores in (("cat", [0.9]), ("dog", [0.9]), ("cat", None))
        ]
        for other in pictures[1:]:
            changed = np.nonzero(np.abs(pictures[0] - other).sum(axis=(1, 2)))[0]
            assert 0 < changed.max() < 200
        assert (pixels(image) == 255).all()  # the image itself is left alone

    @pytest.mark.parametrize("size", [(7, 5), (600, 800), (1500, 900)])
    @pytest.mark.parametrize("count", [0, 40])
    def test_any_size_and_number(self, size, count):
        rng = np.random.default_rng(0)
        corners = np.sort(rng.uniform(-10, 1600, (count, 2, 2)), axis=1).reshape(count, 4)
        masks = rng.random((count, *size)) > 0.5
        labels, scores = rng.integers(0, 3, count), rng.random(count)
        picture = draw_boxes(blank(*size[::-1]), corners, labels, NAMES, scores, masks)
        assert max(picture.size) >= 512
        assert picture.width * size[0] == picture.height * size[1]

    @pytest.mark.parametrize(
        "box", [[200, 200, 600, 500], [300, 300, 306, 306], [0, 0, 800, 600], [790, 590, 799, 599]]
    )
    def test_labels_do_not_cover_each_other(self, box):
        same = np.repeat([box], 5, axis=0).astype(float)
        picture = draw_boxes(blank(800, 600, "white"), same, range(5), [f"class {i}" for i in range(5)])
        for colour in COLOURS[:5]:  # the rectangle behind each name is seen
            assert count_of(picture, colour) > 400

    @pytest.mark.parametrize("size", [(64, 64), (64, 48), (20, 600), (400, 40), (640, 480), (4000, 2600)])
    def test_labels_are_legible_inside_and_apart(self, size, placed_labels):
        for count, seed in itertools.product((5, 15, 60), range(2)):
            rng = np.random.default_rng(seed)
            middles, sides = rng.uniform(0, 1, (count, 2)) * size, rng.uniform(0.02, 0.3, (count, 2)) * size
            boxes = np.hstack([middles - sides / 2, middles + sides / 2])
            picture = draw_boxes(blank(*size), boxes, rng.integers(0, 3, count), NAMES, rng.uniform(0, 1, count))
            places, fonts = placed_labels()
            assert len(places) == count
            assert (places >= 0).all()
            assert (places[:, 2:] <= np.array(picture.size)).all()
            assert min(fonts) >= max(12, max(picture.size) / 100)  # the whole picture is looked at
            low = np.maximum(places[:, None, :2], places[:, :2])
            high = np.minimum(places[:, None, 2:], places[:, 2:])
            covered = np.triu((high - low).clip(0).prod(axis=2) > 1, 1).any()
            areas = (places[:, 2:] - places[:, :2]).prod(axis=1)
            if areas.sum() < 0.4 * np.prod(picture.size):  # there is room for all
                assert not covered, (size, count, seed)

    def test_a_label_takes_the_last_free_place(self, placed_labels):
        # one box in a corner, so often that its labels fill the picture
        boxes = np.repeat([[0.0, 0, 30, 20]], 60, axis=0)
        draw_boxes(blank(512, 120), boxes, [0] * 60, ["cat"])
        places, _ = placed_labels()
        low = np.maximum(places[:, None, :2], places[:, :2])
        high = np.minimum(places[:, None, 2:], places[:, 2:])
        assert not np.triu((high - low).clip(0).prod(axis=2) > 1, 1).any()

    def test_a_label_does_not_hide_a_small_object(self):
        small = [300.0, 180, 330, 198]  # where the label of the large box would be
        boxes = np.array([[280.0, 200, 600, 500], small])
        picture = pixels(draw_boxes(blank(800, 600, "white"), boxes, [0, 1], ["large object", "x"]))
        assert (picture[186:192, 308:322] == 255).all()

    def test_labels_of_small_objects_are_smaller(self):
        def area(side):
            box = np.array([[300.0, 300, 300 + side, 320]])
            with_name, without = (draw_boxes(blank(810, 1080), box, [0], [name]) for name in ("traffic light", "."))
            changed = np.argwhere((pixels(with_name) != pixels(without)).any(2))
            return np.ptp(changed, axis=0).prod()

        assert area(20) < 0.7 * area(300)

    def test_size_of_the_result(self):
        picture = draw_boxes(blank(800, 600), BOXES, [0, 1], NAMES, size=384)
        assert picture.size == (384, 288)
        assert draw_boxes(blank(80, 60), BOXES / 10, [0, 1], NAMES, size=384).size == (384, 288)

    def test_names_in_any_script(self):
        assert draw_boxes(blank(800, 600), BOXES, [0, 1], ["猫 $x_1$", "größer"]).size == (800, 600)


KEYPOINTS = ["nose", "left_wrist", "left_ankle", "right_wrist", "right_ankle"]
SKELETON = [(1, 2), (3, 4), (2, 4)]
POSE = np.array([[256, 50, 1], [150, 150, 1], [150, 400, 1], [350, 150, 1], [350, 400, 1.0]])


class TestKeypoints:
    def test_sides_have_their_colours(self):
        picture = draw_keypoints(blank(512, 512), [POSE], KEYPOINTS, SKELETON)
        places = {(150, 275): LEFT, (350, 275): RIGHT, (250, 400): MIDDLE, (256, 50): MIDDLE, (150, 150): LEFT}
        assert {place: picture.getpixel(place) for place in places} == places
        assert picture.getpixel((250, 250)) == (128, 128, 128)

    def test_lines_have_a_dark_rim(self):
        picture = draw_keypoints(blank(512, 512), [POSE], KEYPOINTS, SKELETON)
        row = [picture.getpixel((x, 275)) for x in range(130, 170)]
        assert row.index((0, 0, 0)) < row.index(LEFT)

    def test_keypoints_below_the_threshold_are_left_out(self):
        pose = POSE.copy()
        pose[2, 2] = 0.1
        picture = draw_keypoints(blank(512, 512), [pose], KEYPOINTS, SKELETON)
        assert picture.getpixel((150, 275)) == picture.getpixel((150, 400)) == (128, 128, 128)
        assert picture.getpixel((350, 275)) == RIGHT
        assert draw_keypoints(blank(512, 512), [pose], KEYPOINTS, SKELETON, score_threshold=0.05).getpixel(
            (150, 400)
        ) != (128, 128, 128)

    @pytest.mark.parametrize("score", [None, 0.1])
    def test_a_failed_pose_does_not_look_like_an_untouched_image(self, score):
        pose = POSE * [1, 1, score or 0]
        picture = pixels(draw_keypoints(blank(512, 512), [] if score is None else [pose], KEYPOINTS, SKELETON, ["x"]))
        changed = np.argwhere((picture != 128).any(2))
        assert changed[:, 0].min() > 450  # a note at the lower edge, and no skeleton
        assert np.ptp(changed[:, 1]) > 60

    def test_small_images_are_enlarged_with_their_poses(self):
        picture = draw_keypoints(blank(128, 64), [POSE / [4, 8, 1]], KEYPOINTS, SKELETON)
        assert picture.size == (512, 256)
        assert picture.getpixel((152, 137)) == LEFT

    def test_the_image_itself_is_left_alone(self):
        image = blank(512, 512)
        draw_keypoints(image, [POSE], KEYPOINTS, SKELETON, ["person 0.93"])
        assert image.getcolors() == [(512 * 512, (128, 128, 128))]

    @pytest.mark.parametrize("move", [(0, 0), (-300, -60), (300, 300)])
    def test_texts_stay_on_the_image(self, move):
        moved = POSE + np.array([*move, 0])
        picture, plain = (
            pixels(draw_keypoints(blank(), [moved], KEYPOINTS, [], texts)) for texts in (["one 0.93"], [])
        )
        changed = np.argwhere((picture != plain).any(2))
        assert (np.ptp(changed, axis=0) >= (12, 40)).all()


def halves(height=40, width=600):
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    return labels


def is_striped(part):
    """Whether all is grey, with lighter and darker stripes."""
    return np.ptp(part, axis=2).max() == 0 and len(np.unique(part)) == 2


class TestClasses:
    def test_map_keeps_the_labels(self, tmp_path):
        labels = np.array([[0, 1], [2, 255]], np.uint8)
        class_map(labels, 3).save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert np.array_equal(np.asarray(image), labels)
            assert np.array_equal(np.asarray(image.convert("RGB"))[0, 1], palette(3)[1])

    def test_pixels_have_the_colour_of_their_class_over_grey(self):
        labels = halves()
        labels[:10] = 255
        picture = pixels(draw_classes(blank(600, 40, (250, 100, 0)), labels, ["sky", "ground"], legend=False))
        assert picture.shape == (40, 600, 3)
        grey = 0.299 * 250 + 0.587 * 100
        for part, label in ((picture[12:, :290], 0), (picture[12:, 310:], 1)):
            assert np.abs(part - (0.4 * grey + 0.6 * np.array(COLOURS[label]))).max() <= 2
        assert (picture[20, 300] == 255).all()  # a line between them
        assert is_striped(picture[:9, :290])

    def test_background_is_left_as_it_is(self):
        picture = pixels(draw_classes(blank(600, 40, (250, 100, 0)), halves(), ["Background", "cat"], legend=False))
        assert (picture[:, :290] == (250, 100, 0)).all()
        assert (picture[:, 310:] != (250, 100, 0)).any(axis=2).all()

    def test_legend_names_what_is_there(self):
        plain = draw_classes(blank(60, 40), halves(40, 60), NAMES, legend=False)
        assert plain.size == (540, 360)
        picture = draw_classes(blank(60, 40), halves(40, 60), NAMES)
        assert picture.height == 360
        assert picture.width > 600
        beside = picture.crop((540, 0, picture.width, 360))
        assert [count_of(beside, colour) > 50 for colour in COLOURS[:3]] == [True, True, False]

    def test_legend_has_the_ignored_pixels(self):
        labels = halves(400)
        one, two = (
            draw_classes(blank(), array, NAMES) for array in (labels, np.where(labels, 255, 0).astype(np.uint8))
        )
        assert count_of(one.crop((600, 0, one.width, 400)), COLOURS[1]) > 50
        assert count_of(two.crop((600, 0, two.width, 400)), COLOURS[1]) == 0
        assert count_of(two.crop((600, 0, two.width, 400)), (160, 160, 160)) > 20
        assert class_legend(["background", "cat"]) == [
            ("background (not coloured)", (255, 255, 255)), ("cat", COLOURS[1]), ("ignored", None)
        ]  # fmt: skip

    def test_a_low_image_has_room_for_its_legend(self):
        names = [f"class {i}" for i in range(12)]
        labels = np.arange(600, dtype=np.uint8)[None].repeat(2, 0) % 12
        for count in (4, 8, 12):
            picture = draw_classes(blank(600, 2), labels % count, names[:count])
            beside = picture.crop((600, 0, picture.width, picture.height))
            listed = [count_of(beside, tuple(colour)) > 50 for colour in palette(count).tolist()]
            assert listed == [True] * count if count <= 8 else sum(listed) == 7
            assert (pixels(beside)[-2:] == 255).all()  # nothing is cut off

    def test_shares(self):
        labels = np.array([[0, 0, 0, 2], [255, 2, 2, 2]], np.uint8)
        assert class_shares(labels, ["sky", "ground", "person"]) == {"person": 0.5, "sky": 0.375}


def test_segments_of_one_class_have_shades_and_names():
    numbers = np.zeros((200, 600), np.int32)
    numbers[:, :200], numbers[:, 400:] = 1, 300
    segments = [{"id": 1, "label": 2, "isthing": True, "score": 0.9}, {"id": 300, "label": 2, "isthing": True}]
    picture = pixels(draw_segments(blank(600, 200), numbers, segments, NAMES, legend=False))
    assert is_striped(picture[:80, 210:390])
    assert not np.array_equal(picture[5, 5], picture[5, 595])
    for x in (100, 500):  # the name stands in the middle, in a frame
        assert (picture[85:115, x - 90 : x + 90].reshape(-1, 3) == 0).all(1).any()
    assert draw_segments(blank(600, 200), numbers, segments, NAMES).width > 600
    stuff = [{"id": 1, "label": 0, "isthing": False}]
    picture = pixels(draw_segments(blank(600, 200), np.ones_like(numbers), stuff, NAMES, legend=False))
    assert np.ptp(picture, axis=(0, 1)).max() == 0  # no name, no line, no stripes


def test_saliency():
    saliency = np.linspace(0, 1, 600)[None].repeat(20, 0)
    grey = np.asarray(saliency_image(saliency))
    assert (grey.min(), grey.max()) == (0, 255)
    picture = draw_saliency(blank(600, 20, (200, 100, 0)), saliency)
    assert picture.width > 3 * 600
    assert picture.height > 40  # headings above, a scale below
    line = (picture.height - 20) // 2
    cut = pixels(picture)[line : line + 20, -600:]
    assert (cut[0, 0] == (40, 20, 0)).all()
    assert (cut[0, -1] == (200, 100, 0)).all()
    third = picture.width // 3
    assert [(pixels(picture)[:line, i * third : (i + 1) * third] < 100).any() for i in range(3)] == [True] * 3
    assert [(pixels(picture)[line + 20 :, i * third : (i + 1) * third] < 100).any() for i in range(3)] == [
        False, True, False
    ]  # fmt: skip


def test_ranking_has_a_bar_for_each_class():
    picture = draw_ranking(blank(600, 400), ["猫", NAMES[2], "dog"], [0.6, 0.3, 0.0])
    beside = (pixels(picture)[:, 600:] == COLOURS[0]).all(axis=2).sum(axis=1)
    lengths = [int(n) for n in dict.fromkeys(beside.tolist()) if n > 1]
    assert len(lengths) == 2
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=4)
    assert draw_ranking(blank(600, 10), ["a"] * 5, [0.2] * 5).height > 100


def test_frames_of_a_video_have_one_size():
    """Whatever is found: a video cannot change its size."""
    image, one = blank(64, 48), np.zeros((48, 64), np.int32)
    three = np.arange(48)[:, None].repeat(64, 1) // 16
    names = ["a", "a much longer name", "b"]
    segments = [{"id": i, "label": i - 1, "isthing": True} for i in (1, 2, 3)]
    for sizes in (
        {draw_classes(image, labels, names).size for labels in (one, three)},
        {draw_segments(image, labels, segments[: labels.max()], names).size for labels in (one, three + 1)},
        {draw_ranking(image, [name], [0.5], class_names=names).size for name in names},
    ):
        assert len(sizes) == 1


def test_notes_fit_into_narrow_images():
    picture = pixels(draw_note(blank(60, 400), "no keypoint above 0.2 (best 0.03)"))
    assert (picture[:200] == 128).all()
    assert (picture[-40:, :4] == 0).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda image, array: draw_classes(image, array, NAMES),
        lambda image, array: draw_segments(image, array, [], NAMES),
        lambda image, array: draw_boxes(image, BOXES[:1], [0], NAMES, masks=array[None]),
        draw_saliency,
    ],
)
def test_shapes_that_differ(draw):
    with pytest.raises(DataError, match=r"\(4, 5\).*5 x 4"):
        draw(blank(4, 5), np.zeros((4, 5), np.uint8))
