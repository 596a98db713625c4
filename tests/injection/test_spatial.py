"""What lies over the image: refused with sets that move pixels, augmented with those that move none."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import functional

from judge import check_batches, check_dataset, check_refused, fitted, judge, loaded, same
from lightning_augmix import AugmentAndMixTransform, AugMixCallback, PlacementError, augment_dataloader, augment_dataset
from toy import CERTAIN, dim_image, is_augmented

SIZE = (12, 10)
MOVING = [{"augmentation_set": "all"}, {"augmentation_set": "safe"}, {"augmentation_set": ["autocontrast", "rotate"]}]


class Spatial(Dataset):
    """Makes samples with an image, and something beside it."""

    def __init__(self, make, placed=None):
        self.make = make
        self.transform = v1.Compose([*([] if placed is None else [placed]), v1.ToTensor()])

    def __getitem__(self, index):
        return self.make(self.transform(dim_image(index)), index)

    def __len__(self):
        return 6


class SpatialUint8(Spatial):
    """The same without a transform that can be seen."""

    def __init__(self, make, placed=lambda img: img):
        self.make = make
        self.placed = placed

    def __getitem__(self, index):
        return self.make(functional.pil_to_tensor(self.placed(dim_image(index))), index)


def levels(index, *shape):
    return np.random.default_rng(index).integers(0, 2, shape or SIZE)


def boxes(index):
    return torch.tensor([[1.0, 2.0, 5.0, 6.0]]).repeat(index % 3 + 1, 1)


def coco(index):
    return [{"bbox": [1.0, 2.0, 5.0, 6.0], "category_id": 3, "segmentation": [[1.0, 2.0, 5.0, 6.0, 1.0, 6.0]]}]


def voc(index):
    corners = {"xmin": "1", "ymin": "2", "xmax": "5", "ymax": "6"}
    return {"object": [{"name": "dog", "bndbox": corners}] * (index % 2 + 1)}


def beside(**entries):
    """Makes samples of an image and entries of their own."""
    return lambda img, index: {"image": img, **{key: make(index) for key, make in entries.items()}, "label": index}


WithBox = namedtuple("WithBox", ["image", "bbox"])
WithMask = namedtuple("WithMask", ["image", "mask"])

#: What makes a sample, and what a message has to name. The image is at "image" or 0.
LIES_OVER = {
    "a mask of classes": (beside(mask=lambda i: torch.from_numpy(levels(i))), "mask"),
    "a mask of classes under any name": (beside(y=lambda i: torch.from_numpy(levels(i))), "y"),
    "a mask of truth": (beside(y=lambda i: torch.from_numpy(levels(i) > 0)), "y"),
    "a mask with a channel": (beside(y=lambda i: torch.from_numpy(levels(i, 1, *SIZE))), "y"),
    "masks of instances": (beside(y=lambda i: torch.from_numpy(levels(i, 5, *SIZE) > 0)), "y"),
    "a mask as an array": (beside(y=lambda i: levels(i)), "y"),
    "a mask as an array with a channel": (beside(y=lambda i: levels(i, *SIZE, 1)), "y"),
    "a mask of one bit": (beside(y=lambda i: Image.fromarray(levels(i).astype(bool))), "y"),
    "a mask with a palette": (beside(y=lambda i: Image.fromarray(levels(i).astype(np.uint8)).convert("P")), "y"),
    "depth in millimetres": (beside(y=lambda i: Image.fromarray(levels(i).astype(np.int32))), "y"),
    "by position": (lambda img, index: (img, torch.from_numpy(levels(index))), "1"),
    "by position, an array": (lambda img, index: (img, levels(index)), "1"),
    "a mask of one-hot classes": (beside(y=lambda i: torch.eye(2, dtype=torch.int64)[levels(i)]), "y"),
    "a mask in run lengths": (beside(mask_rle=lambda i: [3, 4, 9, 2]), "mask_rle"),
    "boxes": (beside(boxes=boxes), "boxes"),
    "no boxes in the first image": (beside(boxes=lambda i: boxes(i)[: i % 3]), "boxes"),
    "boxes as numbers": (beside(bboxes=lambda i: boxes(i).tolist()), "bboxes"),
    "boxes as an array": (beside(gt_boxes=lambda i: boxes(i).numpy()), "gt_boxes"),
    "a box": (beside(bbox=lambda i: [1.0, 2.0, 5.0, 6.0]), "bbox"),
    "a box in words of two": (beside(bounding_box=lambda i: boxes(i)[0]), "bounding_box"),
    "a box in camel case": (beside(faceBox=lambda i: boxes(i)[0]), "faceBox"),
    "keypoints": (beside(keypoints=lambda i: torch.arange(51.0).view(17, 3)), "keypoints"),
    "keypoints as numbers": (beside(keypoints=lambda i: [[1.0, 2.0, 2.0], [5.0, 6.0, 2.0]]), "keypoints"),
    "landmarks": (beside(landmarks=lambda i: torch.arange(10.0)), "landmarks"),
    "landmarks as numbers": (beside(face_landmarks=lambda i: [1, 2, 3, 4]), "face_landmarks"),
    "polygons": (beside(segmentation=lambda i: [[1.0, 2.0, 5.0, 6.0, 1.0, 6.0]]), "segmentation"),
    "as Pascal VOC has it": (beside(annotation=voc), "bndbox"),
    "the corners of a box": (beside(box=lambda i: {"left": 1, "top": 2, "right": 5, "bottom": 6}), "box"),
    "boxes in a dictionary within": (beside(target=lambda i: {"boxes": boxes(i), "labels": torch.ones(1)}), "boxes"),
    "as torchvision's detection": (lambda img, index: (img, {"boxes": boxes(index), "id": index}), "boxes"),
    "as COCO has it": (lambda img, index: (img, coco(index)), "bbox"),
    "a field of a named tuple": (lambda img, index: WithBox(img, boxes(index)), "bbox"),
    "a mask in a named tuple": (lambda img, index: WithMask(img, levels(index).tolist()), "mask"),
    "tv_tensors.Mask": (lambda img, index: (img, tv_tensors.Mask(levels(index))), "1"),
    "tv_tensors.BoundingBoxes": (
        beside(y=lambda i: tv_tensors.BoundingBoxes(boxes(i), format="XYXY", canvas_size=SIZE)),
        "y",
    ),
    "tv_tensors.KeyPoints": (beside(y=lambda i: tv_tensors.KeyPoints(boxes(i)[:, :2], canvas_size=SIZE)), "y"),
}

#: What is no such thing, whatever it is called.
ELSEWHERE = {
    "a class": beside(target=lambda i: i),
    "a class as a tensor": beside(target=lambda i: torch.tensor(i)),
    "one hot": beside(target=lambda i: torch.eye(6)[i]),
    "classes": beside(target=lambda i: [i, 5 - i]),
    "a name": beside(name=lambda i: f"img_{i}"),
    "an id": beside(id=lambda i: i),
    "a path": beside(path=lambda i: f"images/{i}.png"),
    "the path of a mask": beside(mask_path=lambda i: f"masks/{i}.png"),
    "the id of a mask": beside(mask_id=lambda i: i),
    "the id of a mask as a tensor": beside(mask_id=lambda i: torch.tensor(i)),
    "the number of boxes": beside(num_boxes=lambda i: i),
    "whether it has keypoints": beside(has_keypoints=lambda i: i % 2 == 0),
    "no mask": beside(mask_name=lambda i: ""),
    "an embedding": beside(embedding=lambda i: torch.full((4,), float(i))),
    "a class by position": lambda img, index: (img, index),
    "a class and an id within": lambda img, index: (img, {"labels": torch.ones(1), "id": index}),
    "a mask of tokens": beside(attention_mask=lambda i: torch.ones(7)),
    "a mask of tokens as numbers": beside(padding_mask=lambda i: [1, 1, 0]),
    "names that have such words within": beside(
        sandbox=lambda i: torch.arange(4), unmasked=lambda i: torch.arange(4), segment=lambda i: [1, 2]
    ),
    "checkboxes and masking": beside(masking_rate=lambda i: 0.5, inbox=lambda i: i),
}

PATHS = {"visible": Spatial, "in the samples": SpatialUint8}


def listed(samples):
    """Collates without touching an entry, and images first."""
    is_dict = isinstance(samples[0], dict)
    images = [sample["image"] if is_dict else sample[0] for sample in samples]
    others = [{**sample, "image": None} if is_dict else sample[1:] for sample in samples]
    return {"image": torch.stack(images), "others": others}


LOADING = {"collate_fn": listed}


def key_of(make):
    return "image" if isinstance(make(torch.zeros(3, *SIZE), 0), dict) else 0


@pytest.mark.parametrize("kind", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("case", LIES_OVER)
def test_it_is_refused_with_a_set_that_moves_pixels(case, named, kind, tmp_path):
    make, name = LIES_OVER[case]
    arguments = {**MOVING[0], "image_key": key_of(make) if named else None}
    check_refused(tmp_path, lambda: kind(make), name, 'augmentation_set="photometric"', loading=LOADING, **arguments)


@pytest.mark.parametrize("arguments", [*MOVING, {**MOVING[0], "views": 2}, {**MOVING[0], "seed": 1}])
@pytest.mark.parametrize("case", ["a mask of classes", "as torchvision's detection"])
def test_it_is_refused_with_every_set_that_moves_pixels(case, arguments, tmp_path):
    make, name = LIES_OVER[case]
    words = (name, 'augmentation_set="photometric"', "inject=False")
    check_refused(tmp_path, lambda: Spatial(make), *words, loading=LOADING, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a mask of classes", "as torchvision's detection"])
def test_it_is_refused_in_workers(case, tmp_path):
    make, name = LIES_OVER[case]
    loading = {**LOADING, "workers": 2}
    check_refused(tmp_path, lambda: Spatial(make), name, "photometric", loading=loading, **MOVING[0])


@pytest.mark.parametrize("kind", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("case", LIES_OVER)
def test_it_is_augmented_with_a_set_that_moves_none(case, kind, tmp_path):
    make, _ = LIES_OVER[case]
    clean = fitted(tmp_path, loaded(kind(make), **LOADING))
    # An entry that may be an image itself asks for the image's name.
    settings = {"image_key": key_of(make)}
    check_batches(
        fitted(tmp_path, loaded(kind(make), **LOADING), AugMixCallback(**CERTAIN, **settings)), clean, "image"
    )
    fitted(tmp_path, loaded(kind(make), **LOADING), AugMixCallback(augmentation_set="photometric", **settings))


@pytest.mark.parametrize(
    "case", ["a mask of classes", "by position", "boxes", "as torchvision's detection", "as COCO has it"]
)
@pytest.mark.parametrize("kind", PATHS.values(), ids=PATHS)
def test_it_is_augmented_with_a_set_that_moves_none_without_being_named(case, kind, tmp_path):
    make, _ = LIES_OVER[case]
    clean = fitted(tmp_path, loaded(kind(make), **LOADING))
    check_batches(fitted(tmp_path, loaded(kind(make), **LOADING), AugMixCallback(**CERTAIN)), clean, "image")


@pytest.mark.parametrize("case", [case for case in LIES_OVER if not case.startswith("tv_tensors")])
@pytest.mark.parametrize("kind", PATHS.values(), ids=PATHS)
def test_it_is_augmented_where_the_user_places_it(case, kind, tmp_path):
    make, _ = LIES_OVER[case]
    clean = fitted(tmp_path, loaded(kind(make), **LOADING))
    # What stretches the levels and turns the image: the mixed image has levels that no clean one has.
    callback = AugMixCallback(**{**CERTAIN, "augmentation_set": ["autocontrast", "rotate"]}, depth=1, inject=False)
    batches = fitted(tmp_path, loaded(kind(make, callback.transform), **LOADING), callback)
    for batch, expected in zip(batches, clean, strict=True):
        assert not torch.equal(batch["image"], expected["image"])
        assert same(batch["others"], expected["others"])


def test_a_warning_and_clean_images_everywhere_where_that_is_wanted(tmp_path):
    make, _ = LIES_OVER["a mask of classes"]
    clean = fitted(tmp_path, loaded(Spatial(make), **LOADING))
    callback = AugMixCallback(on_unsupported="warn")
    with pytest.warns(UserWarning, match=r"(?s)AugMix.*mask"):
        batches = fitted(tmp_path, loaded(Spatial(make), **LOADING), callback)
    for batch, expected in zip(batches, clean, strict=True):
        assert torch.equal(batch["image"], expected["image"])


@pytest.mark.parametrize("kind", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_does_not_lie_over_the_image_is_no_reason_to_refuse(case, named, kind, tmp_path):
    make = ELSEWHERE[case]
    clean = fitted(tmp_path, loaded(kind(make), **LOADING))
    for settings in (CERTAIN, {"augmentation_set": "all"}):
        callback = AugMixCallback(**settings, image_key=key_of(make) if named else None)
        batches = fitted(tmp_path, loaded(kind(make), **LOADING), callback)
        if settings is CERTAIN:
            check_batches(batches, clean, "image")
        assert same([batch["others"] for batch in batches], [batch["others"] for batch in clean])


# ---- As libraries have it -------------------------------------------------------------------------------------------


class Kitti(Dataset):
    """As Lightning's example of semantic segmentation."""

    def __init__(self, transform):
        self.transform = transform

    def __getitem__(self, index):
        img = np.array(dim_image(index))
        mask = levels(index).astype(np.uint8)
        return self.transform(img), mask

    def __len__(self):
        return 6


class TorchGeo(Dataset):
    """As torchgeo's datasets: a dictionary, and transforms that take it."""

    def __init__(self, transforms=None):
        self.transforms = transforms

    def __getitem__(self, index):
        sample = {
            "image": functional.pil_to_tensor(dim_image(index)).float(),
            "mask": torch.from_numpy(levels(index)),
            "bounds": (0.0, 1.0, 0.0, 1.0),
            "crs": "EPSG:4326",
        }
        return sample if self.transforms is None else self.transforms(sample)

    def __len__(self):
        return 6


def scaled(sample):
    return {**sample, "image": sample["image"] / 255}


def pipeline():
    return v1.Compose([v1.ToTensor(), v1.Normalize((0.0,) * 3, (1.0,) * 3)])


def test_lightnings_example_of_segmentation(tmp_path):
    check_refused(tmp_path, lambda: Kitti(pipeline()), "Kitti", "1", "photometric", augmentation_set="all")
    judge(tmp_path, lambda: Kitti(pipeline()), 0)  # the mask may be an image itself
    assert judge(tmp_path, lambda: Kitti(pipeline()), 0, image_key=0) is None


def test_torchgeo(tmp_path):
    arguments = {"augmentation_set": "all", "image_key": "image"}
    check_refused(tmp_path, lambda: TorchGeo(scaled), "TorchGeo", "mask", "photometric", **arguments)
    assert judge(tmp_path, lambda: TorchGeo(scaled), "image", image_key="image") is None


# ---- Without a Trainer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("case", ["a mask of classes", "boxes", "as torchvision's detection", "as COCO has it"])
def test_datasets_and_loaders_without_a_trainer(case, kind):
    make, name = LIES_OVER[case]
    for image_key in (None, key_of(make)):
        with pytest.raises(PlacementError, match=rf"(?s){name}.*photometric"):
            augment_dataset(kind(make), AugmentAndMixTransform(), image_key=image_key)[0]
        with pytest.raises(PlacementError, match=rf"(?s){name}.*photometric"):
            next(iter(augment_dataloader(loaded(kind(make), **LOADING), AugmentAndMixTransform(), image_key=image_key)))
        dataset = kind(make)
        sample = augment_dataset(dataset, AugmentAndMixTransform(**CERTAIN), image_key=image_key)[0]
        assert is_augmented(sample[key_of(make)])
        check_dataset(dataset, kind(make))
