"""The DataModule of all datasets: selection, held-out split, loaders, and views on the device."""

from __future__ import annotations

import os
from collections import Counter
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from recviz.augment.picture import grid
from recviz.augment.preparation import Preparation, serves
from recviz.augment.views import Views
from recviz.data.batches import (
    WORKER_TIMEOUT,
    Batches,
    OnError,
    RawBatch,
    deaf,
    default_workers,
    readable,
    report,
)
from recviz.data.dataset import Dataset, Split, aligned, hold_out, keep_classes, stratified_fraction
from recviz.data.images import EncodedImages, Images, MemoryImages, spaced
from recviz.data.listing import counted, named
from recviz.data.sampler import Draw, EpochBatches, OrderedBatches, TrainBatches, WholeEpochs
from recviz.data.statistics import measured, notes
from recviz.distributed import world_size
from recviz.errors import InputError
from recviz.launch.position import position
from recviz.optim.schedules import schedule_steps

if TYPE_CHECKING:
    from typing_extensions import Self

PLACES = ("root", "path")
"""Settings that select the dataset."""

SELECTION = frozenset(
    {"classes", "fraction", "train_list", "exclude", "val_fraction", "val_from_train"}
    | {"name", "train_split", "val_split", "image_column", "label_column"}
)
"""Settings that select images or parts of one dataset, and do not apply to another."""


@dataclass(eq=False, repr=False, kw_only=True)
class DataModule(LightningDataModule):
    """A dataset, selected, split and batched.

    Training batches are `((a, b, *local), labels)`, others `(images, labels)`.

    Loaders yield uint8 or uint16; views and normalisation are applied in batches on the device. All training batches
    have `batch_size` samples. A training sample occurs at most once per epoch over all processes; the samples beyond
    the last full global batch, different ones in each epoch, are left out. A held-out sample occurs exactly once. Each
    process draws different views. Order and views only depend on seed, rank, epoch and batch.

    Args:
        dataset: the dataset.
        views: the views of training batches, with the preparation of images. None: the dataset's default.
        batch_size: samples per process.
        num_workers: processes that decode images; not used for images in memory. None: when training on a GPU, one per
            core available to this process, at most 16; on a CPU, a quarter of that.
        classes: keep only these classes, e.g. "0-49" or [0, 5, 7]; labels are renumbered from 0.
        fraction: keep this fraction of each class of the training split; smaller fractions are subsets of larger ones.
        val_fraction: fraction of each class to hold out, for labelled datasets without a held-out split.
        val_from_train: hold out that fraction of the training images although the dataset has a held-out split, to
            choose settings without looking at it.
        seed: of order and views. None: that of seed_everything, or 0.
        on_error: "raise" at an unreadable image, naming it; or "skip" it: another image of the split replaces it in a
            training batch, and it is reported and counted in `skipped`. Evaluated splits are then checked at setup, and
            unreadable images are left out.

    Attributes:
        train, val: the splits, after `setup`.
        whole_epochs: batches that cover the split. None: full batches of `batch_size` per process.
        notes: sentences about what a user may not expect in the data, such as unused folders; set by `setup`.
        skipped: number of times that this process met each unreadable image, by its message.
    """

    dataset: Dataset = field(kw_only=False)
    views: Views = None  # type: ignore[assignment]
    batch_size: int = 256
    num_workers: int | None = None
    classes: str | list[int] | None = None
    fraction: float = 1.0
    val_fraction: float = 0.1
    val_from_train: bool = False
    seed: int | None = None
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        super().__init__()
        if self.batch_size < 2:
            raise InputError(
                f"batch_size must be at least 2 per process (BatchNorm needs 2 samples), got {self.batch_size}"
            )
        if not 0 < self.fraction <= 1:
            raise InputError(f"fraction must be above 0 and at most 1, got {self.fraction}")
        if not 0 < self.val_fraction < 1:
            raise InputError(f"val_fraction must be between 0 and 1, got {self.val_fraction}")
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"num_workers must be 0 or more, got {self.num_workers}")
        self.views = self.views or self.dataset.default_views()
        self.notes: list[str] = []
        self.whole_epochs: WholeEpochs | None = None
        self.skipped: Counter[str] = Counter()
        self.train: Split | None = None
        self.val: Split | None = None
        self._data_hash = ""  # see identity
        self._resumed: dict[str, Any] | None = None  # state_dict of a resumed run

    @property
    def preparation(self) -> Preparation:
        """Preparation of images for the backbone: size and normalisation of the views, and reading of the files.

        Raises:
            InputError: a normalisation that `setup` will measure.
        """
        return replace(self.views.preparation, reading=self.dataset.reading)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Channels and side of prepared images; known before `setup`."""
        reading = self.dataset.reading
        known = self.views.preparation.channels if self.views.normalised else None
        return known or (3 if reading is None else reading.count), self.views.size

    @property
    def class_names(self) -> list[str]:
        """Class names by label; empty without labels. Requires `setup`."""
        return self._loaded_train().class_names

    @property
    def description(self) -> list[str]:
        """Lines that describe the data; the first has no heading. Requires `setup`.

        They hold the number of images, classes and first names, the origin, the held-out part and how it was drawn,
        files left out, and `notes`.
        """
        train, val = self._loaded_train(), self.val
        classes = f" of {_classes(train.class_names)}" if train.labels is not None else " without labels"
        lines = [f"{type(self).__name__}: {_images(train)}{classes}{_from(train)}"]
        lines.append(f"held out: {_images(val)}{_from(val)}" if val is not None else "held out: nothing")
        if left_out := self.record["left_out"]:
            lines.append(f"left out: {counted(left_out)}")
        return [*lines, *(f"note: {note}" for note in self.notes)]

    @property
    def record(self) -> dict[str, Any]:
        """`description` as values for a file. Requires `setup`."""
        train, val = self._loaded_train(), self.val
        return {
            "name": type(self).__name__,
            "images": len(train.images),
            "classes": None if train.labels is None else len(train.class_names),
            "class_names": train.class_names,
            "source": train.source,
            "held_out": None if val is None else {"images": len(val.images), "source": val.source},
            "left_out": dict(train.left_out + (val.left_out if val is not None else Counter())),
            "notes": self.notes,
        }

    @property
    def tail(self) -> int:
        """Number of training images beyond the last full global batch, which an epoch leaves out."""
        return len(self._loaded_train().images) % (self.batch_size * world_size())

    def with_views(self, views: Views, global_batch: int | None = None, least: int = 1) -> Self:
        """A copy that shares the images, with other views and batches.

        Args:
            views: of training batches.
            global_batch: samples over all processes, in batches that cover the split. None: the same batches.
            least: minimum of samples per process in such a batch.
        """
        other = copy(self)
        other.views = views
        other.whole_epochs = None if global_batch is None else WholeEpochs(global_batch, least)
        return other

    def prepare_data(self) -> None:
        """Download missing data."""
        self.dataset.download()

    def chosen(self) -> tuple[Split, Split | None]:
        """The training and the held-out split with the selected classes and fraction, not decoded.

        Raises:
            InputError: missing or unreadable data, held-out classes that the training split lacks.
        """
        train, val = self.dataset.train(), None if self.val_from_train else self.dataset.held_out()
        self.notes = list(train.notes)
        if val is None and train.labels is not None:
            train, val = hold_out(train, self.val_fraction)
        elif val is not None and val.labels is None:
            self.notes.append(
                f"{val.source} has no class folders or labels: nothing is held out and no probe can run on these data; "
                "sort its images into class folders, or move it away to hold out a fraction of the training images"
            )
            val = None
        elif val is not None and train.labels is None:
            self.notes.append(f"no probe can run on {val.source}, since the training images have no labels")
        elif val is not None:
            val = aligned(val, train.class_names)
        if self.classes is not None:
            train, val = keep_classes(train, self.classes), keep_classes(val, self.classes) if val else None
        if val is not None and val.labels is not None:
            held = val.labels.bincount(minlength=len(val.class_names))
            lacking = [val.class_names[label] for label in (held == 0).nonzero().flatten().tolist()]
            if lacking:
                self.notes.append(f"no held-out images of {_classes(lacking)}")
        if self.fraction < 1:
            share = stratified_fraction(train.labels, len(train.images), self.fraction)
            train = train.subset(share, f"{self.fraction:g} of {'each class' if train.class_names else 'the images'}")
        return train, val

    def setup(self, stage: str | None = None) -> None:
        """Read the splits and select classes and fraction; a second call does not read again.

        Args:
            stage: Lightning's; "validate" does not require a full training batch.

        Raises:
            InputError: see `chosen`; fewer samples than one global batch.
        """
        if self.train is None:
            train, val = self.chosen()
            self.val = None if val is None else self.decoded(val, evaluated=True)
            self.train = self.decoded(train, evaluated=stage == "validate")
            self._look_at(train.images, stage)
        elif not self.views.normalised:
            self._look_at(self.train.images, stage)
        count, processes = len(self.train.images), world_size()
        smallest = self.batch_size if self.whole_epochs is None else self.whole_epochs.least
        if stage in (None, "fit") and count < smallest * processes:
            raise InputError(
                f"the training split has {count} images, fewer than one batch of {smallest} on each of "
                f"{processes} process{'es' * (processes > 1)}: lower data.batch_size"
            )
        if self.val is not None and len(self.val.images) < processes:
            raise InputError(
                f"the held-out split has {len(self.val.images)} images, fewer than the {processes} processes"
            )

    def _look_at(self, images: Images, stage: str | None) -> None:
        """Measure a normalisation that is to be measured, check the channels, and note what looks wrong."""
        assert self.train is not None  # read before
        if not self.views.normalised:
            self.views.normalise_by(*measured(self.train.images))
            mean, std = self.views.preparation.mean, self.views.preparation.std
            self.notes.append(f"measured on the training images: mean {list(mean)}, standard deviation {list(std)}")
        got, expected = images.channels, self.preparation.channels
        if not serves(got, expected):
            raise InputError(
                f"the images have {got} channel{'s' * (got > 1)}, and mean and std of the views are {expected} "
                "numbers: set data.reading.channels, or give a mean and std for each channel"
            )
        given = stage != "validate" and not self.views.measures
        self.notes += notes(images, self.preparation if given else None)

    def decoded(self, split: Split, evaluated: bool = False) -> Split:
        """The split in memory if requested; without unreadable images if these are skipped and it is evaluated or kept.

        Training images are otherwise read when their batch is due.
        """
        encoded = isinstance(split.images, EncodedImages)
        if encoded and self.on_error == "skip" and (evaluated or split.memory_size is not None):
            split = readable(split)
        if split.memory_size is not None and isinstance(split.images, EncodedImages):
            split = replace(split, images=MemoryImages(split.images.squares(split.memory_size)))
        return split

    def train_dataloader(self) -> DataLoader[RawBatch]:
        """Shuffled batches for training; a resumed run starts at its checkpoint, also within an epoch.

        Raises:
            InputError: trainer.overfit_batches, for which Lightning replaces the sampler, and with it the views' seeds.
        """
        if overfit := getattr(self.trainer, "overfit_batches", 0):
            raise InputError(
                f"trainer.overfit_batches {overfit}: train on few images by data.fraction, or on few batches an epoch "
                "by trainer.limit_train_batches"
            )
        train = self._loaded_train()
        batches, count = self.batches(train), len(train.images)
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        if self.whole_epochs is not None:
            global_batch, least = self.whole_epochs
            return self._loader(batches, EpochBatches(count, global_batch, seed, least))
        sampler = TrainBatches(count, self.batch_size, seed, *(train.images.shards() or (None, 1)))
        sampler.run = self._run_length(len(sampler))
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        if self._resumed is None or epoch > self._resumed["epoch"]:  # also if loaders are made again each epoch
            sampler.set_epoch(epoch)
        else:
            self.check_same(self._resumed)
            sampler.go_on(self._resumed["epoch"], self._resumed["batches"])
        return self._loader(batches, sampler)

    def _run_length(self, batches: int) -> tuple[int, int] | None:
        """Steps of an epoch and of the run's schedules, by the Trainer's limits; None if they are unknown."""
        if self.trainer is None:
            return None
        limit = self.trainer.limit_train_batches
        steps = int(batches * limit) if isinstance(limit, float) else min(batches, limit or 0)
        total = schedule_steps(self.trainer, steps)
        return (steps, total) if total > 0 else None

    def val_dataloader(self) -> DataLoader[RawBatch] | list[Any]:
        """The held-out split in order; an empty list without one."""
        return self.clean_dataloader(self.val) if self.val is not None else []

    def clean_dataloader(
        self, split: Split, preparation: Preparation | None = None, drop_unreadable: bool = False
    ) -> DataLoader[RawBatch]:
        """A split in order, without randomness, with each sample once over all processes.

        Args:
            split: a split of this dataset.
            preparation: of the images. None: that of the views.
            drop_unreadable: leave out unreadable images instead of raising: a batch may be empty, and has one line in
                `skipped` for each.
        """
        batches = self.batches(split, preparation, drop_unreadable)
        return self._loader(batches, OrderedBatches(len(split.images), self.batch_size))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make the views of a training batch, or prepare the images of others; other loaders pass unchanged."""
        if not isinstance(batch, RawBatch):
            return batch
        images, labels, seed = batch.images, batch.labels, batch.seed
        for problem in batch.skipped:
            if problem not in self.skipped:
                report(problem)
            self.skipped[problem] += 1
        if seed is None:
            assert isinstance(images, Tensor)  # without views
            return self.preparation(images), labels
        device = images[0].device  # of the first image, or of the first view's crops
        self.views.to(device)
        return self.views(images, torch.Generator(device).manual_seed(seed), batch.progress), labels

    def preview(self, rows: int = 8) -> Tensor:
        """A picture of `rows` training images, evenly spaced, with their views: uint8 [3, H, W]."""
        train = self._loaded_train()
        indices = torch.tensor(spaced(len(train.images), rows))
        batch = self.batches(train)[Draw(indices, 0)]
        views = self.views.cpu()(batch.images, torch.Generator().manual_seed(0))
        images = train.images.clean(batch.indices, self.preparation)
        names = [name for name, _, _ in self.views.each()]
        return grid(images, views, self.preparation, len(indices), names)

    def batches(self, split: Split, preparation: Preparation | None = None, drop_unreadable: bool = False) -> Batches:
        """The split as read by its loaders, indexed by `sampler.Draw`."""
        return Batches(split, self.views.stages, preparation or self.preparation, self.on_error, drop_unreadable)

    def state_dict(self) -> dict[str, Any]:
        """The position of the checkpoint in training: the current or next epoch, and its completed batches.

        Data workers start before Lightning restores its loops, so they cannot take it from there.
        """
        if self.trainer is None:
            return {}
        place = position(self.trainer)
        own = {"mean": list(self.preparation.mean), "std": list(self.preparation.std)} if self.views.measures else {}
        return {"epoch": place.epoch, "batches": place.batches, **own, **self.identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from `state_dict`."""
        if state_dict:
            self._resumed = dict(state_dict)
        if "mean" in state_dict and self.views.measures:
            self.views.normalise_by(state_dict["mean"], state_dict["std"])

    def identity(self, processes: int | None = None) -> dict[str, Any]:
        """The data and batch of the run, which must not change on resume.

        Args:
            processes: number of processes. None: the current number.
        """
        train, processes = self._loaded_train(), processes or world_size()
        self._data_hash = self._data_hash or train.fingerprint(names_only=True)
        global_batch = self.batch_size * processes
        return {
            "images": len(train.images), "data": self._data_hash, "global_batch": global_batch, "processes": processes
        }  # fmt: skip

    def check_same(self, state: dict[str, Any], processes: int | None = None) -> None:
        """Check that a run may resume with these data and processes. Requires `setup`.

        Args:
            state: a `state_dict`.
            processes: number of processes. None: the current number.

        Raises:
            InputError: other images, another global batch, or other processes within an epoch.
        """
        for name, value in self.identity(processes).items():
            if state.get(name, value) == value or (name == "processes" and not state["batches"]):
                continue
            what = {"data": "images of the fingerprint", "processes": "processes within an epoch"}
            raise InputError(
                f"the checkpoint is of a run with {what.get(name, name.replace('_', ' '))} {state[name]}, and here it "
                f"is {value}: resume with the same images and global batch (data.batch_size × processes), and within "
                "an epoch with as many processes"
            )

    def _loaded_train(self) -> Split:
        if self.train is None:
            raise InputError(f"{type(self).__name__} has no data yet: call setup() first")
        return self.train

    def _loader(self, batches: Batches, sampler: TrainBatches | EpochBatches | OrderedBatches) -> DataLoader[RawBatch]:
        workers = 0
        if isinstance(batches.images, EncodedImages) and len(batches) > self.batch_size:
            processes = 1 if self.trainer is None else self.trainer.num_devices
            workers = default_workers(processes, self._on_gpu()) if self.num_workers is None else self.num_workers
        return DataLoader(
            batches,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            pin_memory=self._on_gpu(),
            persistent_workers=workers > 0,
            worker_init_fn=deaf,
            timeout=WORKER_TIMEOUT if workers else 0,
            generator=torch.Generator(),  # otherwise each iterator would draw from the global generator
        )

    def _on_gpu(self) -> bool:
        """Whether training runs on a CUDA GPU; without a trainer, whether there is one."""
        if self.trainer is None:
            return torch.cuda.is_available()
        return bool(self.trainer.strategy.root_device.type == "cuda")


def _classes(names: list[str]) -> str:
    return f"{len(names):,} class{'es' * (len(names) != 1)} ({named(names)})"


def _images(split: Split) -> str:
    return f"{len(split.images):,} image{'s' * (len(split.images) != 1)}"


def _from(split: Split) -> str:
    return f" from {split.source}" if split.source else ""
