"""Crops of persons for training a pose network."""

from van.data.augmentation import PoseAugmentation
from van.data.folders import OnProblem, data_folder
from van.data.loaders import loading_processes
from van.data.module import DataModule
from van.data.pose import PoseDataset, open_persons
from van.errors import DataError


class PoseData(DataModule):
    """Training and validation persons of one data set in COCO's format.

    Args:
        data: Folder, see van.data.coco.find_split, or "shapes".
        root: Where the shapes are stored; None takes the folder data.
        size: Height and width of the crops.
        augmentation: Random changes to the training crops.
        batch_size: Crops per step and process.
        on_problem: What to do about annotations and images that cannot be used: refuse them all, or skip these.
        workers: Loading processes; None takes one per processor, at most 8.

    Attributes:
        train: Training crops; their annotations are train.split.
        val: Validation crops, from annotated boxes; their annotations are val.split.

    Raises:
        DataError: the data cannot be used.
    """

    def __init__(
        self,
        data: str,
        root: str | None,
        size: tuple[int, int],
        augmentation: PoseAugmentation,
        batch_size: int,
        on_problem: OnProblem = "refuse",
        workers: int | None = None,
    ) -> None:
        self.folder = data_folder(data, root)
        self.size = size
        self.augmentation = augmentation
        self.on_problem: OnProblem = on_problem
        train, val, notes = self._open(workers)
        posed = [category for category in val.split.categories if category.get("keypoints")]
        super().__init__(train, val, [c["name"] for c in posed], batch_size, loading_processes(workers))
        self.notes = notes
        self.extra = {
            "category_ids": [category["id"] for category in posed],
            "keypoint_names": val.split.keypoint_names,
            "flip_pairs": [list(pair) for pair in val.split.flip_pairs],
            "skeleton": [list(pair) for pair in val.split.skeleton],
        }

    def _open(self, workers: int | None, decode: bool = False) -> tuple[PoseDataset, PoseDataset, list[str]]:
        options = {"on_problem": self.on_problem, "decode": decode, "workers": workers}
        train, notes = open_persons(self.folder, "train", self.size, self.augmentation, **options)
        val, more = open_persons(self.folder, "val", self.size, None, **options)
        if train.names != val.names:
            raise DataError(
                f"The train split of {self.folder} has the keypoints {', '.join(train.names)}, the val split "
                f"{', '.join(val.names)}. Give both the same keypoints."
            )
        return train, val, notes + more

    def check(self) -> None:
        """Decode every image once, and refuse or leave out broken ones.

        Raises:
            DataError: some are broken and are not to be skipped; the message lists them.
        """
        self.train, self.val, self.notes = self._open(self.workers, decode=True)
