"""What is worth knowing about a data set: copies, uneven classes, tiny objects, odd images."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from van.data.duplicates import find_duplicates, fingerprint
from van.data.inspection import facts_of, inspect
from van.data.pairs import Pairs
from van.data.regions import GRID, cover_of_boxes, regions_of_pixels
from van.data.semantic import SemanticSplit
from van.engine.checking import check_data


def picture(seed, size=(96, 64)):
    """A picture with large shapes, so that its low frequencies tell it from others."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 9, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def kinds(found):
    return [finding.kind for finding in found.findings]


def test_copies_are_found_across_many_images():
    rng = np.random.default_rng(0)
    images = [picture(seed) for seed in range(60)]
    images += [images[3].resize((48, 32)), images[3].resize((200, 133)), images[7].copy()]
    codes, thumbs = zip(*map(fingerprint, images), strict=True)
    digests = [image.tobytes() for image in images]
    groups = find_duplicates(digests, np.array(codes, np.uint64), np.array(thumbs))
    assert [(group.members, group.exact) for group in groups] == [((3, 60, 61), False), ((7, 62), True)]
    # among random images, and very many that are the same
    codes = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    thumbs = rng.integers(0, 255, (3000, 16, 16, 3), dtype=np.uint8)
    codes[5], thumbs[5] = codes[2900] ^ np.uint64(0b1001), thumbs[2900]
    codes[100:900], thumbs[100:900] = codes[100], 90
    codes[900], thumbs[900] = codes[100], 200  # the same hash, but another picture
    groups = find_duplicates([b"%d" % i for i in range(3000)], codes, thumbs)
    assert [group.members for group in groups] == [(5, 2900), tuple(range(100, 900))]


def test_what_a_file_is_like(tmp_path):
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (40, 30)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    picture(0, (40, 30)).transpose(Image.Transpose.ROTATE_270).save(tmp_path / "same.jpg")
    assert facts_of(tmp_path / "deep.png").kind == ("grey", "16-bit")
    assert facts_of(tmp_path / "clear.png").kind == ("transparent",)
    turned, same = facts_of(tmp_path / "turned.jpg"), facts_of(tmp_path / "same.jpg")
    assert (turned.kind, turned.size, same.size) == (("rotated",), (30, 40), (30, 40))
    assert (turned.code ^ same.code).bit_count() <= 2
    header = facts_of(tmp_path / "turned.jpg", decode=False)
    assert (header.size, header.kind, header.digest) == ((30, 40), ("rotated",), b"")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert facts_of(tmp_path / "broken.png").size == (0, 0)


def test_places_of_boxes_and_pixels():
    half = cover_of_boxes(np.array([[0, 0, 50, 100]]), np.array([[100, 100]]))
    assert half[:, : GRID // 2].all()
    assert not half[:, GRID // 2 :].any()
    labels = np.full((3, 5), 255)
    labels[:, 3:] = 1
    found = regions_of_pixels(labels, 2)
    assert found.labels.tolist() == [1]
    assert found.boxes.tolist() == [[3, 0, 2, 3]]
    assert found.areas.tolist() == [6]
    assert found.cover[0].mean() == pytest.approx(0.4, abs=0.03)


def test_semantic_regions(tmp_path):
    picture(0).save(tmp_path / "a.png")
    Image.fromarray(np.repeat(np.array([[0, 1], [0, 255]], np.uint8), 40, 1)).save(tmp_path / "m.png")
    pairs = Pairs([tmp_path / "a.png"], [tmp_path / "m.png"], [])
    found = inspect(SemanticSplit(pairs.images, pairs.masks, ["a", "b"]))
    assert found.labels.tolist() == [0, 1]
    assert found.areas.tolist() == [80, 40]
    assert found.per_image.tolist() == [2]
    assert found.cover.shape == (2, GRID, GRID)


@pytest.fixture
def pets(tmp_path):
    seeds = iter(range(100, 200))
    for split, counts in (("train", {"cat": 30, "dog": 2}), ("val", {"cat": 3, "dog": 2})):
        for name, count in counts.items():
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                picture(next(seeds)).save(tmp_path / "pets" / split / name / f"{i}.png")
    return tmp_path / "pets"


def test_report_of_class_folders(pets, tmp_path):
    picture(1).save(pets / "train/cat/leak.png")
    picture(1).save(pets / "val/cat/leak.jpg", quality=60)
    picture(2).save(pets / "train/cat/same.png")
    picture(2).save(pets / "train/dog/same.png")
    picture(3, (200, 20)).save(pets / "train/cat/narrow.png")
    found = check_data(str(pets), output=str(tmp_path / "report"))
    assert not found.problems
    assert kinds(found)[:3] == ["leaks", "duplicates", "contradictions"]
    assert set(kinds(found)[3:]) == {"imbalance", "narrow images", "small images"}
    content = json.loads((tmp_path / "report/check.json").read_text())
    assert [finding["kind"] for finding in content["findings"]] == kinds(found)
    (leak,) = content["findings"][0]["items"]
    assert leak["exact"] is False
    assert {file["file"] for file in leak["files"]} == {f"{pets}/train/cat/leak.png", f"{pets}/val/cat/leak.jpg"}
    assert (tmp_path / "report/check.txt").read_text() == f"{found}\n"
    assert "leaks" not in kinds(check_data(str(pets), decode=False))


def test_tiny_objects_depend_on_the_size_of_training(tmp_path):
    picture(0).save(tmp_path / "a.png")
    images = [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}]
    boxes = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [9, 9, 30, side], "iscrowd": 0}
        for i, side in ((1, 2), (2, 20))
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert "tiny objects" not in kinds(check_data(str(tmp_path), "detection", short_edge=256))
    found = check_data(str(tmp_path), "detection", short_edge=128)
    (tiny,) = [finding for finding in found.findings if finding.kind == "tiny objects"]
    assert tiny.items[0]["box"] == [9, 9, 30, 2]
