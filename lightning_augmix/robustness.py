"""Measures the robustness of a classifier on a Lightning Trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.utilities import dim_zero_cat

from lightning_augmix.corruptions import CORRUPTIONS, SEVERITIES, CorruptedData, open_corruptions
from lightning_augmix.operations import AugmentationSet, resolve_operations
from lightning_augmix.report import Calibration, RobustnessReport

__all__ = ["evaluate_robustness"]

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
    augmentation_set: AugmentationSet | None = None,
) -> RobustnessReport:
    """Measures a classifier's error and calibration on clean and on corrupted test images.

    Args:
        model: A module, of Lightning or not, that gives logits ``[N, K]`` for a batch of inputs. It is not changed.
        clean: The clean test images: a map-style dataset of pairs (input of the model, class).
        corrupted: The corrupted ones: a folder in the format of CIFAR-10-C or ImageNet-C, or what
            ``compute_corruptions`` returned.
        transform: Makes an input of the model from a PIL image, as for the clean images.
        corruptions: Which corruptions to measure.
        batch_size: Images per batch and process, at least 1.
        num_workers: Worker processes that load images, at least 0.
        trainer: A Trainer, for its accelerator, devices, strategy and precision; ``None`` for one on the best device.
            With several devices each image is still counted once.
        name: What the report calls the model; ``None`` for the name of its class.
        augmentation_set: The operations of AugMix in training, as for ``AugMixCallback``: the report names the
            corruptions that resemble one of them.

    Returns:
        The report, on every rank the same.

    Raises:
        TypeError: If ``model`` is no module.
        ValueError: If files are missing or damaged, if there is no such corruption, or if the model does not give
            logits ``[N, K]``.

    Example:
        >>> from lightning_augmix import evaluate_robustness
        >>> report = evaluate_robustness(model, test_data, "data/CIFAR-10-C", to_tensor)  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected argument `model` to be a torch.nn.Module; got {type(model).__name__}.")
    unknown = [corruption for corruption in corruptions if corruption not in CORRUPTIONS]
    if unknown or not corruptions:
        raise ValueError(
            f"Expected argument `corruptions` to be of: {', '.join(CORRUPTIONS)}; got {unknown or 'none'}."
        )
    data = corrupted if isinstance(corrupted, CorruptedData) else open_corruptions(corrupted)
    sets: list[Any] = [clean]
    sets += [data.dataset(corruption, severity, transform) for corruption in corruptions for severity in SEVERITIES]
    evaluation = _Evaluation(model, _count_classes(model, clean), sets, batch_size, num_workers)
    if trainer is None:
        trainer = pl.Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.test(evaluation, verbose=False)
    found = {key: value.item() for key, value in trainer.callback_metrics.items()}
    errors = [found[f"wrong/{number}"] / len(images) for number, images in enumerate(sets)]
    each = len(SEVERITIES)
    return RobustnessReport(
        name=type(model).__name__ if name is None else name,
        clean_error=errors[0],
        errors={corruption: tuple(errors[1 + each * number :][:each]) for number, corruption in enumerate(corruptions)},
        clean=_calibration(found, "clean"),
        corrupted=_calibration(found, "corrupted"),
        operations=tuple(op.name for op in resolve_operations(augmentation_set)) if augmentation_set else (),
    )


def _count_classes(model: nn.Module, clean: Any) -> int:
    like = next(model.parameters(), torch.empty(0))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.as_tensor(clean[0][0])[None].to(like.device))
    finally:
        model.train(was_training)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"Expected argument `model` to give logits [N, K]; for one image it gave {given}.")
    return logits.shape[1]


class _Reliability(MulticlassCalibrationError):  # noqa: N818  # a metric, no exception
    """The bins that the calibration errors are made of."""

    def compute(self) -> Any:
        confidences, accuracies = dim_zero_cat(self.confidences), dim_zero_cat(self.accuracies)
        edges = torch.linspace(0, 1, self.n_bins + 1, device=confidences.device)
        numbers = torch.bucketize(confidences, edges, right=True).sub_(1).clamp_(max=self.n_bins - 1)
        sums = torch.zeros(3, self.n_bins, dtype=torch.float64, device=confidences.device)
        for row, values in zip(sums, (torch.ones_like(confidences), confidences, accuracies), strict=True):
            row.scatter_add_(0, numbers, values.double())
        counts = sums[0].clamp(min=1)
        return torch.stack([sums[0], sums[1] / counts, sums[2] / counts])


class _WrongAnswers(Metric):
    """Counts wrong answers on each of several sets of images."""

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
    """A set of images among several, whose number each sample bears."""

    def __init__(self, images: Any, number: int) -> None:
        self.images, self.number = images, number

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        inputs, target = self.images[index]
        return inputs, target, self.number

    def __len__(self) -> int:
        return len(self.images)


class _Evaluation(pl.LightningModule):
    """Counts wrong answers on each of several sets, the first of them clean, and measures calibration."""

    def __init__(
        self, model: nn.Module, num_classes: int, sets: Sequence[Any], batch_size: int, num_workers: int
    ) -> None:
        super().__init__()
        self.model = model
        self._data: ConcatDataset[Any] = ConcatDataset(
            [_Numbered(images, number) for number, images in enumerate(sets)]
        )
        self._batch_size, self._num_workers = batch_size, num_workers
        self.wrong = _WrongAnswers(len(sets))
        self.calibration = nn.ModuleDict({name: _calibration_metrics(num_classes) for name in ("clean", "corrupted")})

    def test_dataloader(self) -> DataLoader[Any]:
        # The usual sampler counts some images twice, to give each rank as many.
        sampler = UnrepeatedDistributedSampler(
            self._data, self.trainer.world_size, self.trainer.global_rank, shuffle=False
        )
        return DataLoader(self._data, self._batch_size, num_workers=self._num_workers, sampler=sampler)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        inputs, targets, numbers = batch
        probabilities = self.model(inputs).float().softmax(dim=1)
        self.wrong.update(probabilities.argmax(dim=1), targets, numbers)
        for name, chosen in (("clean", numbers == 0), ("corrupted", numbers > 0)):
            if chosen.any():
                calibration: Any = self.calibration[name]
                calibration.update(probabilities[chosen], targets[chosen])

    def on_test_epoch_end(self) -> None:
        found = {f"wrong/{number}": count for number, count in enumerate(self.wrong.compute())}
        for name, metrics in self.calibration.items():
            each: Any = metrics
            values = each.compute()
            found |= {f"{name}/expected": values["expected"], f"{name}/rms": values["rms"]}
            for row, label in zip(values["bins"], ("count", "confidence", "accuracy"), strict=True):
                found |= {f"{name}/{label}/{number}": value for number, value in enumerate(row)}
        # Through the log, because strategies that spawn processes keep the module in them. (They wait for ever if what
        # is logged exceeds the 64 KiB of a pipe: with a loader for each set it does.)
        self.log_dict({key: value.double() for key, value in found.items()})


def _calibration_metrics(num_classes: int) -> MetricCollection:
    metrics: dict[str, Any] = {
        "expected": MulticlassCalibrationError(num_classes, _BINS, norm="l1"),
        "rms": MulticlassCalibrationError(num_classes, _BINS, norm="l2"),
        "bins": _Reliability(num_classes, _BINS),
    }
    return MetricCollection(metrics, compute_groups=[list(metrics)])


def _calibration(found: dict[str, float], name: str) -> Calibration:
    def bins(label: str) -> list[float]:
        return [found[f"{name}/{label}/{number}"] for number in range(_BINS)]

    return Calibration(
        expected_error=found[f"{name}/expected"],
        rms_error=found[f"{name}/rms"],
        counts=tuple(map(int, bins("count"))),
        confidences=tuple(bins("confidence")),
        accuracies=tuple(bins("accuracy")),
    )
