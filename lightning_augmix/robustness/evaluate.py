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
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision.datasets import DatasetFolder

from lightning_augmix import __version__
from lightning_augmix._checks import integer, string
from lightning_augmix.operations import AugmentationSet, resolve_operations
from lightning_augmix.robustness.classes import classes_of, renumbered, stratified
from lightning_augmix.robustness.measure import BINS, Errors, Flips, like_the_model
from lightning_augmix.robustness.published import CORRUPTIONS, SEVERITIES, CorruptedData, open_corruptions
from lightning_augmix.robustness.report import Calibration, RobustnessReport
from lightning_augmix.robustness.sequences import PerturbedData, open_perturbations

__all__ = ["evaluate_robustness", "name_of"]


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
    sequences: str | Path | PerturbedData | None = None,
    limit: int | None = None,
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
        sequences: Sequences of perturbed test images, for the rate of flips: a folder in the format of CIFAR-10-P or
            ImageNet-P, or the result of ``compute_perturbations``; ``None`` for none.
        limit: Number of images to measure on, at least 1: a part with the classes in proportion, which the report says;
            ``None`` for all. It takes sets of the same images in the same order.

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
    if limit is not None:
        limit = integer("limit", limit, at_least=1, remedy="leave it out for all images")
    if trainer is None:
        trainer = pl.Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
    _check_trainer(trainer)
    operations = tuple(op.name for op in resolve_operations(augmentation_set)) if augmentation_set else ()
    data = corrupted if isinstance(corrupted, CorruptedData) else open_corruptions(corrupted)
    perturbed = open_perturbations(sequences) if isinstance(sequences, str | Path) else sequences
    if not isinstance(perturbed, PerturbedData | None):
        raise TypeError(
            "Expected argument `sequences` to be a folder or what compute_perturbations returns; got "
            f"{type(sequences).__name__}."
        )
    sets: list[Any] = [clean]
    sets += [data.dataset(corruption, severity, transform) for corruption in corruptions for severity in SEVERITIES]
    _check_inputs(sets)
    numbers = _numbers_of_model(sets)
    whole, flipping = len(sets[0]), _flipping(perturbed, transform, sets[0])
    if limit is not None and limit < whole:
        sets, flipping = _parts(sets, numbers, flipping, limit)
    # A copy, because a Trainer changes modes, dtypes and devices. The module's own Trainer stays out of it.
    own_trainer = getattr(model, "_trainer", None)
    copied = copy.deepcopy(model, {id(own_trainer): own_trainer}).eval()
    evaluation = Errors(copied, _count_classes(copied, clean), sets, numbers, batch_size, num_workers)
    trainer.test(evaluation, verbose=False)
    found = {key: value.item() for key, value in trainer.callback_metrics.items()}
    flip_rates: dict[str, float] = {}
    if perturbed is not None:
        trainer.test(Flips(copied, flipping, perturbed.noises, batch_size, num_workers), verbose=False)
        flip_rates = {name: trainer.callback_metrics[f"flips/{i}"].item() for i, name in enumerate(flipping)}
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
        part_of=whole if len(sets[0]) < whole else None,
        flip_rates=flip_rates,
        sequences=None if perturbed is None else f"{perturbed.source}, {_count(flipping)} each",
    )


def _count(flipping: Mapping[str, Any]) -> int:
    return len(next(iter(flipping.values())))


def _flipping(data: PerturbedData | None, transform: Callable[[Image.Image], Any], clean: Any) -> dict[str, Any]:
    """The sequences of each perturbation, of inputs that look like the clean ones."""
    if data is None:
        return {}
    sets: dict[str, Any] = {name: data.dataset(name, transform) for name in data.perturbations}
    expected = torch.as_tensor(clean[0][0])
    for name, images in sets.items():
        found = images[0]
        if found.shape[1:] != expected.shape or found.dtype != expected.dtype:
            raise ValueError(
                f"Expected the frames of {name} to be inputs like the clean ones, {list(expected.shape)} of "
                f"{expected.dtype}; got {list(found.shape[1:])} of {found.dtype}."
            )
        first = next(iter(sets))
        if len(images) != len(sets[first]):
            raise ValueError(
                f"Expected equally many sequences of every perturbation; got {len(sets[first])} of {first}, "
                f"{len(images)} of {name}: files are missing."
            )
    return sets


def _parts(
    sets: Sequence[Any], numbers: Sequence[Mapping[int, int] | None], flipping: Mapping[str, Any], limit: int
) -> tuple[list[Any], dict[str, Any]]:
    """The same part of each set; one with as many images as the part is taken to be it."""
    count = len(sets[0])
    targets = [classes_of(images).targets for images in sets]
    targets = [
        found if found is None or renumber is None else np.array([renumber[number] for number in found.tolist()])
        for found, renumber in zip(targets, numbers, strict=True)
    ]
    listed = next((found for found in targets if found is not None and len(found) == count), None)
    chosen = stratified(limit, count, listed)

    def part(images: Any, found: Any) -> Any:
        known = None if listed is None else listed if len(images) == count else listed[chosen]
        are_alike = found is None or known is None or np.array_equal(found, known)
        if len(images) not in (count, limit) or not are_alike:
            place, order = getattr(images, "root", name_of(images)), "" if are_alike else " in another order"
            raise ValueError(
                f"Expected, with `limit`, {count} images in every set, in one order, or the {limit} chosen ones; "
                f"{place} has {len(images)}{order}: leave out `limit`."
            )
        return Subset(images, chosen.tolist()) if len(images) == count else images

    parts = [part(images, found) for images, found in zip(sets, targets, strict=True)]
    return parts, {name: part(images, None) for name, images in flipping.items()}


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
        logits = model(like_the_model(model, clean[0][0])[None])
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"Expected argument `model` to return logits [N, K]; for one image it returned {given}.")
    return logits.shape[1]


def _calibration(found: dict[str, float], name: str) -> Calibration:
    counts, confidences, accuracies = (
        [found[f"{name}/{label}/{number}"] for number in range(BINS)] for label in ("count", "confidence", "accuracy")
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
