"""Writes annotations in COCO's terms as LabelMe, CVAT and Label Studio export them, which van itself only reads."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from van.data.labels import open_labels
from van.data.labels.convert import convert_labels, mask_of, one_outline, outlines


def write(source, folder: Path, name: str, need: str) -> Path:
    """Write the annotations of a data set in another format, crowd regions aside, and return the folder.

    Args:
        source: Folder of a data set.
        folder: Of the new one.
        name: Of the format.
        need: boxes, masks (as outlines) or keypoints.
    """
    if name in ("COCO", "YOLO", "Pascal VOC"):
        convert_labels(source, folder, {"Pascal VOC": "voc"}.get(name, name.lower()), need)
        return folder
    writers = {"LabelMe": labelme, "CVAT": cvat, "Label Studio": label_studio, "Open Images": open_images}
    writers[name](open_labels(source, need), folder, need)
    return folder


def _images(split):
    for image in split.images:
        objects = [a for a in split.annotations(image["id"]) if not a.get("iscrowd")]
        yield image, [(split.class_names[split.labels[a["category_id"]]], a) for a in objects]


def _copy(split, image, folder):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(split.image_path(image), folder / image["file_name"])


def _points(split, annotation, need):
    """Return name, x, y and visibility of each keypoint; none where they are not wanted."""
    if need != "keypoints":
        return []
    points = np.array(annotation["keypoints"]).reshape(-1, 3).tolist()
    return [(name, *point) for name, point in zip(split.keypoint_names, points, strict=True)]


def _outline(annotation, image):
    """Return one outline (N, 2) of an object."""
    parts = annotation["segmentation"]
    if isinstance(parts, list) and len(parts) == 1:
        return np.reshape(parts[0], (-1, 2))
    return np.reshape(one_outline(outlines(mask_of(annotation, image))), (-1, 2))


def labelme(splits, folder, need):
    for name, split in splits.items():
        for image, objects in _images(split):
            _copy(split, image, folder / name)
            shapes = []
            for group, (label, a) in enumerate(objects):
                x, y, w, h = a["bbox"]
                shape = {
                    "label": label,
                    "shape_type": "rectangle",
                    "points": [[x, y], [x + w, y + h]],
                    "group_id": group,
                }
                if need == "masks":
                    shapes.append({**shape, "shape_type": "polygon", "points": _outline(a, image).tolist()})
                    continue
                shapes.append(shape)
                for point, px, py, seen in _points(split, a, need):
                    one = {"label": point, "shape_type": "point", "points": [[px, py]], "group_id": group}
                    shapes += [{**one, "flags": {"occluded": seen == 1}}] if seen else []
            content = {"shapes": shapes, "imagePath": image["file_name"], "imageData": None}
            content |= {"imageWidth": image["width"], "imageHeight": image["height"]}
            (folder / name / image["file_name"]).with_suffix(".json").write_text(json.dumps(content))


def cvat(splits, folder, need):
    top = ElementTree.Element("annotations")
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(top, "meta"), "task"), "labels")
    first = next(iter(splits.values()))
    for name in first.class_names:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for name in first.keypoint_names:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "parent").text = first.class_names[0]
    for name, split in splits.items():
        for image, objects in _images(split):
            _copy(split, image, folder / "images")
            sizes = {key: str(image[key]) for key in ("id", "width", "height")}
            element = ElementTree.SubElement(
                top, "image", name=image["file_name"], subset={"train": "Train", "val": "Validation"}[name], **sizes
            )
            for label, a in objects:
                if need == "keypoints":
                    skeleton = ElementTree.SubElement(element, "skeleton", label=label, z_order="0")
                    for point, x, y, seen in _points(split, a, need):
                        flags = {"outside": str(int(not seen)), "occluded": str(int(seen == 1))}
                        ElementTree.SubElement(skeleton, "points", label=point, points=f"{x},{y}", **flags)
                elif need == "masks":
                    text = ";".join(f"{x},{y}" for x, y in _outline(a, image))
                    ElementTree.SubElement(element, "polygon", label=label, points=text, z_order="0")
                else:
                    x, y, w, h = a["bbox"]
                    box = {"xtl": str(x), "ytl": str(y), "xbr": str(x + w), "ybr": str(y + h)}
                    ElementTree.SubElement(element, "box", label=label, z_order="0", **box)
    ElementTree.ElementTree(top).write(folder / "annotations.xml")


def label_studio(splits, folder, need):
    for name, split in splits.items():
        tasks = []
        for image, objects in _images(split):
            _copy(split, image, folder / "media")
            scale = 100 / np.array([image["width"], image["height"]])
            results = []
            for number, (label, a) in enumerate(objects):
                value = dict(zip(("x", "y", "width", "height"), (a["bbox"] * np.tile(scale, 2)).tolist(), strict=True))
                one = {"id": str(number), "type": "rectanglelabels", "value": {**value, "rectanglelabels": [label]}}
                if need == "masks":
                    points = (_outline(a, image) * scale).tolist()
                    one |= {"type": "polygonlabels", "value": {"points": points, "polygonlabels": [label]}}
                results.append(one)
                for point, *place, seen in _points(split, a, need):
                    x, y = (place * scale).tolist()
                    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [point]}
                    child = {"type": "keypointlabels", "value": value, "parentID": str(number)}
                    results += [{"id": f"{number}-{point}", **child}] if seen else []
            data = {"image": f"/data/upload/1/0123abcd-{image['file_name']}"}
            tasks.append({"id": image["id"], "data": data, "annotations": [{"result": results}]})
        (folder / f"{name}.json").write_text(json.dumps(tasks))


def open_images(splits, folder, need):
    for name, split in splits.items():
        lines = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax"]
        for image, objects in _images(split):
            _copy(split, image, folder / name)
            for label, a in objects:
                x, y, w, h = np.array(a["bbox"]) / np.tile([image["width"], image["height"]], 2)
                lines.append(f"{Path(image['file_name']).stem},x,{label},1,{x},{x + w},{y},{y + h}")
        split_name = {"val": "validation"}.get(name, name)
        (folder / f"{split_name}-annotations-bbox.csv").write_text("\n".join(lines) + "\n")
