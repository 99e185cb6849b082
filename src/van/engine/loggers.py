"""Loggers of a training run besides its own tables: TensorBoard, Weights & Biases, MLflow and CSV, all by Lightning.

Everything is written into the run folder unless the environment names a server, and nothing is sent anywhere else.
"""

import json
import logging
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from van.errors import VanError
from van.files import write_text

IDS = "loggers.json"
"""Name of the file with the ids of the run at W&B and MLflow, under which a continued run is logged."""

_PROJECT = "van"


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are named twice or not installed, before anything is written.

    Args:
        names: As in TrainOptions.logger.

    Raises:
        VanError: there is one.
    """
    for name in names:
        if names.count(name) > 1:
            raise VanError(f"logger names {name} twice. Name each once.")
        if name in ("wandb", "mlflow") and find_spec(name) is None:
            raise VanError(f"--logger {name} needs a package: pip install 'visual-attention-network[{name}]'.")


class RunLoggers:
    """Lightning's loggers of a run: open while it trains and until its plots are logged. A context manager.

    Args:
        names: As in TrainOptions.logger.
        folder: The run folder.
        options: Those of the run.
        resumed: Whether an earlier run is continued: its entries at W&B and MLflow are too.

    Attributes:
        loggers: For the trainer.
        finished: Whether the run has come to its end; set it before leaving the context.
    """

    def __init__(self, names: Sequence[str], folder: Path, options: Mapping[str, Any], resumed: bool) -> None:
        self._names, self._folder, self._options, self._resumed = names, folder, options, resumed
        self.loggers: list[Any] = []
        self.finished = False

    def __enter__(self) -> "RunLoggers":
        """Open the loggers, and log the options.

        Raises:
            VanError: a server cannot be reached, or does not know the run that is continued.
        """
        path = self._folder / IDS
        ids = json.loads(path.read_text(encoding="utf-8")) if self._resumed and path.is_file() else {}
        known = dict(ids)
        for name in self._names:
            try:
                self.loggers.append(_OPEN[name](self._folder, ids))
                _log_options(self.loggers[-1], self._options, fresh=name not in known)
            except Exception as error:
                if type(error).__module__.partition(".")[0] not in ("wandb", "mlflow"):
                    raise
                raise VanError(f"--logger {name} failed: {' '.join(str(error).split())[:300]}") from error
        if ids != known:
            write_text(path, json.dumps(ids, indent=2) + "\n")
        return self

    def __exit__(self, *_: object) -> None:
        """Close the loggers."""
        for logger in self.loggers:
            if type(logger).__name__ == "WandbLogger":
                logger.experiment.finish(exit_code=0 if self.finished else 1)
            else:
                logger.finalize("success" if self.finished else "failed")

    def pictures(self, paths: Sequence[Path], step: int) -> None:
        """Log image files.

        Args:
            paths: PNG files; each is named by its stem.
            step: Steps that the run has trained.
        """
        import numpy as np
        from PIL import Image

        for logger in self.loggers:
            for path in paths:
                if type(logger).__name__ == "TensorBoardLogger":
                    with Image.open(path) as image:
                        pixels = np.asarray(image.convert("RGB"))
                    logger.experiment.add_image(path.stem, pixels, step, dataformats="HWC")
                elif type(logger).__name__ == "WandbLogger":
                    logger.log_image(path.stem, [str(path)], step)
                elif type(logger).__name__ == "MLFlowLogger":
                    logger.experiment.log_artifact(logger.run_id, str(path))


def _log_options(logger: Any, options: Mapping[str, Any], fresh: bool) -> None:
    """Log the options of a run; MLflow refuses those that differ from what it has."""
    if type(logger).__name__ != "MLFlowLogger":
        logger.log_hyperparams(dict(options))
    elif fresh:
        logger.log_hyperparams({re.sub(r"[^\w/. -]", "_", key): value for key, value in _flat(options).items()})


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def where(names: Sequence[str], folder: Path) -> list[str]:
    """Return what to call to look at the logs that are not opened like files, in a sentence each.

    Args:
        names: As in TrainOptions.logger.
        folder: The run folder.
    """
    lines = []
    if "wandb" in names and os.environ.get("WANDB_MODE", "offline") == "offline":
        lines.append(f"Weights & Biases: offline; upload with wandb sync {folder / 'wandb'}/offline-run-*")
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        lines.append(f"MLflow: mlflow ui --backend-store-uri sqlite:///{folder / 'mlflow.db'}")
    return lines


# ------------------------------------------------------------------------------------------------ one of each


def _tensorboard(folder: Path, ids: dict[str, str]) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)


def _csv(folder: Path, ids: dict[str, str]) -> Any:
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(folder, name="csv")  # a new version_N for each start: it would delete the earlier lines


def _wandb(folder: Path, ids: dict[str, str]) -> Any:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # pyright: ignore[reportMissingImports]
    from lightning.pytorch.loggers import WandbLogger

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        name=folder.name,
        dir=folder,
        id=ids.setdefault("wandb", uuid.uuid4().hex[:12]),
        resume="allow",
        mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
        settings=wandb.Settings(silent=True, disable_code=True, disable_git=True),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)  # Lightning's own call of init gives a deprecated argument


def _mlflow(folder: Path, ids: dict[str, str]) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # noqa: F401 - sets levels of logging  # pyright: ignore[reportMissingImports]
    from lightning.pytorch.loggers import MLFlowLogger

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # a new experiment is no warning
    server = os.environ.get("MLFLOW_TRACKING_URI")
    logger = MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        folder.name,
        server or f"sqlite:///{(folder / 'mlflow.db').resolve()}",
        artifact_location=None if server else (folder / "mlflow").resolve().as_uri(),
        run_id=ids.get("mlflow"),
    )
    ids["mlflow"] = str(logger.run_id)
    if server is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow has set it to this run's
    return logger


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "csv": _csv}
