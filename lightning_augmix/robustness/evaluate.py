"""Measures the robustness of a classifier with a Lightning Trainer."""

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torchvision
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchmetrics import Metric
from torchvision.datasets import DatasetFolder

from lightning_augmix import __version__
from lightning_augmix._checks import integer, string
from lightning_augmix.operations import AugmentationSet, resolve_operations
from lightning_augmix.robustness.classes import as_class, classes_of, renumbered
from lightning_augmix.robustness.published import CORRUPTIONS, SEVERITIES, CorruptedData, open_corruptions
from lightning_augmix.robustness.report import Calibration, RobustnessReport

__all__ = ["evaluate_robustness", "name_of"]

_BINS = 15


def evaluate_robustness(
    model: nn.Module,
    clean: Dataset[Any],
    corrupted: str | Path | CorruptedData,
    transform: Callable[[Image.Image], Any],
    *,
    corruptions: Sequence[str] = CORRUPTIONS,
    batch_size: int = 256,
    num_workers: int = 0,
    trainer: pl.Trainer | None = None,
    name: str | None = None,
    data_name: str | None = None,
    augmentation_set: AugmentationSet | None = None,
) -> RobustnessReport:
    """Measures a classifier's error and calibration on clean and on corrupted test images.

    With computed corruptions, the report has the digest of the clean images that were corrupted. With published ones it
    has none: the clean images come as inputs of this model, and another model may have others of the same images.

    Args:
        model: A module, LightningModule or not, that returns logits ``[N, K]`` for a batch of inputs; a copy of it is
            evaluated.
        clean: The clean test images: a map-style dataset of pairs (input of the model, class). Its classes are numbered
            as the model's logits; corrupted folders that number them differently are renumbered by their names, where
            the dataset has ``class_to_idx``, be it in a subset or wrapper.
        corrupted: The corrupted test images: a folder in the format of CIFAR-10-C or ImageNet-C, or the result of
            ``compute_corruptions``.
        transform: Converts a PIL image to an input of the model, as for the clean images.
        corruptions: The corruptions to evaluate.
        batch_size: Images per batch and process, at least 1.
        num_workers: Worker processes that load images, at least 0.
        trainer: A Trainer, for its accelerator, devices, strategy and precision; ``None`` for one on the best device.
            Several devices still count each image once. It must test all batches.
        name: The model's name in the report; ``None`` for the name of its class.
        data_name: The clean images' name in the report, by which reports are compared; ``None`` for the name of the
            dataset's class and, for folders, where they are: name datasets whose class does not tell what they are.
        augmentation_set: AugMix's operations in training, as for ``AugMixCallback``: the report marks the corruptions
            that resemble one of them.

    Returns:
        The report, the same on every rank.

    Raises:
        TypeError: If an argument has the wrong type, inputs are no tensors, or classes no integers.
        ValueError: If an argument is out of range, files are missing or damaged, there is no such corruption or
            operation, the model does not return finite logits ``[N, K]``, a class is not one of the K, clean and
            corrupted images differ in shape, dtype, classes or, of equally many images, in those of a class, or the
            Trainer leaves out batches.

    Example:
        >>> from lightning_augmix import evaluate_robustness
        >>> report = evaluate_robustness(model, test_data, "data/CIFAR-10-C", to_tensor)  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected argument `model` to be a torch.nn.Module; got {type(model).__name__}.")
    _check(clean, corruptions)
    name = type(model).__name__ if name is None else string("name", name)
    data_name = name_of(clean) if data_name is None else string("data_name", data_name)
    batch_size = integer("batch_size", batch_size, at_least=1)
    num_workers = integer("num_workers", num_workers, at_least=0)
    if trainer is None:
        trainer = pl.Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
    _check_trainer(trainer)
    operations = tuple(op.name for op in resolve_operations(augmentation_set)) if augmentation_set else ()
    data = corrupted if isinstance(corrupted, CorruptedData) else open_corruptions(corrupted)
    sets: list[Any] = [clean]
    sets += [data.dataset(corruption, severity, transform) for corruption in corruptions for severity in SEVERITIES]
    _check_inputs(sets)
    numbers = _numbers_of_model(sets)
    # A copy, because a Trainer changes modes, dtypes and devices. The module's own Trainer stays out of it.
    own_trainer = getattr(model, "_trainer", None)
    copied = copy.deepcopy(model, {id(own_trainer): own_trainer}).eval()
    evaluation = _Evaluation(copied, _count_classes(copied, clean), sets, numbers, batch_size, num_workers)
    trainer.test(evaluation, verbose=False)
    found = {key: value.item() for key, value in trainer.callback_metrics.items()}
    errors = [found[f"wrong/{number}"] / len(images) for number, images in enumerate(sets)]
    each = len(SEVERITIES)
    return RobustnessReport(
        name=name,
        clean_error=errors[0],
        errors={corruption: tuple(errors[1 + each * number :][:each]) for number, corruption in enumerate(corruptions)},
        clean=_calibration(found, "clean"),
        corrupted=_calibration(found, "corrupted"),
        operations=operations,
        data=data_name,
        source=data.source,
        strengths=data.strengths,
        seed=data.seed,
        versions={
            "lightning_augmix": __version__,
            "torch": str(torch.__version__),
            "torchvision": torchvision.__version__,
            **data.versions,
        },
        digest=data.digest,
    )


def name_of(images: Any) -> str:
    """Names a dataset for a report, by its class and, for folders, the last two.

    Args:
        images: The dataset.
    """
    kind = type(images).__name__
    if isinstance(images, Subset):
        return f"{kind} of {name_of(images.dataset)}"
    if isinstance(images, DatasetFolder):
        return f"{kind} {'/'.join(Path(os.path.abspath(images.root)).parts[-2:])}"
    return kind


def _check(clean: Any, corruptions: Sequence[str]) -> None:
    unknown = [corruption for corruption in corruptions if corruption not in CORRUPTIONS]
    if unknown or not corruptions or len(set(corruptions)) < len(corruptions):
        given = unknown or (list(corruptions) if corruptions else "none")
        raise ValueError(f"Expected argument `corruptions` to be of: {', '.join(CORRUPTIONS)}, each once; got {given}.")
    if not len(clean):
        raise ValueError("Expected argument `clean` to have images; got none.")
    sample = clean[0]
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise TypeError(
            "Expected argument `clean` to be a dataset of pairs (input of the model, class); its samples are "
            f"{type(sample).__name__}s."
        )


def _check_trainer(trainer: Any) -> None:
    if not isinstance(trainer, pl.Trainer):
        raise TypeError(f"Expected argument `trainer` to be a lightning.pytorch.Trainer; got {trainer!r}.")
    limit: Any = trainer.limit_test_batches
    # As an integer, 1 is one batch.
    leaves_out = isinstance(limit, int) or limit != 1.0
    if leaves_out or trainer.fast_dev_run or trainer.barebones:  # type: ignore[attr-defined]
        raise ValueError(
            "Expected argument `trainer` to test with all images; got one with limit_test_batches, fast_dev_run or "
            "barebones: leave them out."
        )


def _like_the_model(model: nn.Module, inputs: Any) -> Tensor:
    """Inputs on the model's device and, if they are real numbers, of its dtype."""
    parameters = (each for each in model.parameters() if each.is_floating_point())
    like = next(parameters, torch.empty(0))
    tensor = torch.as_tensor(inputs)
    return tensor.to(like if tensor.is_floating_point() else like.device)


def _check_inputs(sets: Sequence[Any]) -> None:
    """Rejects clean and corrupted inputs that do not look alike: in a batch, their dtypes would be promoted."""
    inputs = [images[0][0] for images in sets]
    for name, each in (("clean", inputs[0]), ("transform", inputs[1])):
        if not isinstance(each, Tensor | np.ndarray):
            raise TypeError(
                f"Expected argument `{name}` to return inputs of the model, tensors; got {type(each).__name__}: let it "
                "end with ToTensor, or what else makes them."
            )
    first = torch.as_tensor(inputs[0])
    for each in map(torch.as_tensor, inputs[1:]):
        if each.shape != first.shape or each.dtype != first.dtype:
            raise ValueError(
                "Expected arguments `clean` and `transform` to return inputs of one shape and dtype; got "
                f"{list(first.shape)} of {first.dtype}, and {list(each.shape)} of {each.dtype}: apply the same to both."
            )


def _numbers_of_model(sets: Sequence[Any]) -> list[Mapping[int, int] | None]:
    """For each set, the model's number for each of the set's own; ``None`` where they are the same."""
    clean = classes_of(sets[0])
    places = [getattr(images, "root", None) or name_of(images) for images in sets]
    others = [
        renumbered(classes_of(images), clean, str(place), str(places[0]))
        for images, place in zip(sets[1:], places[1:], strict=True)
    ]
    return [None, *others]


def _count_classes(model: nn.Module, clean: Any) -> int:
    with torch.no_grad():
        logits = model(_like_the_model(model, clean[0][0])[None])
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"Expected argument `model` to return logits [N, K]; for one image it returned {given}.")
    return logits.shape[1]


class _Reliability(Metric):
    """Sums of images, confidences and correct predictions in bins of confidence.

    The sums are integers, with 2²⁴ for a confidence of 1: exact for any number of images, in any order, on any device.
    torchmetrics' calibration error sums in float32: it is off by 0.001 for 1 million images and by 0.02 for 4 million.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, _BINS, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, confidences: Tensor, right: Tensor) -> None:
        bins = (confidences * _BINS).long().clamp(max=_BINS - 1)
        values = torch.stack([torch.ones_like(bins), (confidences * _ONE).round().long(), right.long()])
        # Not in place: spawned processes share the memory of the first state.
        self.sums = self.sums.scatter_add(1, bins.expand(3, -1), values)

    def compute(self) -> Tensor:
        return self.sums


_ONE = 2**24


class _WrongAnswers(Metric):
    """Counts wrong predictions on each of several sets of images."""

    counts: Tensor

    def __init__(self, sets: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(sets, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, answers: Tensor, targets: Tensor, numbers: Tensor) -> None:
        # Not in place: spawned processes share the memory of the first state.
        self.counts = self.counts + torch.bincount(numbers[answers != targets], minlength=len(self.counts))

    def compute(self) -> Tensor:
        return self.counts


class _Numbered(Dataset[Any]):
    """One of several sets of images; each sample carries the number of its set."""

    def __init__(self, images: Any, number: int, classes: Mapping[int, int] | None, num_classes: int) -> None:
        self.images, self.number, self.classes, self.num_classes = images, number, classes, num_classes

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        inputs, target = self.images[index]
        own = as_class(target)
        found = own if self.classes is None else self.classes[own]
        if not 0 <= found < self.num_classes:
            raise ValueError(
                f"Expected the classes of the images to be from 0 to {self.num_classes - 1}, one for each of the "
                f"model's logits; got {found}: these are not the model's images."
            )
        return inputs, found, self.number

    def __len__(self) -> int:
        return len(self.images)


class _Evaluation(pl.LightningModule):
    """Counts wrong predictions on each of several sets, the first of them clean, and measures calibration."""

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        sets: Sequence[Any],
        numbers: Sequence[Mapping[int, int] | None],
        batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        self.model = model
        self._data: ConcatDataset[Any] = ConcatDataset(
            [
                _Numbered(images, number, classes, num_classes)
                for number, (images, classes) in enumerate(zip(sets, numbers, strict=True))
            ]
        )
        self._batch_size, self._num_workers = batch_size, num_workers
        self.wrong = _WrongAnswers(len(sets))
        self.reliability = nn.ModuleDict({"clean": _Reliability(), "corrupted": _Reliability()})

    def test_dataloader(self) -> DataLoader[Any]:
        # The usual sampler repeats some images, so that all ranks have equally many.
        sampler = UnrepeatedDistributedSampler(
            self._data, self.trainer.world_size, self.trainer.global_rank, shuffle=False
        )
        return DataLoader(self._data, self._batch_size, num_workers=self._num_workers, sampler=sampler)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        inputs, targets, numbers = batch
        probabilities = self.model(_like_the_model(self.model, inputs)).float().softmax(dim=1)
        if not probabilities.isfinite().all():
            raise ValueError("Expected argument `model` to return finite logits; got NaN or infinity for some images.")
        confidences, answers = probabilities.max(dim=1)
        self.wrong.update(answers, targets, numbers)
        for name, chosen in (("clean", numbers == 0), ("corrupted", numbers > 0)):
            reliability: Any = self.reliability[name]
            reliability.update(confidences[chosen], (answers == targets)[chosen])

    def on_test_epoch_end(self) -> None:
        found = {f"wrong/{number}": count for number, count in enumerate(self.wrong.compute().tolist())}
        for name, metric in self.reliability.items():
            reliability: Any = metric
            counts, confidences, right = reliability.compute().cpu().double()
            rows = {"count": counts, "confidence": confidences / _ONE / counts, "accuracy": right / counts}
            for label, row in rows.items():
                found |= {f"{name}/{label}/{number}": value for number, value in enumerate(row.nan_to_num().tolist())}
        # Logged, because strategies that spawn processes keep the module in them. (They hang if the logged values
        # exceed the 64 KiB of a pipe, as they would with one loader per set.)
        self.log_dict({key: float(value) for key, value in found.items()})


def _calibration(found: dict[str, float], name: str) -> Calibration:
    counts, confidences, accuracies = (
        [found[f"{name}/{label}/{number}"] for number in range(_BINS)] for label in ("count", "confidence", "accuracy")
    )
    distances = [abs(confidence - accuracy) for confidence, accuracy in zip(confidences, accuracies, strict=True)]
    total = sum(counts)
    return Calibration(
        expected_error=sum(count * distance for count, distance in zip(counts, distances, strict=True)) / total,
        rms_error=math.sqrt(sum(count * d**2 for count, d in zip(counts, distances, strict=True)) / total),
        counts=tuple(map(int, counts)),
        confidences=tuple(confidences),
        accuracies=tuple(accuracies),
    )
