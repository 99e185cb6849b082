"""Label formats: small files made by hand, whose one object is known, and the shapes converted there and back."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from van.data.coco import decode_masks
from van.data.coco_checks import find_problems
from van.data.labels import find_labels, open_labels
from van.data.labels.convert import convert_labels, one_outline, outlines
from van.data.semantic import find_semantic_splits
from van.data.shapes import make_shapes
from van.data.splits import Division, digest_of, divide, evaluated_split
from van.errors import DataError, VanError

BOX = [10.0, 4.0, 20.0, 8.0]  # in an image of 40 x 20
SQUARE = [10.0, 4.0, 30.0, 4.0, 30.0, 12.0, 10.0, 12.0]


def image(folder, name="a.png", size=(40, 20)):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 20, 200)).save(folder / name)


def yolo(root, line="1 0.5 0.4 0.5 0.4", about="names: [dog, cat]\ntrain: images\n"):
    image(root / "images")
    image(root / "images", "empty.png")
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text(line + "\n")
    (root / "data.yaml").write_text(about)


def voc(root, name="cat", more=""):
    image(root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "Annotations/a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>40</width><height>20</height></size>\n"
        f"<object><name>{name}</name>{more}<bndbox><xmin>10</xmin><ymin>4</ymin><xmax>30</xmax><ymax>12</ymax></bndbox>"
        "</object></annotation>"
    )


def labelme(root, *shapes):
    image(root)
    shapes = shapes or ({"label": "cat", "shape_type": "polygon", "points": np.reshape(SQUARE, (4, 2)).tolist()},)
    content = {"shapes": list(shapes), "imagePath": "a.png", "imageWidth": 40, "imageHeight": 20}
    (root / "a.json").write_text(json.dumps(content))


def cvat(root, shape='<box label="cat" xtl="10" ytl="4" xbr="30" ybr="12"/>', labels="<label><name>cat</name></label>"):
    image(root / "images")
    (root / "annotations.xml").write_text(
        f"<annotations><meta><task><labels>{labels}</labels></task></meta>\n"
        f'<image id="0" name="a.png" width="40" height="20">\n{shape}</image></annotations>'
    )


def label_studio(root, *results):
    image(root / "media")
    value = {"x": 25, "y": 20, "width": 50, "height": 40, "rectanglelabels": ["cat"]}
    results = results or ({"id": "r", "type": "rectanglelabels", "value": value},)
    task = {"id": 7, "data": {"image": "/data/upload/1/0123abcd-a.png"}, "annotations": [{"result": list(results)}]}
    unlabeled = {"id": 8, "data": {"image": "b.png"}, "annotations": []}
    (root / "export.json").write_text(json.dumps([task, unlabeled]))


def open_images(root, group=0):
    image(root / "images")
    (root / "class-descriptions-boxable.csv").write_text("/m/01yrx,cat\n")
    (root / "train-annotations-bbox.csv").write_text(
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
        f"a,x,/m/01yrx,1,0.25,0.75,0.2,0.6,{group}\nelsewhere,x,/m/01yrx,1,0,1,0,1,0\n"
    )


def coco(root):
    image(root)
    content = {"images": [{"id": 5, "file_name": "a.png", "width": 40, "height": 20}]}
    content["annotations"] = [{"id": 1, "image_id": 5, "category_id": 3, "bbox": BOX, "area": 160, "iscrowd": 0}]
    (root / "labels.json").write_text(json.dumps({**content, "categories": [{"id": 3, "name": "cat"}]}))


MAKE = {
    "COCO": coco,
    "YOLO": yolo,
    "Pascal VOC": voc,
    "LabelMe": labelme,
    "CVAT": cvat,
    "Label Studio": label_studio,
    "Open Images": open_images,
}


def only(splits):
    """The split and the object of a data set with one of each."""
    (split,) = splits.values()
    (found,) = split.all_annotations()
    return split, found


def only_split(root):
    (split,) = open_labels(root).values()
    return split


@pytest.mark.parametrize("name", MAKE)
def test_each_format_is_recognized_and_read(tmp_path, name):
    MAKE[name](tmp_path)
    labels = find_labels(tmp_path)
    assert labels.format == name
    splits = labels.read()
    assert list(splits) == ["all"]
    split, found = only(splits)
    assert found["bbox"] == pytest.approx(BOX)
    assert split.class_names[split.labels[found["category_id"]]] == "cat"
    assert split.image_path(split.images[0]).name == "a.png"
    assert len(split) == (2 if name == "YOLO" else 1)
    assert find_problems(split) == []


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: yolo(root, "2 0.5 0.4 0.5 0.4"), r"labels/a.txt, line 1: the class is 2, expected .* 0 to 1"),
        (lambda root: yolo(root, "1 20 8 20 8"), r"labels/a.txt, line 1: it has the value 20, expected shares"),
        (lambda root: yolo(root, "1 0.5 0.4 0.5"), r"labels/a.txt, line 1: it has 4 values, expected 5"),
        (lambda root: voc(root, ""), r"Annotations/a.xml, line 2: the object has no name"),
        (lambda root: labelme(root, {"label": "x", "shape_type": "line", "points": [[0, 0], [1, 1]]}), "shape 1: line"),
        (lambda root: cvat(root, '<polyline label="cat" points="0,0;1,1"/>'), r"xml, line 3: a polyline is not an"),
        (lambda root: cvat(root, '<box label="dog" xtl="1" ytl="1" xbr="2" ybr="2"/>'), "the class 'dog' is not in"),
        (
            lambda root: label_studio(root, {"id": "r", "type": "rectanglelabels", "value": {}}),
            "task 7, result r: it has",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, make, told):
    make(tmp_path)
    with pytest.raises(DataError, match=told):  # some have no object left, which is an error at once
        raise DataError("\n".join(map(str, find_problems(only_split(tmp_path)))))


def test_flags_and_shapes_of_the_formats(tmp_path):
    voc(tmp_path / "difficult", more="<difficult>1</difficult>")
    assert only(open_labels(tmp_path / "difficult"))[1]["iscrowd"] == 1
    open_images(tmp_path / "group", 1)
    assert only(open_labels(tmp_path / "group"))[1]["iscrowd"] == 1
    buffer = io.BytesIO()
    Image.fromarray(np.ones((8, 20), np.uint8) * 255).save(buffer, "PNG")
    code = base64.b64encode(buffer.getvalue()).decode()
    labelme(tmp_path / "mask", {"label": "cat", "shape_type": "mask", "points": [[10, 4], [29, 11]], "mask": code})
    cvat(tmp_path / "cvat", '<mask label="cat" rle="0, 160" left="10" top="4" width="20" height="8"/>')
    expected = np.zeros((20, 40), np.uint8)
    expected[4:12, 10:30] = 1
    for name in ("mask", "cvat"):
        found = only(open_labels(tmp_path / name, "masks"))[1]
        assert found["bbox"] == BOX
        pytest.importorskip("faster_coco_eval")
        assert np.array_equal(decode_masks([found["segmentation"]], 20, 40)[0], expected)
    turned = '<box label="cat" xtl="10" ytl="4" xbr="30" ybr="12" rotation="90"/>'
    cvat(tmp_path / "turned", turned)
    assert only(open_labels(tmp_path / "turned"))[1]["bbox"] == pytest.approx([16, -2, 8, 20])


def test_rotated_images_are_labeled_as_they_are_seen(tmp_path):
    yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 40)).save(tmp_path / "images/a.png", exif=exif)
    split, found = only(open_labels(tmp_path))
    assert found["bbox"] == pytest.approx(BOX)
    assert find_problems(split) == []


def test_entities_are_refused(tmp_path):
    voc(tmp_path)
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'
    (tmp_path / "Annotations/b.xml").write_text(bomb)
    split, _ = only(open_labels(tmp_path))
    (problem,) = split.problems
    assert "Annotations/b.xml: line 1: XML entities are refused" in str(problem).replace(".xml: , ", ".xml: ")


def test_ambiguous_and_unknown_formats_are_named(tmp_path):
    yolo(tmp_path / "two")
    voc(tmp_path / "two")
    with pytest.raises(DataError, match=r"several label formats: YOLO .*data.yaml.*; Pascal VOC"):
        open_labels(tmp_path / "two")
    assert find_labels(tmp_path / "two/data.yaml").format == "YOLO"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.tfrecord").write_bytes(b"")
    with pytest.raises(DataError, match="looks like TFRecord"):
        open_labels(tmp_path / "other")


def test_division_is_remembered(tmp_path):
    yolo(tmp_path)
    for i in range(8):
        image(tmp_path / "images", f"{i}.png")
    whole = open_labels(tmp_path)["all"]
    parts = [divide(whole, Division(folds=5, fold=fold))[1] for fold in range(1, 6)]
    assert sorted(i for part in parts for i in part.paths()) == sorted(whole.paths())
    known = Division(0.3, seed=1).described(map(str, whole.paths().values()))
    assert known["digest"] == digest_of(map(str, whole.paths().values()))
    held, name, (note,) = evaluated_split({"all": whole}, None, known, "data")
    assert (name, len(held)) == ("val", 3)
    assert "3 were held out" in note
    other = whole.without([1])
    assert evaluated_split({"all": other}, None, known, "data")[1] == "all"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    make_shapes(tmp_path_factory.mktemp("data") / "shapes", 12, 64)
    return tmp_path_factory.getbasetemp() / "data0/shapes"


@pytest.mark.parametrize(
    ("to", "need"), [(t, n) for t in ("coco", "yolo", "voc") for n in ("boxes", "masks", "keypoints")]
)
def test_shapes_converted_there_and_back_are_the_same(tmp_path, shapes, to, need):
    pytest.importorskip("faster_coco_eval")
    if (to, need) == ("voc", "keypoints"):
        with pytest.raises(VanError, match="has no keypoints"):
            convert_labels(shapes, tmp_path / "new", to, need)
        assert not (tmp_path / "new").exists()
        return
    convert_labels(shapes, tmp_path / "new", to, need)
    before, after = open_labels(shapes, need), open_labels(tmp_path / "new", need)
    assert list(after) == list(before) == ["train", "val"]
    for split, old in before.items():
        new = after[split]
        named = {new.image_path(i).name: i for i in new.images}
        assert len(named) == len(old)
        for record in old.images:
            height, width = record["height"], record["width"]
            mine = [a for a in old.annotations(record["id"]) if to != "yolo" or not a["iscrowd"]]
            theirs = new.annotations(named[record["file_name"]]["id"])
            assert len(mine) == len(theirs)
            for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
                assert old.class_names[old.labels[a["category_id"]]] == new.class_names[new.labels[b["category_id"]]]
                assert b["bbox"] == pytest.approx(a["bbox"], abs=0.02)
                if to != "yolo":
                    assert a["iscrowd"] == b["iscrowd"]
                if need == "keypoints":
                    assert b["keypoints"] == pytest.approx(a["keypoints"], abs=0.01)
                if need == "masks":
                    one, two = (decode_masks([x["segmentation"]], height, width)[0] for x in (a, b))
                    if to == "voc":  # later objects cover earlier ones
                        covered = decode_masks([x["segmentation"] for x in mine[i + 1 :]], height, width).any(0)
                        one = one & ~covered
                    assert (one != two).sum() <= 0.02 * one.sum()


def test_masks_are_outlined_exactly():
    pytest.importorskip("faster_coco_eval")
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.kron(rng.random((6, 7)) < 0.5, np.ones((3, 3))).astype(bool)  # holes, several parts, touching corners
        mask[9, 9] = True
        polygon = one_outline(outlines(mask))
        assert np.array_equal(decode_masks([[polygon]], *mask.shape)[0].astype(bool), mask)


def test_semantic_labels_come_from_masks_and_outlines(tmp_path, shapes):
    pytest.importorskip("faster_coco_eval")
    convert_labels(shapes, tmp_path / "voc", "voc", "masks")
    convert_labels(shapes, tmp_path / "yolo", "yolo", "masks")
    voc_splits, yolo_splits = find_semantic_splits(tmp_path / "voc"), find_semantic_splits(tmp_path / "yolo")
    assert voc_splits["train"].class_names == ["background", "person", "circle", "square", "triangle", "star"]
    assert yolo_splits["val"].class_names == voc_splits["val"].class_names
    drawn, stored = yolo_splits["val"].labels(0), voc_splits["val"].labels(0)
    assert drawn.shape == stored.shape
    assert (drawn == stored).mean() > 0.9


# ---------------------------------------------------------------------------------------------------- rare shapes


def brush(mask):
    """Encode a mask (H, W) as Label Studio does: red, green, blue and alpha of each pixel, in runs of one value."""
    values = np.repeat(mask.astype(np.uint8).ravel() * 255, 4)
    ends = [*np.flatnonzero(np.diff(values)) + 1, len(values)]
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    for start, end in zip([0, *ends], ends, strict=False):
        bits += f"1{3:02b}{end - start - 1:016b}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_label_studio_brush_ellipse_and_keypoints(tmp_path):
    pytest.importorskip("faster_coco_eval")
    mask = np.zeros((20, 40), bool)
    mask[4:12, 10:30] = True
    mask[6, 12] = False
    value = {"format": "rle", "rle": brush(mask), "brushlabels": ["cat"]}
    result = {"id": "b", "type": "brushlabels", "value": value, "original_width": 40, "original_height": 20}
    label_studio(tmp_path / "brush", result)
    found = only(open_labels(tmp_path / "brush", "masks"))[1]
    assert np.array_equal(decode_masks([found["segmentation"]], 20, 40)[0].astype(bool), mask)
    value = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "ellipselabels": ["cat"]}
    label_studio(tmp_path / "ellipse", {"id": "e", "type": "ellipselabels", "value": value})
    assert only(open_labels(tmp_path / "ellipse"))[1]["bbox"] == pytest.approx([12, 8, 16, 4], abs=0.01)
    label_studio(tmp_path / "turned", {"id": "e", "type": "ellipselabels", "value": {**value, "rotation": 90}})
    assert only(open_labels(tmp_path / "turned"))[1]["bbox"] == pytest.approx([18, 2, 4, 16], abs=0.01)
    box = {"x": 25, "y": 20, "width": 50, "height": 40, "rectanglelabels": ["cat"]}
    points = [
        {"id": name, "type": "keypointlabels", "parentID": "r", "value": {"x": x, "y": 50, "keypointlabels": [name]}}
        for name, x in (("left", 30), ("right", 60))
    ]
    label_studio(tmp_path / "points", {"id": "r", "type": "rectanglelabels", "value": box}, *points)
    split, found = only(open_labels(tmp_path / "points", "keypoints"))
    assert split.keypoint_names == ["left", "right"]
    assert split.flip_pairs == [(0, 1)]
    assert found["keypoints"] == pytest.approx([12, 10, 2, 24, 10, 2])
    assert found["bbox"] == pytest.approx(BOX)
    label_studio(tmp_path / "cut", {**result, "value": {**result["value"], "rle": brush(mask)[:9]}})
    with pytest.raises(DataError, match="result b: rle ends too early"):
        open_labels(tmp_path / "cut")


def test_labelme_and_cvat_keypoints(tmp_path):
    box = {"label": "cat", "shape_type": "rectangle", "points": [[10, 4], [30, 12]], "group_id": 1}
    eye = {"label": "eye", "shape_type": "point", "points": [[12, 5]], "group_id": 1}
    tail = {"label": "tail", "shape_type": "point", "points": [[29, 11]], "group_id": 1, "flags": {"occluded": True}}
    labelme(tmp_path / "labelme", box, tail, eye)
    split, found = only(open_labels(tmp_path / "labelme", "keypoints"))
    assert split.keypoint_names == ["tail", "eye"]
    assert found["keypoints"] == [29, 11, 1, 12, 5, 2]
    assert found["bbox"] == BOX
    labelme(tmp_path / "alone", box, {**eye, "group_id": 2})
    (problem,) = only(open_labels(tmp_path / "alone", "keypoints"))[0].problems
    assert "'eye' has no rectangle or polygon" in str(problem)
    labels = "<label><name>cat</name></label>" + "".join(
        f"<label><name>{name}</name><parent>cat</parent></label>" for name in ("eye", "ear", "tail")
    )
    shape = '<skeleton label="cat"><points label="tail" points="29,11" occluded="1"/>'
    shape += '<points label="ear" points="0,0" outside="1"/><points label="eye" points="12,5"/></skeleton>'
    cvat(tmp_path / "cvat", shape, labels)
    split, found = only(open_labels(tmp_path / "cvat", "keypoints"))
    assert split.keypoint_names == ["eye", "ear", "tail"]
    assert found["keypoints"] == [12, 5, 2, 0, 0, 0, 29, 11, 1]
    assert found["num_keypoints"] == 2
    assert found["bbox"] == [12, 5, 17, 6]


def test_cvat_layers_and_ellipses(tmp_path):
    box = '<box label="cat" xtl="{}" ytl="0" xbr="30" ybr="12" z_order="{}"/>'
    cvat(tmp_path / "layers", box.format(1, 2) + box.format(2, -1) + box.format(3, 0))
    split = only_split(tmp_path / "layers")
    assert [a["bbox"][0] for a in split.all_annotations()] == [2, 3, 1]
    cvat(tmp_path / "odd", box.format(1, "top") + box.format(2, 0))
    split = only_split(tmp_path / "odd")
    assert [a["bbox"][0] for a in split.all_annotations()] == [2]
    assert "annotations.xml, line 3: z_order is 'top', expected a number" in str(split.problems[0])
    cvat(tmp_path / "turned", '<ellipse label="cat" cx="20" cy="10" rx="8" ry="2" rotation="90"/>')
    assert only(open_labels(tmp_path / "turned"))[1]["bbox"] == pytest.approx([18, 2, 4, 16], abs=0.01)


def test_pascal_voc_counts_pixels_from_one(tmp_path):
    voc(tmp_path)
    path = tmp_path / "Annotations/a.xml"
    path.write_text(
        path.read_text().replace("<object>", "<source><database>The VOC2012 Database</database></source><object>")
    )
    assert only(open_labels(tmp_path))[1]["bbox"] == [9.0, 3.0, 21.0, 9.0]  # both corners are in the box


def test_masks_in_the_colors_of_a_labelmap(tmp_path):
    voc(tmp_path)
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n")
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[4:12, 10:30] = (250, 50, 83)
    Image.fromarray(pixels).save(tmp_path / "SegmentationClass/a.png")
    split = find_semantic_splits(tmp_path)["all"]
    assert split.class_names == ["background", "cat"]
    expected = np.zeros((20, 40), np.uint8)
    expected[4:12, 10:30] = 1
    assert np.array_equal(split.labels(0), expected)
    pixels[0, 0] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "SegmentationClass/a.png")
    with pytest.raises(DataError, match=r"color \(1, 2, 3\), which labelmap.txt does not list"):
        split.labels(0)


def test_yolo_splits_as_lists_of_paths(tmp_path):
    yolo(tmp_path, about="names: [dog, cat]\npath: .\ntrain: train.txt\nval: [val.txt]\n")
    (tmp_path / "train.txt").write_text("./images/a.png\n")
    (tmp_path / "val.txt").write_text(f"{tmp_path}/images/empty.png\n\n")
    splits = open_labels(tmp_path)
    assert {name: [split.image_path(i).name for i in split.images] for name, split in splits.items()} == {
        "train": ["a.png"],
        "val": ["empty.png"],
    }
    assert [a["bbox"] for a in splits["train"].all_annotations()] == [pytest.approx(BOX)]
    assert not list(splits["val"].all_annotations())
    (tmp_path / "train.txt").write_text("./images/gone.png\n")
    problems = find_problems(open_labels(tmp_path)["train"])
    assert any("images/gone.png" in problem.file for problem in problems)
