import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from test_published import write_cifar_c
from torch import nn
from torch.utils.data import Subset, TensorDataset
from torchmetrics.functional.classification import multiclass_calibration_error
from torchvision.datasets import ImageFolder

from lightning_augmix import __version__, evaluate_robustness
from lightning_augmix.robustness import evaluate, measure
from lightning_augmix.robustness.published import CORRUPTIONS, open_corruptions, write_digest
from robustness_fixture import TO_TENSOR, ByColor, Clean, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger"),
    pytest.mark.filterwarnings("ignore:The `.*_dataloader` does not have many workers"),
]


def logits_by_hand(images):
    return 40 * (images / np.float32(255)).astype(np.float64).mean((1, 2))


def error_by_hand(images, labels):
    return float((logits_by_hand(images).argmax(1) != labels).mean())


def calibration_by_hand(images, labels, bins=15):
    """Guo et al., 2017, section 2: distances between confidence and accuracy in equal bins."""
    exponentials = np.exp(logits_by_hand(images))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    expected, squared, counts = 0.0, 0.0, []
    for bin_ in range(bins):
        inside = number == bin_
        counts.append(int(inside.sum()))
        if inside.any():
            distance = abs(confidence[inside].mean() - right[inside].mean())
            expected += inside.mean() * distance
            squared += inside.mean() * distance**2
    return expected, squared**0.5, counts


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_report_equals_a_computation_by_hand(workers, tmp_path):
    images, labels = write_cifar_c(tmp_path, count=7)
    clean, model = Clean(11), ByColor()
    report = evaluate_robustness(
        model, clean, tmp_path, TO_TENSOR, batch_size=3, num_workers=workers, trainer=trainer(tmp_path), name="color"
    )
    assert report.name == "color"
    assert (report.data, report.images, report.strengths, report.seed) == ("Clean", 11, None, None)
    assert report.digest is None
    assert report.source == f"{tmp_path.name} (CIFAR-10-C's format)"
    assert report.versions == {
        "lightning_augmix": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    assert report.clean_error == error_by_hand(clean.images, np.arange(11) % 3)
    assert tuple(report.errors) == CORRUPTIONS
    for name, errors in report.errors.items():
        parts = zip(np.split(images[name], 5), np.split(labels, 5), strict=True)
        assert errors == tuple(error_by_hand(*part) for part in parts)
    everything = np.concatenate(list(images.values()))
    for calibration, these, those in (
        (report.clean, clean.images, np.arange(11) % 3),
        (report.corrupted, everything, np.tile(labels, 15)),
    ):
        expected, rms, counts = calibration_by_hand(these, those)
        assert calibration.expected_error == pytest.approx(expected, abs=1e-5)
        assert calibration.rms_error == pytest.approx(rms, abs=1e-5)
        assert list(calibration.counts) == counts
    assert model.training
    assert model.factor.item() == 40
    assert not model.frozen.training


def test_some_corruptions_and_operations_of_the_training(tmp_path):
    write_cifar_c(tmp_path, corruptions=["fog", "brightness"])
    report = evaluate_robustness(
        ByColor(),
        Clean(4),
        open_corruptions(tmp_path),
        TO_TENSOR,
        corruptions=["brightness", "fog"],
        trainer=trainer(tmp_path),
        augmentation_set=["rotate", "brightness"],
    )
    assert tuple(report.errors) == ("brightness", "fog")
    assert report.operations == ("rotate", "brightness")
    assert report.overlapping == ("brightness",)
    assert report.name == "ByColor"


def test_computed_corruptions_are_named_with_their_strengths_seed_and_library(tmp_path):
    write_cifar_c(tmp_path, corruptions=["fog"])
    origin = {"images": "digest", "seed": 5, "imagecorruptions-imaug": "1.1.5"}
    (tmp_path / "origin.json").write_text(json.dumps(origin))
    write_digest(tmp_path / "fog.npy")
    report = evaluate_robustness(
        ByColor(),
        Subset(Clean(4), [0, 2]),
        tmp_path,
        TO_TENSOR,
        corruptions=["fog"],
        trainer=trainer(tmp_path),
        data_name="colours",
    )
    assert (report.data, report.images) == ("colours", 2)
    assert (report.source, report.strengths, report.seed) == ("computed", "ImageNet-C", 5)
    assert report.digest == "digest"
    assert report.versions["imagecorruptions-imaug"] == "1.1.5"
    assert evaluate.name_of(Subset(Clean(4), [0, 2])) == "Subset of Clean"


def test_a_lightning_module_is_measured_by_what_its_forward_gives(tmp_path):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.inner = ByColor()

        def forward(self, images):
            return self.inner(images)

    write_cifar_c(tmp_path)
    settings = {"corruptions": ["fog"], "batch_size": 2}
    by_module = evaluate_robustness(Module(), Clean(5), tmp_path, TO_TENSOR, trainer=trainer(tmp_path), **settings)
    plain = evaluate_robustness(ByColor(), Clean(5), tmp_path, TO_TENSOR, trainer=trainer(tmp_path), **settings)
    assert by_module.errors == plain.errors
    assert by_module.clean == plain.clean


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model": len}, TypeError, "`model` to be a torch.nn.Module; got builtin_function_or_method"),
        ({"model": nn.Identity()}, ValueError, r"`model` to return logits \[N, K\].* a tensor \[1, 3, 8, 9\]"),
        ({"corruptions": ["blur"]}, ValueError, r"`corruptions` to be of: .*got \['blur'\]"),
        ({"corruptions": []}, ValueError, "got none"),
        ({"corruptions": ["fog", "fog"]}, ValueError, r"each once; got \['fog', 'fog'\]"),
        ({"clean": []}, ValueError, "`clean` to have images; got none"),
        ({"clean": [{"image": 1}]}, TypeError, "`clean` to be a dataset of pairs .*; its samples are dicts"),
        ({"batch_size": None}, TypeError, "`batch_size` to be an integer, at least 1; got None"),
        ({"batch_size": np.True_}, TypeError, "`batch_size` to be an integer, at least 1; got .*True"),
        ({"num_workers": -1}, ValueError, "`num_workers` to be an integer, at least 0; got -1"),
        ({"trainer": "cpu"}, TypeError, "`trainer` to be a lightning.pytorch.Trainer; got 'cpu'"),
        ({"augmentation_set": "saef", "corrupted": "nowhere"}, ValueError, "`augmentation_set`.*saef"),
        ({"name": 3}, TypeError, "`name` to be a string; got 3"),
        ({"data_name": b"digits"}, TypeError, "`data_name` to be a string"),
        ({"corruptions": ["snow"]}, ValueError, "lacks .*snow.npy"),
        ({"corrupted": "nowhere"}, ValueError, "nowhere is not a folder"),
    ],
)
def test_bad_arguments(changes, kind, message, tmp_path):
    write_cifar_c(tmp_path, corruptions=["fog"])
    arguments = {"model": ByColor(), "clean": Clean(4), "corrupted": tmp_path, "corruptions": ["fog"]}
    with pytest.raises(kind, match=message):
        evaluate_robustness(**{**arguments, "trainer": trainer(tmp_path), **changes}, transform=TO_TENSOR)


def test_folders_of_other_classes_are_an_error(tmp_path):
    for folder, names in (("clean", ["ant", "bee", "cat"]), *((f"c/fog/{s}", ["bee", "cat"]) for s in range(1, 6))):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            Image.new("RGB", (9, 8)).save(tmp_path / folder / name / "1.png")
    clean = ImageFolder(tmp_path / "clean", TO_TENSOR)
    with pytest.raises(ValueError, match=r"of the same classes; ant is not in both .*clean and .*fog.1: add or remove"):
        evaluate_robustness(ByColor(), clean, tmp_path / "c", TO_TENSOR, corruptions=["fog"])
    shutil.rmtree(tmp_path / "clean" / "ant")
    clean = ImageFolder(tmp_path / "clean", TO_TENSOR)
    quiet = trainer(tmp_path)
    report = evaluate_robustness(ByColor(), clean, tmp_path / "c", TO_TENSOR, corruptions=["fog"], trainer=quiet)
    assert report.errors == {"fog": (report.clean_error,) * 5}
    assert report.data == f"ImageFolder {tmp_path.name}/clean"
    assert report.source == "c (ImageNet-C's format)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit_test_batches": 0.5}, "`trainer` to test with all images"),
        ({"limit_test_batches": 3}, "limit_test_batches"),
        ({"limit_test_batches": 1}, "limit_test_batches"),
        ({"fast_dev_run": True}, "fast_dev_run"),
        ({"barebones": True}, "barebones"),
    ],
)
def test_a_trainer_that_leaves_out_images_is_an_error(settings, message, tmp_path):
    write_cifar_c(tmp_path, corruptions=["fog"])
    fit = trainer(tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(ByColor(), Clean(4), tmp_path, TO_TENSOR, corruptions=["fog"], trainer=fit)


def test_images_of_other_classes_are_an_error(tmp_path):
    write_cifar_c(tmp_path, corruptions=["fog"])
    np.save(tmp_path / "labels.npy", np.full(20, 50))
    with pytest.raises(ValueError, match=r"classes of the images to be from 0 to 2.*got 50: these are not the model's"):
        evaluate_robustness(ByColor(), Clean(4), tmp_path, TO_TENSOR, corruptions=["fog"], trainer=trainer(tmp_path))


class Sure(nn.Module):
    """So sure that its confidence is exactly 1, or, with NaN, of nothing."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, images):
        return torch.tensor([[self.logit, 0.0, 0.0]]).expand(len(images), 3)


def test_confidence_of_one_is_in_the_last_bin(tmp_path):
    _, labels = write_cifar_c(tmp_path, corruptions=["fog"])
    report = evaluate_robustness(
        Sure(99.0), Clean(6), tmp_path, TO_TENSOR, corruptions=["fog"], trainer=trainer(tmp_path)
    )
    assert report.clean.counts == (0,) * 14 + (6,)
    assert report.clean.expected_error == pytest.approx(4 / 6)
    assert report.corrupted.rms_error == pytest.approx(float((labels != 0).mean()))


def test_logits_that_are_not_finite_are_an_error(tmp_path):
    write_cifar_c(tmp_path, corruptions=["fog"])
    with pytest.raises(ValueError, match="`model` to return finite logits"):
        evaluate_robustness(
            Sure(math.nan), Clean(4), tmp_path, TO_TENSOR, corruptions=["fog"], trainer=trainer(tmp_path)
        )


def test_tensor_labels_of_a_clean_set_go_with_those_of_files(tmp_path):
    write_cifar_c(tmp_path, corruptions=["fog"])
    clean = TensorDataset(torch.rand(5, 3, 8, 9), torch.tensor([0, 1, 2, 0, 1]))
    report = evaluate_robustness(
        ByColor(), clean, tmp_path, TO_TENSOR, corruptions=["fog"], batch_size=4, trainer=trainer(tmp_path)
    )
    assert sum(report.clean.counts) == 5


def test_bins_agree_with_torchmetrics():
    confidences, right = torch.rand(1000), torch.rand(1000) < 0.6
    metric = measure._Reliability()
    metric.update(confidences, right)
    counts, sums, hits = metric.compute().double()
    found = {"r/count/%d": counts, "r/confidence/%d": sums / 2**24 / counts, "r/accuracy/%d": hits / counts}
    logged = {key % number: float(value) for key, row in found.items() for number, value in enumerate(row)}
    calibration = evaluate._calibration(logged, "r")
    probabilities = torch.stack(
        [confidences, torch.zeros(1000)], dim=1
    )  # the metric takes the larger as the confidence
    targets = torch.where(right, 0, 1)
    for norm, value in (("l1", calibration.expected_error), ("l2", calibration.rms_error)):
        expected = multiclass_calibration_error(probabilities, targets, num_classes=2, n_bins=15, norm=norm)
        assert value == pytest.approx(float(expected), abs=1e-5)


RANKS = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from lightning_augmix import __version__, evaluate_robustness
from robustness_fixture import ByColor, Clean, TO_TENSOR, trainer

if __name__ == "__main__":
    fit = trainer(sys.argv[2], devices=2, strategy=sys.argv[3])
    report = evaluate_robustness(ByColor(), Clean(7), sys.argv[2], TO_TENSOR, batch_size=2, trainer=fit)
    report.save(f"{sys.argv[2]}/rank{fit.global_rank}.json")
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_with_two_ranks_every_image_counts_once(strategy, tmp_path):
    write_cifar_c(tmp_path, count=5)
    expected = evaluate_robustness(ByColor(), Clean(7), tmp_path, TO_TENSOR, trainer=trainer(tmp_path), name="ByColor")
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    command = [sys.executable, script, Path(__file__).parents[1], tmp_path, strategy]
    subprocess.run(command, check=True, timeout=300)
    expected.save(tmp_path / "expected.json")
    found = json.loads((tmp_path / "rank0.json").read_text())
    if strategy == "ddp":  # a spawned process returns from the test to nowhere
        assert json.loads((tmp_path / "rank1.json").read_text()) == found
    wanted = json.loads((tmp_path / "expected.json").read_text())
    for name in ("clean_error", "errors"):
        assert found[name] == wanted[name]
    for name in ("clean", "corrupted"):
        assert found[name]["counts"] == wanted[name]["counts"]
        assert found[name]["rms_error"] == pytest.approx(wanted[name]["rms_error"], abs=1e-6)
