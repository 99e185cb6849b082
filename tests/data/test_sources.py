import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler

from van.data.samples import ImageDataset
from van.data.sources import check, open_data, relabel
from van.errors import DataError


def described(samples, helpers):
    """Class name by grey level."""
    return {v: samples.class_names[label] for v, label in zip(helpers.values(samples), samples.labels, strict=True)}


# ------------------------------------------------------------------------------------------------ folders


def test_class_folders(tmp_path, helpers):
    helpers.write_folder(tmp_path, {"dog": [3, 20, 100], "cat": [1, 2]})
    splits = open_data(str(tmp_path))
    assert list(splits) == ["all"]
    samples = splits["all"]
    assert samples.class_names == ["cat", "dog"]
    assert described(samples, helpers) == {1: "cat", 2: "cat", 3: "dog", 20: "dog", 100: "dog"}
    assert samples.name(0) == str(tmp_path / "cat" / "1.png")


def test_class_names_are_in_natural_order(tmp_path, helpers):
    helpers.write_folder(tmp_path, {f"class{i}": [i] for i in (10, 9, 1)})
    assert open_data(str(tmp_path))["all"].class_names == ["class1", "class9", "class10"]


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("training", "validation"), ("train", "test"), ("Train", "Test"), ("Training", "Testing")],
)
def test_split_folders(tmp_path, helpers, train, val):
    helpers.write_folder(tmp_path / train, {"cat": [1], "dog": [2, 3]})
    helpers.write_folder(tmp_path / val, {"cat": [4], "dog": [5]})
    splits = open_data(str(tmp_path))
    assert sorted(splits) == ["train", "val"]
    assert described(splits["train"], helpers) == {1: "cat", 2: "dog", 3: "dog"}
    assert described(splits["val"], helpers) == {4: "cat", 5: "dog"}


def test_validation_comes_before_test(tmp_path, helpers):
    for split, value in (("test", 1), ("validation", 2), ("train", 3)):
        helpers.write_folder(tmp_path / split, {"cat": [value]})
    splits = open_data(str(tmp_path))
    assert {split: helpers.values(samples) for split, samples in splits.items()} == {"train": [3], "val": [2]}


def test_a_class_called_train(tmp_path, helpers):
    helpers.write_folder(tmp_path, {"bus": [1], "train": [2], "tram": [3]})
    splits = open_data(str(tmp_path))
    assert described(splits["all"], helpers) == {1: "bus", 2: "train", 3: "tram"}


def test_splits_without_class_folders(tmp_path, helpers):
    helpers.write_folder(tmp_path, {"train": [1], "val": [2]})
    with pytest.raises(DataError, match="train has no class folders"):
        open_data(str(tmp_path))


def test_folders_inside_class_folders(tmp_path, helpers):
    helpers.write_folder(tmp_path / "cat", {"images": [1], "more": [2]})
    helpers.write_folder(tmp_path / "dog", {"images": [3]})
    samples = open_data(str(tmp_path))["all"]
    assert described(samples, helpers) == {1: "cat", 2: "cat", 3: "dog"}


def test_hidden_files_and_folders_are_left_out(tmp_path, helpers):
    helpers.write_folder(tmp_path, {"cat": [1], "dog": [2], ".ipynb_checkpoints": [3]})
    (tmp_path / "cat" / "._1.png").write_bytes(b"written by macOS")
    samples = open_data(str(tmp_path))["all"]
    assert samples.class_names == ["cat", "dog"]
    assert len(samples) == 2


def test_linked_class_folder(tmp_path, helpers):
    helpers.write_folder(tmp_path / "elsewhere", {"cat": [1]})
    helpers.write_folder(tmp_path / "data", {"dog": [2]})
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    assert described(open_data(str(tmp_path / "data"))["all"], helpers) == {1: "cat", 2: "dog"}


@pytest.mark.parametrize("target", ["..", "../../..", "../dog"])
def test_links_that_would_label_images_twice(tmp_path, helpers, target):
    folder = helpers.write_folder(tmp_path / "data" / "train", {"cat": [1], "dog": [2]})
    (folder / "cat" / "link").symlink_to(target)
    with pytest.raises(DataError, match=r"cat/link.* is a link to .*Remove the link"):
        open_data(str(tmp_path / "data"))


def test_one_folder_under_two_class_names(tmp_path, helpers):
    folder = helpers.write_folder(tmp_path / "data", {"cat": [1]})
    (folder / "dog").symlink_to("cat")
    with pytest.raises(DataError, match=r"dog and .*cat are the same folder"):
        open_data(str(folder))


@pytest.mark.skipif(os.name != "posix", reason="pipes in folders are POSIX's")
def test_pipes_in_class_folders_are_problems(tmp_path, helpers):
    folder = helpers.write_folder(tmp_path / "data", {"cat": [1, 2], "dog": [3, 4]})
    os.mkfifo(folder / "cat" / "9.png")
    (problem,) = check(open_data(str(folder)), workers=0)
    assert str(problem).endswith("9.png: is a pipe, socket or device, expected a file. Remove or replace it")


def test_unusable_folders(tmp_path, helpers):
    with pytest.raises(DataError, match=r"nothing does not exist. Expected digits, .*a \.tar file"):
        open_data(str(tmp_path / "nothing"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=f"{empty} has no class folders"):
        open_data(str(empty))
    data = helpers.write_folder(tmp_path / "data", {"cat": [1], "dog": []})
    with pytest.raises(DataError, match=r"dog has no images \(1 such class folders\).*\.png"):
        open_data(str(data))
    (data / "dog" / "2.png").write_bytes(helpers.png(2))
    (data / "3.png").write_bytes(helpers.png(3))
    with pytest.raises(DataError, match=r"3\.png is outside the class folders. Move it"):
        open_data(str(data))


@pytest.mark.skipif(os.name != "posix", reason="file permissions are POSIX's")
def test_folder_without_permission(tmp_path, helpers):
    for name in ("a", "b"):
        helpers.write_folder(tmp_path / name / "data", {"cat": [1], "dog": [2]})
    closed = [tmp_path / "a" / "data" / "dog", tmp_path / "b" / "data"]
    for path in closed:
        path.chmod(0)
    tmp_path.chmod(0o755)
    code = """
        import os, sys
        from van.data.sources import open_data
        from van.errors import DataError
        if os.getuid() == 0:  # who may read everything
            os.setuid(65534)
        for name in ("a", "b"):
            try:
                open_data(f"/proc/self/fd/{sys.argv[1]}/{name}/data")
            except DataError as error:
                print(error)
    """
    folder = os.open(tmp_path, os.O_RDONLY)  # the folders above may be closed to others
    try:
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(folder)],
            capture_output=True, text=True, timeout=60, pass_fds=[folder],
        )  # fmt: skip
    finally:
        os.close(folder)
        for path in closed:
            path.chmod(0o755)
    assert result.returncode == 0, result.stderr
    for path in closed:
        name = path.relative_to(tmp_path)
        assert f"{name} cannot be opened (Permission denied). Check its permissions." in result.stdout


# ------------------------------------------------------------------------------------------------ tar files


def images(helpers, files):
    return {name: helpers.png(value) for name, value in files.items()}


def test_tar_of_class_folders(tmp_path, helpers):
    files = {"./flowers/rose/2.png": 2, "flowers/daisy/1.png": 1, "flowers/rose/10.png": 10}
    path = helpers.write_tar(tmp_path / "flowers.tar", images(helpers, files) | {"flowers/rose/._2.png": b"macOS"})
    splits = open_data(str(path))
    assert list(splits) == ["all"]
    assert splits["all"].class_names == ["daisy", "rose"]
    assert described(splits["all"], helpers) == {1: "daisy", 2: "rose", 10: "rose"}
    assert {splits["all"].name(i) for i in range(3)} == {f"{path}:{name.removeprefix('./')}" for name in files}
    # a folder that holds nothing else says the same
    assert described(open_data(str(tmp_path))["all"], helpers) == {1: "daisy", 2: "rose", 10: "rose"}


@pytest.mark.parametrize("top", ["", "flowers/"])
def test_tar_with_splits(tmp_path, helpers, top):
    files = {"train/a/1.png": 1, "train/b/2.png": 2, "val/a/3.png": 3, "val/b/4.png": 4, "test/a/5.png": 5}
    path = helpers.write_tar(tmp_path / "x.tar", images(helpers, {top + k: v for k, v in files.items()}))
    splits = open_data(str(path))
    assert described(splits["train"], helpers) == {1: "a", 2: "b"}
    assert described(splits["val"], helpers) == {3: "a", 4: "b"}
    assert splits["val"].name(1) == f"{path}:{top}val/b/4.png"


def test_one_tar_per_split(tmp_path, helpers):
    for split, value in (("train", 1), ("val", 10), ("test", 20)):
        helpers.write_tar(tmp_path / f"{split}.tar", images(helpers, {"a/1.png": value, "b/1.png": value + 1}))
    splits = open_data(str(tmp_path))
    assert described(splits["train"], helpers) == {1: "a", 2: "b"}
    assert described(splits["val"], helpers) == {10: "a", 11: "b"}


def test_one_tar_per_class(tmp_path, helpers):
    # as `tar -C cat .` writes it, as `tar cat` does, and with a name that starts like a split's
    helpers.write_tar(tmp_path / "cat.tar", images(helpers, {"./1.png": 1, "./2.png": 2}))
    helpers.write_tar(tmp_path / "dog.tar", images(helpers, {"dog/3.png": 3}))
    helpers.write_tar(tmp_path / "train.tar", images(helpers, {"4.png": 4}))
    helpers.write_tar(tmp_path / "valley.tar", images(helpers, {"5.png": 5}))
    splits = open_data(str(tmp_path))
    assert list(splits) == ["all"]
    assert described(splits["all"], helpers) == {1: "cat", 2: "cat", 3: "dog", 4: "train", 5: "valley"}


def test_tars_per_class_in_split_folders(tmp_path, helpers):
    for split, value in (("train", 1), ("val", 10)):
        for i, name in enumerate(("cat", "dog")):
            helpers.write_tar(tmp_path / split / f"{name}.tar", images(helpers, {"1.png": value + i}))
    splits = open_data(str(tmp_path))
    assert described(splits["train"], helpers) == {1: "cat", 2: "dog"}
    assert described(splits["val"], helpers) == {10: "cat", 11: "dog"}


def test_tar_of_tars(tmp_path, helpers):
    inner = {}
    for name, value in (("cat", 1), ("dog", 2)):
        path = helpers.write_tar(tmp_path / "inner" / f"{name}.tar", images(helpers, {f"{value}.png": value}))
        inner[f"{name}.tar"] = path.read_bytes()
    samples = open_data(str(helpers.write_tar(tmp_path / "all.tar", inner)))["all"]
    assert described(samples, helpers) == {1: "cat", 2: "dog"}


def test_unusable_tars(tmp_path, helpers):
    zipped = tmp_path / "x.zip"
    zipped.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"x\.zip is not a supported data set.*class folders.*\.tar"):
        open_data(str(zipped))
    packed = tmp_path / "gz.tar"
    packed.write_bytes(gzip.compress(helpers.write_tar(tmp_path / "a.tar", {"a/1.png": helpers.png(1)}).read_bytes()))
    with pytest.raises(DataError, match=r"gz\.tar is not a plain tar file"):
        open_data(str(packed))
    with pytest.raises(DataError, match=r"b\.tar has no images. Known .*endings are .*\.png"):
        open_data(str(helpers.write_tar(tmp_path / "b.tar", {"a/notes.txt": b""})))
    with pytest.raises(DataError, match=r"c\.tar:1\.png is outside the class folders"):
        open_data(str(helpers.write_tar(tmp_path / "c.tar", {"1.png": helpers.png(1), "a/2.png": helpers.png(2)})))
    whole = helpers.write_tar(tmp_path / "d.tar", {f"a/{i}.png": helpers.png(i) for i in range(9)}).read_bytes()
    (tmp_path / "d.tar").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DataError, match=r"d\.tar is not a plain tar file"):
        open_data(str(tmp_path / "d.tar"))
    (tmp_path / "d.tar").write_bytes(b"x" * 2048)
    with pytest.raises(DataError, match=r"d\.tar cannot be read as a tar file"):
        open_data(str(tmp_path / "d.tar"))


@pytest.mark.parametrize("form", ["classes", "shard"])
def test_untrusted_tars_write_nothing_and_run_nothing(tmp_path, helpers, form):
    home = tmp_path / "home"
    path = home / "in" / "x.tar"
    path.parent.mkdir(parents=True)
    call = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    names = {"../../a/1": 1, str(tmp_path / "b" / "2"): 2, "b/3": 3}
    with tarfile.open(path, "w") as tar:
        for name, value in names.items():
            files = {f"{name}.png": helpers.png(value), f"{name}.pkl": call, f"{name}.pyd": call}
            files |= {f"{name}.cls": b"0"} if form == "shard" else {}
            for inside, content in files.items():
                member = tarfile.TarInfo(inside)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            for ending in ("png", "cls") if form == "shard" else ("png",):
                member = tarfile.TarInfo(f"b/link{kind.decode()}.{ending}")
                member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member)
    for name in ("_x_tarinfos.pickle", "_in_tarinfos.pickle"):
        (path.parent / name).write_bytes(call)
    before = sorted(tmp_path.rglob("*"))
    for data in (path, path.parent):
        samples = open_data(str(data))["all"]
        assert sorted(helpers.values(samples)) == [1, 2, 3]
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_beside_tars(tmp_path, helpers):
    helpers.write_folder(tmp_path, {"cat": [1], "dog": [2]})
    helpers.write_tar(tmp_path / "download.tar", {"cat/1.png": helpers.png(1)})
    with pytest.raises(DataError, match=r"has both folders and tar files \(cat, download\.tar\)"):
        open_data(str(tmp_path))


def test_tar_that_disappears(tmp_path, helpers):
    path = helpers.write_tar(tmp_path / "x.tar", {"a/1.png": helpers.png(1)})
    samples = open_data(str(path))["all"]
    path.unlink()
    with pytest.raises(DataError, match=r"x\.tar:a/1\.png cannot be read"):
        samples.load(0)


# ------------------------------------------------------------------------------------------------ loading processes


def grey_level(image):
    return torch.tensor(image.getpixel((0, 0))[0])


def sources_of(tmp_path, helpers):
    values = list(range(1, 41))
    files = {f"{'ab'[v % 2]}/{v}.png": helpers.png(v) for v in values}
    yield open_data(str(helpers.write_tar(tmp_path / "x.tar", files)))["all"], values
    helpers.write_folder(tmp_path / "folder", {"a": values[::2], "b": values[1::2]})
    yield open_data(str(tmp_path / "folder"))["all"], values


def test_processes_do_not_disturb_each_other_after_reading_here(tmp_path, helpers):
    for samples, values in sources_of(tmp_path, helpers):
        samples.load(0)  # a file left open here would share its position with the processes below
        loader = DataLoader(ImageDataset(samples, grey_level), batch_size=4, num_workers=2)
        assert sorted(v for levels, _ in loader for v in levels.tolist()) == values


def test_sources_survive_pickling(tmp_path, helpers):
    for samples, values in sources_of(tmp_path, helpers):
        samples.load(0)
        assert sorted(helpers.values(pickle.loads(pickle.dumps(samples)))) == values


# ------------------------------------------------------------------------------------------------ WebDataset


def test_shards(tmp_path, helpers):
    for i in range(2):
        helpers.write_shard(tmp_path / f"train-{i:03}.tar", {i * 4 + v: v % 2 for v in range(1, 5)})
    helpers.write_shard(tmp_path / "val-000.tar", {20: 0, 21: 1, 22: 1})
    helpers.write_shard(tmp_path / "test-000.tar", {30: 0})
    splits = open_data(str(tmp_path))
    assert {split: len(source) for split, source in splits.items()} == {"train": 8, "val": 3}
    assert splits["val"].labels == [0, 1, 1]
    assert splits["train"].class_names == ["0", "1"]
    assert described(splits["train"], helpers) == {v: "01"[v % 2] for v in range(1, 9)}
    assert splits["train"].name(4) == f"{tmp_path / 'train-001.tar'}:0005.png"
    assert helpers.values(open_data(f"wds/{tmp_path}")["train"]) == list(range(1, 9))


@pytest.mark.parametrize("form", ["imagenet1k-train-0.tar imagenet1k-validation-0.tar", "train/0.tar val/0.tar"])
def test_other_names_of_shards(tmp_path, helpers, form):
    for name, value in zip(form.split(), (1, 2), strict=True):
        helpers.write_shard(tmp_path / name, {value: 0})
    for i in range(2):
        helpers.write_shard(tmp_path / form.split()[0].replace("0", str(i + 1)), {3 + i: 1})
    assert {split: len(source) for split, source in open_data(str(tmp_path)).items()} == {"train": 3, "val": 1}


def test_many_shards_are_indexed_in_order_by_several_processes(tmp_path, helpers):
    for i in range(12):
        helpers.write_shard(tmp_path / f"{i:02}.tar", {10 * i + v: v % 2 for v in range(1, 4)})
    assert helpers.values(open_data(str(tmp_path))["all"]) == [10 * i + v for i in range(12) for v in range(1, 4)]
    (tmp_path / "07.tar").write_bytes(b"x" * 1024)
    with pytest.raises(DataError, match=r"^\S*07\.tar cannot be read as a WebDataset shard"):
        open_data(str(tmp_path))


def test_one_shard_and_class_names(tmp_path, helpers):
    path = helpers.write_shard(tmp_path / "digits.tar", {1: 0, 2: 2})
    (tmp_path / "classes.txt").write_text("nought\neins, zwei\ngrößer\n", encoding="utf-8")
    for data in (path, tmp_path):
        source = open_data(str(data))["all"]
        assert (source.class_names, source.labels) == (["nought", "eins, zwei", "größer"], [0, 2])
        assert source.missing_classes() == ["eins, zwei"]
    (tmp_path / "classes.txt").write_text("nought\n")
    with pytest.raises(DataError, match=r"classes\.txt has 1 names, but the label 2 occurs"):
        open_data(str(path))


@pytest.mark.parametrize("ending", ["jpeg", "bmp", "PNG"])
def test_every_known_ending_is_read_from_shards(tmp_path, helpers, ending):
    source = open_data(str(helpers.write_shard(tmp_path / "x.tar", {5: 0, 6: 1}, ending)))["all"]
    assert described(source, helpers) == {5: "0", 6: "1"}


def test_of_several_images_of_a_sample_the_jpg_is_taken(tmp_path, helpers):
    files = {"1.mask.png": helpers.png(1), "1.png": helpers.png(2), "1.jpg": helpers.png(3), "1.cls": b"0"}
    assert helpers.values(open_data(str(helpers.write_tar(tmp_path / "x.tar", files)))["all"]) == [3]


def test_shards_are_shared_by_ranks_and_processes_without_a_sample_twice(tmp_path, helpers):
    for i in range(3):  # fewer shards than ranks times processes, and of different lengths
        helpers.write_shard(tmp_path / f"{i}.tar", {20 * i + v: v % 2 for v in range(1, 7 + i)})
    samples = open_data(str(tmp_path))["all"]
    assert len(samples) == 21
    seen = []
    for rank in range(3):
        sampler = DistributedSampler(cast(Any, samples), num_replicas=3, rank=rank, seed=1)
        loader = DataLoader(ImageDataset(samples, grey_level), batch_size=2, sampler=sampler, num_workers=2)
        seen += [v for levels, _ in loader for v in levels.tolist()]
    assert sorted(seen) == sorted(helpers.values(samples))


def test_unusable_shards(tmp_path, helpers):
    with pytest.raises(DataError, match=r"a\.tar: 0002 has a label but no image"):
        open_data(str(helpers.write_tar(tmp_path / "a.tar", {"0002.cls": b"1", "0002.txt": b""})))
    with pytest.raises(DataError, match=r"b\.tar cannot be read as a WebDataset shard .*'cat'"):
        open_data(str(helpers.write_tar(tmp_path / "b.tar", {"1.png": helpers.png(1), "1.cls": b"cat"})))
    with pytest.raises(DataError, match="has no labels"):
        open_data(str(helpers.write_tar(tmp_path / "c.tar", {"1.png": helpers.png(1), "1.cls": b"-1"})))


def test_a_cut_shard_is_refused(tmp_path, helpers):
    path = helpers.write_shard(tmp_path / "x.tar", {1: 0, 2: 1})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"x\.tar is not a plain tar file; it may be compressed or truncated"):
        open_data(f"wds/{tmp_path}")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="need the package `datasets`: pip install"):
        open_data("hfds/cifar10")


# ------------------------------------------------------------------------------------------------ torchvision


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10 with 20 training and 10 test images; the images of class c have the level 10 c."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    contents = {f"data_batch_{i}": [4 * i - 4, 4 * i - 3, 4 * i - 2, 4 * i - 1] for i in range(1, 6)}
    for name, numbers in (contents | {"test_batch": list(range(10))}).items():
        labels = [number % 10 for number in numbers]
        data = np.repeat(np.array(labels, np.uint8)[:, None] * 10, 3072, axis=1)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).exists())
    return tmp_path


def test_torchvision(cifar, helpers):
    splits = open_data("torch/cifar10", str(cifar))
    assert {split: len(samples) for split, samples in splits.items()} == {"train": 20, "val": 10}
    assert splits["train"].class_names[3] == "cat"
    assert splits["train"].labels == list(range(10)) * 2
    assert helpers.values(splits["val"]) == [10 * c for c in range(10)]
    assert splits["val"].name(4) == "torch/cifar10 val 4"


def test_unknown_or_unreachable_torchvision_sets(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"torch/nonsense cannot be opened .*nonsense.*Check the name \(torch/cifar10"):
        open_data("torch/nonsense", str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", no_network)
    with pytest.raises(DataError, match=r"torch/cifar10 cannot be opened in .*no network.*--data-root and the network"):
        open_data("torch/cifar10", str(tmp_path))


# ------------------------------------------------------------------------------------------------ Hugging Face


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """Write splits of a local Hugging Face data set; returns a function of splits {name: {level: label}}."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def write(splits, image="image", label="label", names=("cat", "dog")):
        kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("string")
        features = datasets.Features({image: datasets.Image(), label: kind})
        for split, labels in splits.items():
            pictures = [Image.new("RGB", (4, 4), (level,) * 3) for level in labels]
            table = datasets.Dataset.from_dict({image: pictures, label: list(labels.values())}, features=features)
            (tmp_path / "set").mkdir(exist_ok=True)
            table.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
        return f"hfds/{tmp_path / 'set'}", str(tmp_path / "cache")

    return write


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("picture", "fine kind")])
def test_hugging_face(hub_folder, helpers, image, label):
    splits = {"train": {1: 0, 2: 1, 3: 1}, "validation": {4: 1, 5: 0}, "test": {6: 0}}
    splits = open_data(*hub_folder(splits, image, label))
    assert described(splits["train"], helpers) == {1: "cat", 2: "dog", 3: "dog"}
    assert described(splits["val"], helpers) == {4: "dog", 5: "cat"}
    assert splits["val"].name(0).endswith("set validation 0")


def test_hugging_face_with_one_split(hub_folder, helpers):
    splits = open_data(*hub_folder({"train": {1: 0, 2: 1}}))
    assert described(splits["train"], helpers) == {1: "cat", 2: "dog"}
    assert list(splits) == ["train"]


def test_unusable_hugging_face_sets(hub_folder, tmp_path):
    with pytest.raises(DataError, match=r"nothing cannot be loaded \(.*Check the name, the network"):
        open_data(f"hfds/{tmp_path / 'nothing'}", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="hfds/ does not name a data set"):
        open_data("hfds/")
    with pytest.raises(DataError, match=r"set train has 2 images without a label"):
        open_data(*hub_folder({"train": {1: -1, 2: -1, 3: 0}}))


def test_hugging_face_without_class_labels(hub_folder):
    with pytest.raises(DataError, match="needs an Image and a ClassLabel column, its columns are image, text"):
        open_data(*hub_folder({"train": {1: "a", 2: "b"}}, label="text", names=None))


# ------------------------------------------------------------------------------------------------ class names


def test_relabel_by_name(tmp_path, helpers):
    helpers.write_folder(tmp_path, {"cat": [1], "dog": [2]})
    samples = open_data(str(tmp_path))["all"]
    relabel(samples, ["fox", "dog", "cat"], "The data")
    assert samples.class_names == ["fox", "dog", "cat"]
    assert described(samples, helpers) == {1: "cat", 2: "dog"}
    assert samples.labels == [2, 1]


def test_relabel_shards(tmp_path, helpers):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = open_data(str(helpers.write_shard(tmp_path / "x.tar", {1: 0, 2: 1})))["all"]
    relabel(source, ["fox", "dog", "cat"], "The data")
    assert source.labels == [2, 1]
    assert described(source, helpers) == {1: "cat", 2: "dog"}


def test_relabel_of_the_same_names_twice(tmp_path, helpers):
    samples = open_data(str(helpers.write_folder(tmp_path, {"cat": [1], "dog": [2]})))["all"]
    samples.class_names = ["crane", "crane"]
    relabel(samples, ["crane", "crane"], "The data")
    assert samples.labels == [0, 1]


def test_unknown_classes(tmp_path, helpers):
    samples = open_data(str(helpers.write_folder(tmp_path, {"cat": [1], "dog": [2], "fox": [3]})))["all"]
    with pytest.raises(DataError, match=r"The folder has 2 classes \(dog, fox\), which the model .* cat, cow"):
        relabel(samples, ["cat", "cow"], "The folder")
    assert samples.labels == [0, 1, 2]


def test_digits():
    splits = open_data("digits")
    assert {split: len(samples) for split, samples in splits.items()} == {"train": 1437, "val": 360}


def test_check_of_class_folders(tmp_path, helpers):
    helpers.write_folder(tmp_path / "one", {"cat": [1, 2], "dog": [3]})
    (tmp_path / "one" / "cat" / "2.png").write_bytes(b"nothing")
    small, broken = map(str, check(open_data(str(tmp_path / "one")), workers=1))
    assert small == "dog: the class has 1 image, expected at least 2"
    assert "cat/2.png: is not an image" in broken
    helpers.write_folder(tmp_path / "two" / "train", {"cat": [1, 2], "dog": [3]})
    helpers.write_folder(tmp_path / "two" / "val", {"cat": [4]})
    assert check(open_data(str(tmp_path / "two")), workers=1) == []
