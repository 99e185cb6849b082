"""CSV files with the labels of images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from van.data.samples import split_samples
from van.data.sources import check, open_data, relabel
from van.data.splits import Division
from van.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for name in ("0.png", "1.png", "2.png", "3.png", "a,b.png", "two.png", "two.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "inside.png")
    return tmp_path


@pytest.fixture
def opened(folder):
    """Open a CSV file with a text: opened(text, target, encoding)."""

    def make(text, target=None, encoding="utf-8"):
        (folder / "x.csv").write_bytes(text.encode(encoding))
        return open_data(str(folder / "x.csv"), None, target)["all"]

    return make


def named(samples):
    """Labels by the name of the image file."""
    return {Path(samples.name(i)).name: label for i, label in enumerate(samples.labels)}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("image,label\n0.png,cat\n1.png,dog\n", "utf-8"),
        ("\ufeffImage;Label\r\n0.png;cat\r\n\r\n1.png;dog\r\n", "utf-8"),
        ("image\tlabel\n0.png\tcat\n1.png\tdog", "utf-16"),
        (',image,label\n0,"0.png","cat"\n1, 1.png , dog \n', "utf-8"),
        ("label,image\ncat,0\ndog,1\n", "utf-8"),
        ("image,label\n.\\0.png,cat\n./1.png,dog\n", "utf-8"),
    ],
)
def test_one_class_however_the_file_is_written(opened, text, encoding):
    samples = opened(text, encoding=encoding)
    assert (samples.kind.name, samples.class_names) == ("single-label", ["cat", "dog"])
    assert named(samples) == {"0.png": 0, "1.png": 1}
    assert not samples.problems


def test_paths(opened, folder):
    samples = opened(f'image,label\n{folder / "0.png"},x\n"a,b.png","x, y"\ninside,x\n')
    assert [samples.name(i) for i in range(3)] == [str(folder / n) for n in ("0.png", "a,b.png", "images/inside.png")]
    assert samples.class_names == ["x", "x, y"]


@pytest.mark.parametrize(
    ("text", "kind", "names", "labels"),
    [
        ("image,label\n0.png,10\n1.png,9\n", "single-label", ["9", "10"], [1, 0]),
        ("image,labels\n0.png,a|b\n1.png,\n2.png,b\n", "multi-label", ["a", "b"], [(0, 1), (), (1,)]),
        ("image,b,a\n0.png,1,0\n1.png,0,0\n2.png,True,1\n", "multi-label", ["b", "a"], [(0,), (), (0, 1)]),
        ("image,age\n0.png,31\n1.png,4e1\n", "regression", ["age"], [(31.0,), (40.0,)]),
        ("image,x,y\n0.png,31,2.5\n1.png,-3,0\n", "regression", ["x", "y"], [(31.0, 2.5), (-3.0, 0.0)]),
    ],
)
def test_columns_say_what_labels_are(opened, text, kind, names, labels):
    samples = opened(text)
    assert (samples.kind.name, samples.class_names, samples.labels) == (kind, names, labels)
    assert opened(text, kind).labels == labels


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("image,label\n0.png,a|b\n1.png,a\n", {"single-label": [1, 0], "multi-label": [(0, 1), (0,)]}),
        ("image,label\n0.png,0.5\n1.png,2\n", {"single-label": [0, 1], "regression": [(0.5,), (2.0,)]}),
        ("image,labels\n0.png,a\n1.png,b\n", {"single-label": [0, 1], "multi-label": [(0,), (1,)]}),
        (
            "image,bad\n0.png,1\n1.png,0\n",
            {"single-label": [1, 0], "multi-label": [(0,), ()], "regression": [(1.0,), (0.0,)]},
        ),
        ("image,class\n0.png,1\n1.png,7\n", {"single-label": [0, 1], "regression": [(1.0,), (7.0,)]}),
        ("image,label,age\n0.png,a,9\n1.png,b,8\n", {"single-label": [0, 1], "regression": [(9.0,), (8.0,)]}),
        ("image,a,b\n0.png,1,0\n1.png,0,7\n", {"regression": [(1.0, 0.0), (0.0, 7.0)], "multi-label": None}),
    ],
)
def test_what_fits_several_kinds_needs_the_target(opened, text, kinds):
    with pytest.raises(DataError) as error:
        opened(text)
    known = ("single-label", "multi-label", "regression")
    assert {kind for kind in known if f"--target {kind}" in str(error.value)} == kinds.keys()
    for kind, labels in kinds.items():
        if labels is not None:
            assert opened(text, kind).labels == labels


@pytest.mark.parametrize(
    ("text", "target", "words"),
    [
        ("0.png,cat\n1.png,dog\n", None, "the first line is '0.png,cat'"),
        ("image|label\n0.png|cat\n", None, "commas, semicolons or tabs"),
        ("", None, "the first line is ''"),
        ("image\n0.png\n", None, "only the column image"),
        ("image,label\n", None, "no rows"),
        ("image,label,label\n0.png,a,b\n", None, "two columns named 'label'"),
        ("image,breed\n0.png,a\n", None, "rename the column with the class to label"),
        ("image,label\n0.png,a\n", "regression", "no labels for regression"),
        ('image,label\n0.png,"a\n1.png,b\n', None, "Check the quotes"),
        ("image,label\nno.png,a\n", None, "no row that can be used"),
        ("image,label\nno.png,größe\n", None, "not encoded as UTF-8"),
    ],
)
def test_files_that_cannot_be_read(opened, text, target, words):
    with pytest.raises(DataError, match=words):
        opened(text, target, "latin-1")


ROWS = [
    ("label", "0.png,a\n1.png,\n", 3, "label is empty"),
    ("label", "0.png,a\n1.png,b,c\n", 3, "3 cells, expected 2"),
    ("label", "0.png,a\nno.png,b\n", 3, "does not exist"),
    ("label", "0.png,a\nimages,b\n", 3, "is a folder"),
    ("label", "0.png,a\n,b\n", 3, "image is empty"),
    ("label", "0.png,a\nhttps://x.org/1.png,b\n", 3, "is a URL"),
    ("label", "0.png,a\ntwo,b\n", 3, "two.jpg or two.png"),
    ("label", "0.png,a\n1.png,b\n0.png,a\n", 4, "is in line 2 already"),
    ("label", "0.png,a\n1.png,b\n0.png,b\n", 2, "another label in line 4"),
    ("labels", "0.png,a|b\n1.png,a||b\n", 3, "nothing beside"),
    ("a,b", "0.png,1,0\n1.png,1,\n", 3, "b is empty, expected 0 or 1"),
    ("age", "0.png,1\n1.png,2\n2.png,nan\n", 4, "age is 'nan', expected a number"),
    ("age", "0.png,1\n1.png,2\n2.png,old\n", 4, "age is 'old'"),
]


@pytest.mark.parametrize(("column", "rows", "line", "words"), ROWS)
def test_problems_of_rows_are_named_by_line(opened, folder, column, rows, line, words):
    samples = opened(f"image,{column}\n{rows}")
    found = [str(problem) for problem in check({"all": samples}) if "x.csv" in str(problem)]
    assert any(text.startswith(f"{folder / 'x.csv'}, line {line}: ") and words in text for text in found)


def test_images_in_two_splits_and_constant_numbers_are_problems(folder):
    for name, rows in (("train", "0.png,5\n1.png,5\n"), ("val", "1.png,5\n2.png,5\n")):
        (folder / f"{name}.csv").write_text(f"image,age\n{rows}")
    text = "\n".join(map(str, check(open_data(str(folder)))))
    assert f"1.png: the image is in {folder / 'train.csv'} and in {folder / 'val.csv'}" in text
    assert "age: all images have the same number, 5" in text


class TestFolders:
    def test_train_and_val(self, folder):
        (folder / "train.csv").write_text("image,b,a\n0.png,1,1\n1.png,0,1\n")
        (folder / "val.csv").write_text("image,a,b\n2.png,1,0\n3,0,1\n")
        (folder / "test.csv").write_text("image\n3.png\n")  # without labels
        splits = open_data(str(folder))
        assert {name: split.labels for name, split in splits.items()} == {
            "train": [(0, 1), (1,)],
            "val": [(1,), (0,)],
        }

    def test_one_file(self, folder):
        (folder / "anything.csv").write_text("image,label\ninside,a\n0,b\n")
        assert named(open_data(str(folder))["all"]) == {"0.png": 1, "inside.png": 0}

    def test_which_one(self, folder):
        for name in ("one", "other"):
            (folder / f"{name}.csv").write_text("image,label\n0,a\n1,b\n")
        with pytest.raises(DataError, match=r"one\.csv, other\.csv"):
            open_data(str(folder))

    def test_class_folders_beside_a_file(self, folder):
        for name in ("cat", "dog"):
            (folder / name).mkdir()
            shutil.copy(folder / "0.png", folder / name)
        (folder / "x.csv").write_text("image,label\n0,a\n1,b\n")
        with pytest.raises(DataError, match="class folders"):
            open_data(str(folder))
        assert open_data(str(folder / "x.csv"))["all"].class_names == ["a", "b"]

    def test_files_about_something_else_do_not_matter(self, folder):
        for path in folder.glob("*.png"):
            path.unlink()
        (folder / "two.jpg").unlink()
        (folder / "images").rename(folder / "cat")
        shutil.copytree(folder / "cat", folder / "dog")
        (folder / "notes.csv").write_text("file,label\ninside,a\n")
        assert open_data(str(folder))["all"].class_names == ["cat", "dog"]

    def test_columns_differ(self, folder):
        (folder / "train.csv").write_text("image,age\n0.png,1\n1.png,2\n")
        (folder / "val.csv").write_text("image,size\n2.png,1\n")
        with pytest.raises(DataError, match="no column 'age'"):
            open_data(str(folder))


class TestSplits:
    @pytest.fixture
    def many(self, tmp_path):
        """A data set of 40 images: open(text of the labels, header)."""
        Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
        for i in range(1, 40):
            shutil.copy(tmp_path / "0.png", tmp_path / f"{i}.png")

        def make(header, rows, order=range(40)):
            (tmp_path / "x.csv").write_text("\n".join([f"image,{header}", *(f"{i}.png,{rows[i]}" for i in order)]))
            return open_data(str(tmp_path / "x.csv"))["all"]

        return make

    def test_rare_classes_are_on_both_sides(self, many):
        rows = ["a|rare" if i in (3, 30) else "a|b" if i % 3 else "" for i in range(40)]
        for seed in range(10):
            train, val = split_samples(many("labels", rows), Division(0.2, seed))
            assert not train.missing_classes()
            assert 6 <= len(val) <= 8
            assert len(train) + len(val) == 40

    def test_a_class_that_would_be_held_out_whole_trains(self, many):
        rows = ["a|b" if i in (3, 30) else "a" for i in range(40)]
        for fold in range(1, 6):
            train, val = split_samples(many("labels", rows), Division(0.2, 1, 5, fold))
            assert not train.missing_classes()
            assert len(val) >= 6

    def test_folds_hold_out_each_image_once_and_numbers_of_all_sizes(self, many):
        samples = many("age", [i * i for i in range(40)])
        vals = [split_samples(samples, Division(0.2, 0, 5, fold))[1] for fold in range(1, 6)]
        assert sorted(label for val in vals for label in val.labels) == sorted(samples.labels)
        for val in vals:
            ages = np.sqrt(np.array(val.labels)[:, 0])
            assert (ages < 10).sum() == (ages >= 30).sum() == 2

    def test_the_order_of_rows_and_columns_makes_no_difference(self, many):
        bits = [(i % 2, int(i % 5 == 0), int(i % 7 == 0)) for i in range(40)]
        names = ["a", "b", "c"]
        listed = ["|".join(n for n, bit in zip(names, row, strict=True) if bit) for row in bits]
        turned = [",".join(map(str, (row[2], row[0], row[1]))) for row in bits]
        one = split_samples(many("labels", listed), Division())[1]
        first = [one.name(i) for i in range(len(one))], sorted(one.signature(i) for i in range(len(one)))
        other = split_samples(many("c,a,b", turned, reversed(range(40))), Division())[1]
        assert first == (
            [other.name(i) for i in range(len(other))],
            sorted(other.signature(i) for i in range(len(other))),
        )


class TestRelabel:
    def test_classes_are_matched_by_name(self, opened):
        samples = opened("image,labels\n0.png,a|b\n1.png,b\n")
        relabel(samples, ["b", "x", "a"], "the data")
        assert samples.labels == [(0, 2), (0,)]
        with pytest.raises(DataError, match="'x'"):
            relabel(opened("image,labels\n0.png,a|x\n1.png,\n"), ["a", "b"], "the data")

    def test_numbers_are_matched_by_name(self, opened):
        samples = opened("image,x,y\n0.png,1,2\n1.png,3,4\n")
        relabel(samples, ["y", "x"], "the data")
        assert samples.labels == [(2.0, 1.0), (4.0, 3.0)]
        with pytest.raises(DataError, match="x, y"):
            relabel(opened("image,x,y\n0.png,1,2\n1.png,3,4\n"), ["x"], "the data")
