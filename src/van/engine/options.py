"""Options that every task shares. They are declared here once, for the command line, YAML files and Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from van.data.splits import Division
from van.engine.loggers import check_loggers
from van.errors import VanError

Sampling = Literal["balanced", "repeat-factor"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
OnBadImage = Literal["error", "skip"]
EngineName = Literal["torch", "compiled", "onnxruntime", "openvino", "auto"]
EnginePrecision = Literal["float32", "bfloat16", "float16"]
LoggerName = Literal["tensorboard", "wandb", "mlflow", "csv"]


@dataclass
class Optimization:
    """Optimizer and schedule besides the learning rate.

    Parts of the network go by the names of its parameters: a name stands for all parameters that have it in their own
    as one or more whole components, such as backbone or stages.0, and may hold wildcards, such as *_embed.

    Attributes:
        optimizer: timm's name of the optimizer: adamw, adam, sgd, lamb, ...
        betas: Decays of the moving averages of the gradient and of its square; null as the optimizer has them.
        eps: What is added to the divisor; null as the optimizer has it.
        momentum: Momentum of sgd and its like; null means 0.9.
        weight_decay: Not applied to biases, norms and layer scales.
        no_decay: Further parts of the network without weight decay.
        decay_all: Apply weight decay to biases, norms and layer scales too: to all but no_decay.
        lr_factors: Factor of the learning rate by part of the network, such as {backbone: 0.1}. Where several names fit
            a parameter, the one with the most components counts.
        layer_decay: Factor of the learning rate from the head to the last block of the backbone, and from each block to
            the one before it; null for none.
        lr_base_batch: Batch size that lr is meant for: lr is multiplied by the effective batch (batch_size times
            accumulate) and divided by this. Null takes lr as it is.
        schedule: How the learning rate falls after the warm-up: cosine, poly (power of the remaining share) or step.
        milestones: Epochs after which schedule step multiplies the learning rate by gamma; steps where the length of
            training is given in steps (iterations).
        gamma: See milestones; null means 0.1.
        power: Exponent of schedule poly; null means 1.
        warmup_epochs: Epochs in which the learning rate rises linearly; null means 1.
        warmup_iterations: Steps in which it does, instead of warmup_epochs.
        warmup_lr: Learning rate that the warm-up starts from; null means min_lr, and 1e-6 for schedule step.
        cooldown_epochs: Epochs at the smallest learning rate after schedule cosine or poly.
        min_lr: Smallest learning rate of schedules cosine and poly; null means 1e-6.
        clip_grad: Largest norm of the gradient; null for none.
        ema_decay: Decay of an exponential moving average of the weights, which is then validated and saved; the decay
            warms up, so that short runs do not keep the random start. Null for none.
    """

    optimizer: str = "adamw"
    betas: list[float] | None = None
    eps: float | None = None
    momentum: float | None = None
    weight_decay: float = 0.05
    no_decay: list[str] = field(default_factory=list)
    decay_all: bool = False
    lr_factors: dict[str, float] = field(default_factory=dict)
    layer_decay: float | None = None
    lr_base_batch: int | None = None
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    milestones: list[int] = field(default_factory=list)
    gamma: float | None = None
    power: float | None = None
    warmup_epochs: float | None = None
    warmup_iterations: int | None = None
    warmup_lr: float | None = None
    cooldown_epochs: int = 0
    min_lr: float | None = None
    clip_grad: float | None = None
    ema_decay: float | None = None

    def check(self, lr: float) -> None:
        """Refuse numbers that are out of range, and options that do nothing beside the others.

        Args:
            lr: Highest learning rate.

        Raises:
            VanError: there is one.
        """
        for name in ("weight_decay", "warmup_epochs", "warmup_iterations", "cooldown_epochs"):
            at_least(name, getattr(self, name), 0)
        within("ema_decay", self.ema_decay)
        within("layer_decay", self.layer_decay)
        positive = {name: getattr(self, name) for name in ("eps", "clip_grad", "layer_decay", "gamma", "power")}
        positive |= {f"lr_factors.{part}": factor for part, factor in self.lr_factors.items()}
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise VanError(f"{name} is {value}, expected a number above 0.")
        for name, values in (("momentum", [self.momentum]), ("betas", self.betas or [])):
            if not all(value is None or 0 <= value < 1 for value in values):
                raise VanError(f"{name} is {getattr(self, name)}, expected numbers from 0 to less than 1.")
        for name in ("min_lr", "warmup_lr"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= lr:
                raise VanError(f"{name} is {value}, expected a number from 0 to the learning rate {lr}.")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse what has no effect beside the other options."""
        others = {"milestones": "step", "gamma": "step", "power": "poly"}
        for name, schedule in others.items():
            if getattr(self, name) not in (None, []) and self.schedule != schedule:
                raise VanError(
                    f"{name} is {getattr(self, name)}, which only schedule {schedule} uses; the schedule is "
                    f"{self.schedule}. Leave it out."
                )
        if self.schedule == "step":
            for name, value in (("min_lr", self.min_lr), ("cooldown_epochs", self.cooldown_epochs or None)):
                if value is not None:
                    raise VanError(
                        f"{name} is {value}, which schedule step does not use: its learning rate falls by gamma at the "
                        "milestones. Leave it out; the start of the warm-up is warmup_lr."
                    )
            if self.gamma is not None and not self.milestones:
                raise VanError(f"gamma is {self.gamma}, which has no effect without milestones. Give both or neither.")
        if self.warmup_epochs is not None and self.warmup_iterations is not None:
            raise VanError(
                f"warmup_epochs is {self.warmup_epochs} and warmup_iterations {self.warmup_iterations}, expected one "
                "of them. Leave the other out."
            )
        if self.warmup_lr is not None and 0 in (self.warmup_epochs, self.warmup_iterations):
            raise VanError(f"warmup_lr is {self.warmup_lr}, but there is no warm-up. Leave it out.")
        if not self.weight_decay and (self.no_decay or self.decay_all):
            name = "no_decay" if self.no_decay else "decay_all"
            raise VanError(f"{name} has no effect where weight_decay is 0. Leave it out.")


@dataclass(kw_only=True)
class TrainOptions:
    """Options of training that every task has.

    Attributes:
        data: Data set to train on.
        data_root: Where named and built-in data sets are stored; by default the folder data.
        pretrained: Start from weights: of the backbone (a file of any known layout, or "hub" for the published ones),
            or of a whole network (weight file or run folder); layers for other classes start from scratch.
        epochs: Length of training in epochs, warm-up included.
        batch_size: Samples per batch over all devices.
        accumulate: Batches whose gradients are averaged for one step, for large batches on small devices: the effective
            batch is batch_size times this. Lengths and schedules count steps; batches of an epoch that do not fill
            a step are left out.
        lr: Highest learning rate; see also optimization.lr_base_batch.
        optimization: Optimizer and schedule.
        val_fraction: Share of the images held out for validation where the data has no split of its own; the weights
            remember which.
        folds: For cross-validation, the number of equal parts of data without a split of its own, one of which is held
            out instead of val_fraction.
        fold: Which of the folds is held out, from 1.
        class_weights: Weights of the classes in the loss: balanced (by the number of images, objects or pixels of each
            class), a JSON or CSV file of classes and weights, or a mapping of them; classes that are not named have
            weight 1. For networks that are trained with cross-entropy over classes.
        focal_gamma: Exponent of the focal loss in place of cross-entropy over classes: what is predicted well already
            counts less, by (1 - p)^gamma; 2 is common.
        sampling: How often images are seen: balanced (as if a class were drawn first, then an image with it) or
            repeat-factor (images of rare classes several times, as for LVIS); by default each once in a pass.
        repeat_threshold: Share of the images below which sampling repeat-factor repeats a class; null means 0.001.
        on_bad_image: What to do with images and annotations that cannot be used: error stops with what is wrong, skip
            leaves them out and trains on another image instead. Skipped files are counted and listed in skipped.txt in
            the run folder; more than a tenth of the images of a split is an error.
        check_data: Decode every image before the first epoch.
        precision: Lightning precision, such as 16-mixed.
        device: Accelerator: auto, cpu, cuda, mps, ...
        devices: Number of devices, or which ones; auto takes what is available.
        sync_batchnorm: Take the statistics of BatchNorm over the batches of all devices; GPUs only.
        freeze: Parts of the network that are not trained and whose statistics and dropout stay off, named as in
            optimization.
        freeze_batchnorm: Keep the running statistics of all BatchNorms, and normalize with them in training too; their
            weights and biases are trained.
        progressive_size: Short edge in pixels of the first training images, a multiple of 32: they grow to their full
            size in steps of 32 over the run. For images of one size.
        checkpoint_gradients: Compute the activations of the backbone's blocks again in the backward pass instead of
            keeping them: less memory, about a third more time.
        compile: Train through torch.compile: the network, or the backbone where images have many sizes, as in
            detection. Where it fails, training goes on without it.
        workers: Processes that load images; by default one per processor, at most 8.
        checkpoint_minutes: Save a checkpoint inside an epoch after so many minutes, so that nothing more is lost when a
            run is killed; long saves come less often and never take more than 2 % of the time.
        early_stopping: Stop after this many validations without a better result; null trains to the end.
        limit_batches: Use only so many steps of training and batches of validation per epoch, for a quick try.
        seed: The same seed gives the same run on the same machine.
        output: Run folder; by default a numbered one below runs.
        resume: Run folder to continue. Its options stay; options given beside it win.
        logger: Where losses, metrics, options and plots go besides the tables and plots of the run folder: tensorboard,
            wandb, mlflow, csv (loss and learning rate by step), or several; [] for none. All write into the run folder;
            WANDB_MODE=online or MLFLOW_TRACKING_URI in the environment send them to a server.
        quiet: Print errors only.
        verbose: Print also the parts of the network with their parameters, and all losses and metrics of each epoch.
    """

    # an option and those that it sets back where it comes from a later source, such as the command line after a file
    exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "optimization.warmup_epochs": ("optimization.warmup_iterations",),
        "optimization.warmup_iterations": ("optimization.warmup_epochs",),
    }

    data: str
    data_root: str | None = None
    pretrained: str | None = None
    epochs: int = 12
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 1e-4
    optimization: Optimization = field(default_factory=Optimization)
    val_fraction: float = 0.2
    folds: int | None = None
    fold: int | None = None
    class_weights: dict[str, float] | str | None = None
    focal_gamma: float | None = None
    sampling: Sampling | None = None
    repeat_threshold: float | None = None
    on_bad_image: OnBadImage = "error"
    check_data: bool = False
    precision: Precision = "32-true"
    device: str = "auto"
    devices: int | str = "auto"
    sync_batchnorm: bool = False
    freeze: list[str] = field(default_factory=list)
    freeze_batchnorm: bool = False
    progressive_size: int | None = None
    checkpoint_gradients: bool = False
    compile: bool = False
    workers: int | None = None
    checkpoint_minutes: float = 5.0
    early_stopping: int | None = None
    limit_batches: int | None = None
    seed: int = 0
    output: str | None = None
    resume: str | None = None
    logger: list[LoggerName] = field(default_factory=lambda: ["tensorboard"])
    quiet: bool = False
    verbose: bool = False

    def check(self) -> None:
        """Refuse numbers that could only fail later.

        Raises:
            VanError: a number is out of range.
        """
        at_least("epochs", self.epochs, 1)
        at_least("batch_size", self.batch_size, 1)
        at_least("accumulate", self.accumulate, 1)
        at_least("workers", self.workers, 0)
        at_least("checkpoint_minutes", self.checkpoint_minutes, 0)
        at_least("early_stopping", self.early_stopping, 1)
        at_least("limit_batches", self.limit_batches, 1)
        if not self.lr > 0:
            raise VanError(f"lr is {self.lr}, expected a number above 0.")
        if not 0 < self.val_fraction < 1:
            raise VanError(f"val_fraction is {self.val_fraction}, expected a number between 0 and 1.")
        at_least("folds", self.folds, 2)
        if (self.folds is None) != (self.fold is None):
            raise VanError(f"folds is {self.folds} and fold {self.fold}, expected both or neither.")
        if self.folds is not None and self.fold is not None and not 1 <= self.fold <= self.folds:
            raise VanError(f"fold is {self.fold}, expected a number from 1 to {self.folds}.")
        self._check_balance()
        if self.progressive_size is not None and (self.progressive_size < 32 or self.progressive_size % 32):
            raise VanError(f"progressive_size is {self.progressive_size}, expected a multiple of 32.")
        if self.sync_batchnorm and self.freeze_batchnorm:
            raise VanError("sync_batchnorm has no effect where freeze_batchnorm keeps the statistics. Leave one out.")
        if self.compile and self.checkpoint_gradients:
            raise VanError("torch.compile cannot take checkpoint_gradients. Leave out compile or checkpoint_gradients.")
        if self.quiet and self.verbose:
            raise VanError("quiet and verbose are both given. Leave one of them out.")
        check_loggers(self.logger)
        at_least("lr_base_batch", self.optimization.lr_base_batch, 1)
        self.optimization.check(self.scaled_lr)

    def _check_balance(self) -> None:
        """Refuse options about rare classes that are out of range or do not go together."""
        if self.focal_gamma is not None and not self.focal_gamma > 0:
            raise VanError(f"focal_gamma is {self.focal_gamma}, expected a number above 0, such as 2.")
        threshold = self.repeat_threshold
        if threshold is not None and self.sampling != "repeat-factor":
            raise VanError(
                f"repeat_threshold is {threshold}, which only sampling repeat-factor uses; sampling is "
                f"{self.sampling}. Leave it out."
            )
        if threshold is not None and not 0 < threshold <= 1:
            raise VanError(f"repeat_threshold is {threshold}, expected a number above 0 and at most 1.")
        if self.sampling == self.class_weights == "balanced":
            raise VanError(
                "sampling and class_weights are both balanced, which would count rare classes twice. Leave one of them "
                "out."
            )

    @property
    def division(self) -> Division:
        """How data without a validation split is divided."""
        return Division(self.val_fraction, self.seed, self.folds, self.fold)

    @property
    def effective_batch(self) -> int:
        """Samples per step of the optimizer."""
        return self.batch_size * self.accumulate

    @property
    def scaled_lr(self) -> float:
        """Highest learning rate for the effective batch; see Optimization.lr_base_batch."""
        base = self.optimization.lr_base_batch
        return self.lr if base is None else self.lr * self.effective_batch / base

    def steps(self, batches: int) -> int:
        """Return how many steps of the optimizer an epoch has.

        Args:
            batches: Batches of the data in an epoch.

        Raises:
            VanError: they do not fill a single step.
        """
        if batches < self.accumulate:
            raise VanError(
                f"accumulate is {self.accumulate}, but an epoch has only {batches} batches of {self.batch_size}. Give "
                "a smaller accumulate or batch_size."
            )
        steps = batches // self.accumulate
        return steps if self.limit_batches is None else min(self.limit_batches, steps)

    def remarks(self, unit: str) -> list[str]:
        """Return what follows from the options for batch and learning rate, in sentences for the user.

        Args:
            unit: What one sample is called, in the plural.
        """
        lines = []
        if self.accumulate > 1:
            lines.append(
                f"Effective batch: {self.effective_batch} {unit} ({self.accumulate} batches of {self.batch_size})."
            )
        if (base := self.optimization.lr_base_batch) is not None:
            lines.append(f"Learning rate: {self.scaled_lr:g} ({self.lr:g} for {base} {unit}).")
        return lines


@dataclass(kw_only=True)
class StepOptions(TrainOptions):
    """Options of training whose length can be given in steps; see van.engine.fit.length.

    Attributes:
        iterations: Length of training in steps, instead of epochs; an epoch is then what lies between two validations.
        validate_every: Steps between two validations, of which iterations must be a multiple; by default a tenth of
            them where that is a whole number, else all.
    """

    exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **TrainOptions.exclusive,
        "epochs": ("iterations", "validate_every"),
    }

    iterations: int | None = None
    validate_every: int | None = None


@dataclass(kw_only=True)
class InferenceOptions:
    """Options of evaluation and prediction that every task has.

    Attributes:
        weights: Weight file, run folder, exported file, or name of published weights such as van_b0.
        batch_size: Images per batch.
        workers: Processes that load images; by default one per processor, at most 8, and none for a few images.
        device: cpu, cuda, mps, ...; by default a GPU if there is one.
        engine: What computes the network: torch, compiled (torch.compile), onnxruntime, openvino, or auto, which is the
            fastest one here; by default torch, and for an exported file the one of its format.
        precision: Precision of the arithmetic: float32, bfloat16 or float16; by default float32, and for an exported
            file that of the file.
        output: Where results go; by default a numbered folder below runs.
        quiet: Print errors only; results are in files.
    """

    weights: str
    batch_size: int = 8
    workers: int | None = None
    device: str | None = None
    engine: EngineName | None = None
    precision: EnginePrecision | None = None
    output: str | None = None
    quiet: bool = False

    def check(self) -> None:
        """Refuse numbers that could only fail later.

        Raises:
            VanError: a number is out of range.
        """
        at_least("batch_size", self.batch_size, 1)
        at_least("workers", self.workers, 0)


@dataclass(kw_only=True)
class EvaluateOptions(InferenceOptions):
    """Options of evaluation that every task has.

    Attributes:
        data: Labeled images, in the formats that training takes.
        data_root: Where named and built-in data sets are stored; by default the folder data.
        split: train, val or all; by default val, which for data without splits is the part that the weights were not
            trained on, and everything where the weights do not say.
        on_bad_image: What to do with images and annotations that cannot be used: error stops with what is wrong, skip
            decodes all images first and leaves bad ones out of the metrics. They are counted and listed in skipped.txt
            in the output folder; more than a tenth of the images is an error.
    """

    data: str
    data_root: str | None = None
    split: Literal["train", "val", "all"] | None = None
    on_bad_image: OnBadImage = "error"


@dataclass(kw_only=True)
class PredictOptions(InferenceOptions):
    """Options of prediction that every task has.

    Attributes:
        images: Image files; folders, whose images are taken in natural order; quoted patterns such as "photos/*.jpg";
            text files (.txt) with a path or URL a line; tar files and WebDataset shards; URLs; and - for paths or URLs
            from standard input, one a line. Also clips: video files, GIFs that move, folders of clips, streams
            (rtsp://...) and cameras (camera:0).
        pictures: Write pictures of the results, and videos of clips, into the folder; by default for fewer than 100
            images and clips.
        frame_stride: Take every frame of a clip (1), every second one (2), ...
        track: Give objects of a clip numbers that stay the same from frame to frame (ByteTrack).
        resume: Go on where a run of the same command was interrupted, in the same output; start where there is none.
        cluster: Share the images among the machines of a Ray cluster, which see the same paths; workers is then the
            number of processes that predict, by default one per GPU or machine.
    """

    images: list[str] = field(default_factory=list)
    pictures: bool | None = None
    frame_stride: int = 1
    track: bool = False
    resume: bool = False
    cluster: Literal["ray"] | None = None

    def check(self) -> None:
        """Refuse options that could only fail later; see InferenceOptions."""
        super().check()
        if not self.images:
            raise VanError("No images are given. Name image files or folders.")
        at_least("frame_stride", self.frame_stride, 1)
        if self.resume and self.output is None:
            raise VanError("resume needs the output of the run to continue. Name its folder or file with --output.")
        if self.cluster and self.workers == 0:
            raise VanError("workers is 0, but a cluster needs 1 or more processes that predict.")


@dataclass(kw_only=True)
class LabelOptions(InferenceOptions):
    """Options of labeling images with predictions that every task has.

    Attributes:
        images: Image files; folders, whose images are taken in natural order; quoted patterns such as "photos/*.jpg";
            and text files (.txt) with a path a line.
        to: Format of the labels: coco, yolo or voc (Pascal VOC) for objects, masks for classes of pixels; by default
            the first of these that the task has.
        output: Folder to write, missing or empty: a data set that van train takes.
        score_threshold: Objects with a lower score are left out: one number, or a JSON or CSV file, or a mapping, of
            classes and numbers, where other classes have 0.5; by default 0.5.
    """

    images: list[str] = field(default_factory=list)
    to: Literal["coco", "yolo", "voc", "masks"] | None = None
    score_threshold: float | dict[str, float] | str | None = None

    def check(self) -> None:
        """Refuse options that could only fail later; see InferenceOptions."""
        super().check()
        if not self.images:
            raise VanError("No images are given. Name image files or folders.")
        if self.output is None:
            raise VanError("No output is given. Name the folder to write with --output.")
        if isinstance(self.score_threshold, float | int):
            within("score_threshold", self.score_threshold)


@dataclass(kw_only=True)
class ServeOptions:
    """Options of the HTTP service that every task has.

    Attributes:
        weights: Weight file, run folder, exported file, or name of published weights such as van_b0.
        device: cpu, cuda, mps, ...; by default a GPU if there is one.
        engine: What computes the network; see van predict.
        precision: Precision of the arithmetic; see van predict.
        host: Address to listen on; 0.0.0.0 is all of this machine's.
        port: Port to listen on; 0 takes a free one.
        max_batch: Most images that the network sees together.
        max_wait_ms: How long a batch that is not full waits for further images, in milliseconds.
        queue_size: Most images that wait for their turn; beyond it requests are answered with 429.
        timeout: Seconds in which a request is read and answered; after it requests are answered with 408 or 504.
        max_body_mb: Largest body of a request in megabytes.
        max_pixels: Largest number of pixels of an image; it is read from the file's header, before decoding.
        max_images: Most images in one request.
        api_key_file: File with the key that clients must send (Authorization: Bearer KEY); by default none is needed.
        quiet: Print errors only.
    """

    weights: str
    device: str | None = None
    engine: EngineName | None = None
    precision: EnginePrecision | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    max_batch: int = 8
    max_wait_ms: float = 5.0
    queue_size: int = 64
    timeout: float = 30.0
    max_body_mb: float = 32.0
    max_pixels: int = 25_000_000
    max_images: int = 16
    api_key_file: str | None = None
    quiet: bool = False

    def check(self) -> None:
        """Refuse numbers that could only fail later.

        Raises:
            VanError: a number is out of range.
        """
        within("port", self.port, 0, 65535)
        for name in ("max_batch", "max_pixels", "max_images"):
            at_least(name, getattr(self, name), 1)
        at_least("max_wait_ms", self.max_wait_ms, 0)
        for name in ("timeout", "max_body_mb"):
            if not getattr(self, name) > 0:
                raise VanError(f"{name} is {getattr(self, name)}, expected a number above 0.")
        if self.queue_size < self.max_images:
            raise VanError(
                f"queue_size is {self.queue_size}, expected max_images ({self.max_images}) or more: a request must fit "
                "into the queue."
            )


@dataclass(kw_only=True)
class CheckOptions:
    """Options of checking a data set that every task has.

    Attributes:
        data: Data set, in the formats that training takes.
        data_root: Where named and built-in data sets are stored; by default the folder data.
        decode: Decode all images. --no-decode reads only their headers; masks are decoded anyway.
        workers: Processes that read images; by default one per processor, at most 8, and none for a few images.
        short_edge: Pixels of the short edge of images in training: it decides which objects are noted as tiny.
        output: New folder for check.txt and check.json, which lists everything.
        fix: New folder for a clean copy of the data. Broken images and wrong annotations are left out, boxes are
            clipped to their images, boxes that repeat another are left out, and so are images of train that look the
            same as one of val. changes.csv in it lists every change. The data itself stays as it is.
        weights: Weight file or run folder of a trained network: labels that it contradicts are listed in suspects.csv
            in the output folder, by default a numbered one below runs, and drawn in suspects.png. They are suspects,
            no proof: look at them.
        split: What the network judges; by default val, as in van evaluate. It has learned the labels of its own
            training images, wrong ones too, and contradicts few of them: --folds trains networks for all images.
    """

    data: str
    data_root: str | None = None
    decode: bool = True
    workers: int | None = None
    short_edge: int = 800
    output: str | None = None
    fix: str | None = None
    weights: str | None = None
    split: Literal["train", "val", "all"] | None = None

    def check(self) -> None:
        """Refuse numbers that could only fail later.

        Raises:
            VanError: a number is out of range.
        """
        at_least("workers", self.workers, 0)
        at_least("short_edge", self.short_edge, 1)
        if self.split is not None and self.weights is None:
            raise VanError(
                f"split is {self.split}, which says what weights are to judge. Give --weights, or leave it out."
            )
        if self.fix is not None and not self.decode:
            raise VanError("fix copies images that can be decoded, but decode is off. Leave one of them out.")


@dataclass
class Inference:
    """Options of inference, which a weight file keeps; tasks that have some declare a subclass."""

    # an option and those that it sets back where it comes from a later source
    exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def check(self) -> None:
        """Raise VanError where a value is out of range."""

    def changed(self, changes: Mapping[str, Any]) -> Any:
        """Return the options with other values, as a command or caller gives them."""
        return replace(self, **changes)


@dataclass
class SliceInference(Inference):
    """How large images are seen by detectors, and by what uses them.

    Attributes:
        slice: Height and width in pixels of overlapping slices, in which a detector sees large images, beside seeing
            them whole: small objects keep their size. What is found is joined by non-maximum suppression.
        overlap: Share of a slice that the next one shows too, more than the size of small objects; null means 0.2.
    """

    slice: tuple[int, int] | None = None
    overlap: float | None = None

    @property
    def share(self) -> float:
        """See overlap."""
        return 0.2 if self.overlap is None else self.overlap

    def check(self) -> None:
        """Raise VanError where a value is out of range or does nothing."""
        super().check()
        if self.slice is not None and (len(self.slice) != 2 or min(self.slice) < 1):
            raise VanError(f"slice is {self.slice}, expected a height and a width of at least 1.")
        if self.overlap is not None and not 0 <= self.overlap <= 0.9:
            raise VanError(f"overlap is {self.overlap}, expected a number from 0 to 0.9.")
        if self.overlap is not None and self.slice is None:
            raise VanError(f"overlap is {self.overlap}, but there are no slices. Give slice too, or leave it out.")


def at_least(name: str, value: float | None, least: float) -> None:
    """Raise VanError unless a value, where it is given, is at least so large.

    Args:
        name: Name of the option.
        value: Its value; None is not checked.
        least: Smallest value allowed.
    """
    if value is not None and not value >= least:
        raise VanError(f"{name} is {value}, expected {least} or more.")


def not_empty(name: str, values: Sequence[str] | None) -> None:
    """Raise VanError for an empty list of what to keep.

    Args:
        name: Name of the option.
        values: Its value; None is not checked.
    """
    if values is not None and not values:
        raise VanError(f"{name} is empty. Name the {name} to keep, or leave it out to keep all.")


def within(name: str, value: float | None, low: float = 0.0, high: float = 1.0) -> None:
    """Raise VanError unless a value, where it is given, lies in a range.

    Args:
        name: Name of the option.
        value: Its value; None is not checked.
        low: Smallest value allowed.
        high: Largest value allowed.
    """
    if value is not None and not low <= value <= high:
        raise VanError(f"{name} is {value}, expected a number from {low:g} to {high:g}.")
