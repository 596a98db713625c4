"""What a Trainer runs to measure a classifier: errors and confidences on sets of images, flips on sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchmetrics import Metric

from lightning_augmix.robustness.classes import as_class

__all__ = ["BINS", "Errors", "Flips", "like_the_model"]

BINS = 15  # of confidence


def like_the_model(model: nn.Module, inputs: Any) -> Tensor:
    """Puts inputs on the model's device and, if they are real numbers, gives them its dtype.

    Args:
        model: The model.
        inputs: A tensor, or an array.
    """
    parameters = (each for each in model.parameters() if each.is_floating_point())
    like = next(parameters, torch.empty(0))
    tensor = torch.as_tensor(inputs)
    return tensor.to(like if tensor.is_floating_point() else like.device)


class _Reliability(Metric):
    """Sums of images, confidences and correct predictions in bins of confidence.

    The sums are integers, with 2²⁴ for a confidence of 1: exact for any number of images, in any order, on any device.
    torchmetrics' calibration error sums in float32: it is off by 0.001 for 1 million images and by 0.02 for 4 million.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, BINS, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, confidences: Tensor, right: Tensor) -> None:
        bins = (confidences * BINS).long().clamp(max=BINS - 1)
        values = torch.stack([torch.ones_like(bins), (confidences * _ONE).round().long(), right.long()])
        # Not in place: spawned processes share the memory of the first state.
        self.sums = self.sums.scatter_add(1, bins.expand(3, -1), values)

    def compute(self) -> Tensor:
        return self.sums


_ONE = 2**24


class _Counts(Metric):
    """Counts events in each of several sets."""

    counts: Tensor

    def __init__(self, sets: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(sets, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, numbers: Tensor) -> None:
        # Not in place: spawned processes share the memory of the first state.
        self.counts = self.counts + torch.bincount(numbers, minlength=len(self.counts))

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


class _Measurement(pl.LightningModule):
    """Runs a model on batches of images, each of them once."""

    def __init__(self, model: nn.Module, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.model = model
        self._batch_size, self._num_workers = batch_size, num_workers

    def _loader(self, data: Any, batch_size: int) -> DataLoader[Any]:
        # The usual sampler repeats some images, so that all ranks have equally many.
        sampler = UnrepeatedDistributedSampler(data, self.trainer.world_size, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, batch_size, num_workers=self._num_workers, sampler=sampler)

    def _probabilities(self, inputs: Tensor) -> Tensor:
        probabilities: Tensor = self.model(like_the_model(self.model, inputs)).float().softmax(dim=1)
        if not probabilities.isfinite().all():
            raise ValueError("Expected argument `model` to return finite logits; got NaN or infinity for some images.")
        return probabilities

    def _log(self, found: Mapping[str, float]) -> None:
        # Logged, because strategies that spawn processes keep the module in them. (They hang if the logged values
        # exceed the 64 KiB of a pipe.)
        self.log_dict({key: float(value) for key, value in found.items()}, add_dataloader_idx=False)


class Errors(_Measurement):
    """Counts wrong predictions on each of several sets, the first of them clean, and measures calibration.

    Args:
        model: The model, which returns logits ``[N, K]``.
        num_classes: K.
        sets: Datasets of pairs (input of the model, class).
        numbers: For each set, the model's number for each of the set's own; ``None`` where they are the same.
        batch_size: Images per batch and process.
        num_workers: Worker processes that load images.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        sets: Sequence[Any],
        numbers: Sequence[Mapping[int, int] | None],
        batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__(model, batch_size, num_workers)
        # One loader for all: with one for each, the names of the logged values would be too long for a pipe.
        self._data: ConcatDataset[Any] = ConcatDataset(
            [
                _Numbered(images, number, classes, num_classes)
                for number, (images, classes) in enumerate(zip(sets, numbers, strict=True))
            ]
        )
        self.wrong = _Counts(len(sets))
        self.reliability = nn.ModuleDict({"clean": _Reliability(), "corrupted": _Reliability()})

    def test_dataloader(self) -> DataLoader[Any]:
        """All sets, one after the other."""
        return self._loader(self._data, self._batch_size)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Counts."""
        inputs, targets, numbers = batch
        confidences, answers = self._probabilities(inputs).max(dim=1)
        self.wrong.update(numbers[answers != targets])
        for name, chosen in (("clean", numbers == 0), ("corrupted", numbers > 0)):
            reliability: Any = self.reliability[name]
            reliability.update(confidences[chosen], (answers == targets)[chosen])

    def on_test_epoch_end(self) -> None:
        """Logs the counts ``wrong/<set>``, and ``<clean or corrupted>/<count, confidence or accuracy>/<bin>``."""
        found = {f"wrong/{number}": count for number, count in enumerate(self.wrong.compute().tolist())}
        for name, metric in self.reliability.items():
            reliability: Any = metric
            counts, confidences, right = reliability.compute().cpu().double()
            rows = {"count": counts, "confidence": confidences / _ONE / counts, "accuracy": right / counts}
            for label, row in rows.items():
                found |= {f"{name}/{label}/{number}": value for number, value in enumerate(row.nan_to_num().tolist())}
        self._log(found)


class Flips(_Measurement):
    """Counts how often predictions change along sequences of images: from frame to frame, or from the first frame.

    Args:
        model: The model, which returns logits ``[N, K]``.
        sets: For each name, a dataset of sequences, tensors ``[F, ...]`` of inputs of the model.
        from_first: The names of the sets in which each frame is compared with the first, as for noise.
        batch_size: Images per batch and process, which has one sequence at least.
        num_workers: Worker processes that load sequences.
    """

    def __init__(
        self, model: nn.Module, sets: Mapping[str, Any], from_first: Sequence[str], batch_size: int, num_workers: int
    ) -> None:
        super().__init__(model, batch_size, num_workers)
        self._sets = sets
        self._are_from_first = [name in from_first for name in sets]
        self.flips, self.pairs = _Counts(len(sets)), _Counts(len(sets))

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """A loader for each set: they differ in the number of frames."""
        return [self._loader(data, max(1, self._batch_size // len(data[0]))) for data in self._sets.values()]

    def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Counts."""
        answers = self._probabilities(batch.flatten(0, 1)).argmax(dim=1).view(batch.shape[:2])
        before = answers[:, :1] if self._are_from_first[dataloader_idx] else answers[:, :-1]
        has_flipped = answers[:, 1:] != before
        numbers = torch.full_like(answers[:, 1:], dataloader_idx)
        self.flips.update(numbers[has_flipped])
        self.pairs.update(numbers.flatten())

    def on_test_epoch_end(self) -> None:
        """Logs the share ``flips/<set>``."""
        shares = (self.flips.compute().double() / self.pairs.compute()).flatten()  # torchmetrics squeezes a single one
        self._log({f"flips/{number}": share for number, share in enumerate(shares.tolist())})
