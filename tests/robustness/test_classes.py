import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_published import write_cifar_c
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from lightning_augmix import RobustnessReport, compute_perturbations, evaluate_robustness
from lightning_augmix.robustness.classes import as_class, classes_of
from robustness_fixture import TO_TENSOR, ByColor, Clean, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger"),
    pytest.mark.filterwarnings("ignore:The `.*_dataloader` does not have many workers"),
]
COLORS = np.eye(3, dtype=np.uint8) * 200


def write(folder, names):
    """A folder for each class, by name, with an image of each color in its list."""
    for name, colors in names.items():
        (folder / name).mkdir(parents=True)
        for number, color in enumerate(colors):
            Image.fromarray(np.broadcast_to(COLORS[color], (8, 9, 3)).copy()).save(folder / name / f"{number}.png")


def write_both(tmp_path, clean, corrupted):
    write(tmp_path / "clean", clean)
    for severity in range(1, 6):
        write(tmp_path / "c" / "fog" / str(severity), corrupted)
    return tmp_path / "clean"


def report_of(tmp_path, clean, model=None, corrupted=None, transform=TO_TENSOR):
    settings = {"corruptions": ["fog"], "trainer": trainer(tmp_path)}
    return evaluate_robustness(model or ByColor(), clean, corrupted or tmp_path / "c", transform, **settings)


class Wrapper(Dataset):
    def __init__(self, dataset, change=None):
        self.dataset, self.change = dataset, change

    def __getitem__(self, index):
        image, target = self.dataset[index]
        return image, target if self.change is None else self.change[target]

    def __len__(self):
        return len(self.dataset)


CONTAINERS = {
    "the folder": lambda data: data,
    "a Subset": lambda data: Subset(data, range(len(data))),
    "a ConcatDataset": lambda data: ConcatDataset([Subset(data, [0]), Subset(data, range(1, len(data)))]),
    "a wrapper": Wrapper,
    "several": lambda data: Wrapper(Subset(ConcatDataset([data]), range(len(data)))),
}
# A class has one image of its color; the model answers by color: 0, 1, 2.
ONE_EACH = {"a": [0], "b": [1], "c": [2]}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_a_class_that_is_missing_is_refused_by_name(container, tmp_path):
    folder = write_both(tmp_path, ONE_EACH, {"b": [1], "c": [2]})
    with pytest.raises(ValueError, match=r"of the same classes; a is not in both .* and .*fog.1: add or remove it"):
        report_of(tmp_path, container(ImageFolder(folder, TO_TENSOR)))


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_another_number_of_images_of_a_class_is_refused(container, tmp_path):
    folder = write_both(tmp_path, {**ONE_EACH, "a": [0, 0]}, {**ONE_EACH, "b": [1, 1]})
    with pytest.raises(ValueError, match=r"of class a .* has 2, and .*fog.1 has 1"):
        report_of(tmp_path, container(ImageFolder(folder, TO_TENSOR)))


def test_corrupted_images_may_be_a_part_of_the_clean_ones(tmp_path):
    folder = write_both(tmp_path, {"a": [0] * 3, "b": [1] * 2, "c": [2]}, ONE_EACH)
    assert report_of(tmp_path, ImageFolder(folder, TO_TENSOR)).errors == {"fog": (0,) * 5}


class ByNumber(ImageFolder):
    """Numbers its classes by the numbers that their names are, as for ImageNetV2."""

    def find_classes(self, directory):
        names = sorted((each.name for each in directory.iterdir()), key=int)
        return names, {name: number for number, name in enumerate(names)}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_classes_are_compared_by_name_not_by_number(container, tmp_path):
    named = {"9": [0], "10": [1], "11": [2]}
    clean = ByNumber(write_both(tmp_path, named, named), TO_TENSOR)
    report = report_of(tmp_path, container(clean))
    assert (report.clean_error, report.errors) == (0, {"fog": (0,) * 5})


def test_a_target_transform_numbers_the_models_outputs(tmp_path):
    named = {"a": [2], "b": [0], "c": [1]}
    folder = write_both(tmp_path, named, named)
    report = report_of(tmp_path, ImageFolder(folder, TO_TENSOR, target_transform=lambda number: (number + 2) % 3))
    assert (report.clean_error, report.errors) == (0, {"fog": (0,) * 5})


def test_a_subset_of_the_classes_goes_with_folders_of_these(tmp_path):
    folder = write_both(tmp_path, ONE_EACH, {"b": [1], "c": [2]})
    report = report_of(tmp_path, Subset(ImageFolder(folder, TO_TENSOR), [1, 2]))
    assert (report.clean_error, report.errors) == (0, {"fog": (0,) * 5})


def test_a_wrapper_that_changes_classes_tells_nothing(tmp_path):
    folder = write_both(tmp_path, ONE_EACH, ONE_EACH)
    found = classes_of(Wrapper(ImageFolder(folder, TO_TENSOR), change=[1, 2, 0]))
    assert (found.numbers, found.targets) == (None, None)


def test_parts_that_number_a_class_differently_are_an_error(tmp_path):
    folder = write_both(tmp_path, ONE_EACH, ONE_EACH)
    shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "a")
    parts = ConcatDataset([ImageFolder(folder, TO_TENSOR), ImageFolder(tmp_path / "other", TO_TENSOR)])
    with pytest.raises(ValueError, match="to number their classes alike; b is 1 in one and 0 in another"):
        report_of(tmp_path, parts)


def test_the_labels_of_files_are_compared_with_those_of_the_clean_set(tmp_path):
    write_cifar_c(tmp_path / "c", count=6, corruptions=["fog"])
    clean = Clean(6)
    clean.targets = torch.arange(6) % 3
    report_of(tmp_path, clean)
    clean.targets = [0, 1, 2, 0, 1, 1]
    with pytest.raises(ValueError, match=r"of class 1 Clean has 3, and .* has 2"):
        report_of(tmp_path, clean)
    clean.images, clean.targets = clean.images[:5], [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"of class 2 Clean has 0, and .* has 2"):
        report_of(tmp_path, clean)


@pytest.mark.parametrize("target", [1, np.int64(1), np.array(1), torch.tensor(1), np.uint8(1)])
def test_integers_are_classes(target):
    assert as_class(target) == 1


@pytest.mark.parametrize("target", [1.7, "1", True, None, torch.tensor(1.0), torch.tensor([0, 1]), np.eye(3)[1]])
def test_other_labels_are_an_error(target, tmp_path):
    write_cifar_c(tmp_path / "c", corruptions=["fog"])
    with pytest.raises(TypeError, match="Expected the classes of the images to be integers; got"):
        report_of(tmp_path, [(torch.zeros(3, 8, 9), target)] * 4)


def test_samples_of_three_are_an_error(tmp_path):
    write_cifar_c(tmp_path / "c", corruptions=["fog"])
    with pytest.raises(TypeError, match="dataset of pairs"):
        report_of(tmp_path, [(torch.zeros(3, 8, 9), 0, "a.png")] * 4)


# ---- Inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "transform", "message"),
    [
        (torch.zeros(4, 3, 8, 9, dtype=torch.uint8), TO_TENSOR, r"of torch.uint8, and \[3, 8, 9\] of torch.float32"),
        (torch.zeros(4, 3, 8, 8), TO_TENSOR, r"one shape and dtype; got \[3, 8, 8\]"),
        (torch.zeros(4, 3, 8, 9), lambda image: image, "`transform` to return inputs of the model, tensors; got Image"),
    ],
)
def test_inputs_that_do_not_look_alike_are_an_error(clean, transform, message, tmp_path):
    write_cifar_c(tmp_path / "c", corruptions=["fog"])
    with pytest.raises((TypeError, ValueError), match=message):
        report_of(tmp_path, TensorDataset(clean, torch.zeros(4, dtype=torch.long)), transform=transform)


def test_clean_images_without_a_transform_are_an_error(tmp_path):
    folder = write_both(tmp_path, ONE_EACH, ONE_EACH)
    with pytest.raises(TypeError, match="`clean` to return inputs of the model, tensors; got Image: let it end with"):
        report_of(tmp_path, ImageFolder(folder))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_model_is_met(dtype, tmp_path):
    folder = write_both(tmp_path, ONE_EACH, ONE_EACH)
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(dtype)
    nn.init.dirac_(model[0].weight)
    report = report_of(tmp_path, ImageFolder(folder, TO_TENSOR), model)
    assert (report.clean_error, report.errors) == (0, {"fog": (0,) * 5})


def test_a_model_of_whole_numbers_gets_them(tmp_path):
    folder = write_both(tmp_path, ONE_EACH, ONE_EACH)

    class OfLevels(ByColor):
        def forward(self, images):
            assert images.dtype == torch.uint8
            return super().forward(images / 255)

    def levels(image):
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)

    report = report_of(tmp_path, ImageFolder(folder, levels), OfLevels(), transform=levels)
    assert report.clean_error == 0


def in_proportion(labels, count):
    """The positions by hand: the images in the order of their classes, cut into equal parts, the middle of each."""
    by_class = [position for label in sorted(set(labels)) for position, each in enumerate(labels) if each == label]
    return sorted(by_class[int((number + 0.5) * len(labels) / count)] for number in range(count))


def limited(tmp_path, clean, corrupted, limit, **settings):
    quiet = {"corruptions": ["fog"], "trainer": trainer(tmp_path)}
    return evaluate_robustness(ByColor(), clean, corrupted, TO_TENSOR, limit=limit, **quiet, **settings)


@pytest.mark.parametrize("lists_classes", [True, False])
def test_a_limit_takes_the_same_part_of_each_set_with_the_classes_in_proportion(lists_classes, tmp_path):
    images, labels = write_cifar_c(tmp_path, count=11, corruptions=["fog"])
    clean = Clean(11)
    if lists_classes:
        clean.targets = [index % 3 for index in range(11)]
    chosen = in_proportion([index % 3 for index in range(11)], 6)
    assert [number % 3 for number in chosen].count(0) == 2
    report = limited(tmp_path, clean, tmp_path, 6)
    answers = [each[chosen].mean((1, 2)).argmax(1) for each in (clean.images, *np.split(images["fog"], 5))]
    wrong = [float((answer != labels[chosen]).mean()) for answer in answers]
    assert report.clean_error == pytest.approx(wrong[0])
    assert report.errors["fog"] == pytest.approx(tuple(wrong[1:]))
    assert (report.images, report.part_of) == (6, 11)
    assert "Measured on 6 of the 11 images of Clean, stratified;" in " ".join(str(report).split())
    report.save(tmp_path / "report.json")
    assert RobustnessReport.load(tmp_path / "report.json") == report


def test_a_limit_takes_the_same_images_of_folders_that_number_their_classes_otherwise(tmp_path):
    several = {"10": [0, 1, 0, 2, 0, 1], "9": [1, 0, 1], "2": [2, 2, 1, 0, 1, 2, 0]}
    folder = write_both(tmp_path, several, several)
    for limit in (2, 5, 9, 16):
        report = limited(tmp_path, ByNumber(folder, TO_TENSOR), tmp_path / "c", limit)
        assert report.errors["fog"] == (report.clean_error,) * 5  # images without a change
        assert report.part_of == (16 if limit < 16 else None)


def test_a_limit_takes_parts_of_sequences(tmp_path):
    write_cifar_c(tmp_path, count=6, corruptions=["fog"])
    perturbed = compute_perturbations([(image, 0) for image in Clean(6).images], ["gaussian_noise"])
    part = limited(tmp_path, Clean(6), tmp_path, 2, sequences=perturbed)
    alone = [perturbed.dataset("gaussian_noise", TO_TENSOR)[number] for number in in_proportion([0, 1, 2] * 2, 2)]
    answers = np.array([sequence.mean((2, 3)).argmax(1).tolist() for sequence in alone])
    assert part.flip_rates["gaussian_noise"] == pytest.approx((answers[:, 1:] != answers[:, :1]).mean())


def test_a_limit_refuses_sets_of_other_images_or_in_another_order(tmp_path):
    write_cifar_c(tmp_path, count=11, corruptions=["fog"])
    clean = Clean(11)
    clean.targets = [(index + 1) % 3 for index in range(11)]
    with pytest.raises(ValueError, match=r"(11 in another order: leave out `limit`|to be the same images)"):
        limited(tmp_path, clean, tmp_path, 4)
    with pytest.raises(ValueError, match=r"with `limit`, 12 images in every set.* has 11: leave out `limit`"):
        limited(tmp_path, Clean(12), tmp_path, 4)


@pytest.mark.parametrize(("limit", "kind"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_limit_is_a_number_of_images(limit, kind, tmp_path):
    write_cifar_c(tmp_path, corruptions=["fog"])
    with pytest.raises(kind, match="`limit` to be an integer, at least 1"):
        limited(tmp_path, Clean(4), tmp_path, limit)
