"""Proof by experiment: AugMix reaches the model's image and nothing else, or the fit ends before its first step."""

import functools
import os
import random
from collections import Counter, OrderedDict
from dataclasses import dataclass

import albumentations as A  # its customary name
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from torch.utils.data import BatchSampler, ConcatDataset, Dataset, Subset, TensorDataset, random_split
from torchvision import transforms as v1
from torchvision.transforms import functional

from judge import (
    Witness,
    check_batches,
    check_dataset,
    check_refused,
    check_warned,
    fitted,
    judge,
    loaded,
    same,
)
from lightning_augmix import AugmentAndMixTransform, AugMixCallback, PlacementError, augment_dataset
from toy import CERTAIN, Dim, dim_image, is_augmented, to_tensor, trainer

WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]


def keep(img):
    return img


def other_image(index):
    return dim_image(index + 50)


# ---- A hidden transform of the image beside a visible one of something else ----------------------------------------


class Six(Dataset):
    def __len__(self):
        return 6


class ToUint8Tensor:
    """Is called as albumentations' `Compose([…, ToTensorV2()])` is."""

    def __call__(self, *, image):
        return {"image": torch.from_numpy(image).permute(2, 0, 1).contiguous()}


class Segmentation(Six):
    """Its image by a library that cannot be seen into, its mask by torchvision."""

    def __init__(self, transform, placed=keep):
        self.transform = transform
        self.placed = placed
        self.to_tensor = v1.ToTensor()

    def __getitem__(self, index):
        image = self.transform(image=self.placed(np.array(dim_image(index))))["image"]
        return {"image": image, "mask": self.to_tensor(other_image(index).convert("L"))}


def albumentations(placed=keep):
    return Segmentation(A.Compose([A.HorizontalFlip(p=1), ToTensorV2()]), placed)


class ByFunction(Six):
    """Its image by a function, and a reference picture by a pipeline."""

    def __init__(self, placed=keep):
        self.placed = placed
        self.transform = to_tensor()

    def __getitem__(self, index):
        image = functional.to_tensor(self.placed(dim_image(index)))
        return {"image": image, "reference": self.transform(other_image(index)), "label": index}


class ByClosure(Six):
    def __init__(self, placed=keep):
        hidden = v1.Compose([v1.CenterCrop(9), placed, v1.ToTensor()])
        self.read = lambda index: hidden(dim_image(index))
        self.transform = to_tensor()

    def __getitem__(self, index):
        return {"image": self.read(index), "reference": self.transform(other_image(index)), "label": index}


class BeforeBackgrounds(Six):
    def __init__(self, placed=keep):
        self.placed = placed
        self.backgrounds = Dim(v1.ToTensor())

    def __getitem__(self, index):
        background, _ = self.backgrounds[5 - index]
        image = functional.to_tensor(self.placed(dim_image(index)))
        return {"image": image, "background": background, "label": index}


HIDDEN = {
    "albumentations": albumentations,
    "like albumentations": lambda placed=keep: Segmentation(ToUint8Tensor(), placed),
    "a function beside a reference": ByFunction,
    "a closure beside a reference": ByClosure,
    "a function before backgrounds": BeforeBackgrounds,
}

hidden = pytest.mark.parametrize("make", HIDDEN.values(), ids=HIDDEN)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("views", [0, 2])
@hidden
def test_the_image_alone_is_augmented_or_the_fit_is_refused(make, views, workers, tmp_path):
    judge(tmp_path, make, "image", loading={"workers": workers}, views=views)


@pytest.mark.parametrize("arguments", [{"image_key": "image"}, {"image_key": "image", "views": 2}, {"inject": False}])
@hidden
def test_both_ways_in_augment_the_image_alone(make, arguments, tmp_path):
    assert judge(tmp_path, make, "image", **arguments) is None


@pytest.mark.parametrize("views", [0, 2])
@hidden
def test_training_goes_on_with_clean_images_everywhere_where_that_is_wanted(make, views, tmp_path):
    check_warned(tmp_path, make, "image", views=views)


@hidden
def test_without_a_trainer_too(make):
    clean = make()
    try:
        samples = [augment_dataset(clean, AugmentAndMixTransform(**CERTAIN))[index] for index in range(6)]
    except PlacementError:
        return
    for sample, expected in zip(samples, [clean[index] for index in range(6)], strict=True):
        assert is_augmented(sample.pop("image"))
        assert not is_augmented(expected.pop("image"))
        assert same(sample, expected)


# ---- What else the experiment shows ---------------------------------------------------------------------------------


class Samples(Six):
    """Makes samples of an image that went through a pipeline that can be seen."""

    def __init__(self, make, placed=None, hidden=False):
        self.make = make
        if not hidden:
            self.transform = v1.Compose([*([] if placed is None else [placed]), v1.ToTensor()])

    def __getitem__(self, index):
        return self.make(getattr(self, "transform", None), index)


AMBIGUOUS = {
    "another image": lambda transform, index: {
        "picture": transform(dim_image(index)),
        "other": functional.to_tensor(other_image(index)),
    },
    "another image, uint8": lambda transform, index: {
        "picture": transform(dim_image(index)),
        "other": functional.pil_to_tensor(other_image(index)),
    },
    "another image, an array of 16 bits": lambda transform, index: {
        "picture": transform(dim_image(index)),
        "other": np.array(other_image(index)).astype(np.uint16),
    },
    "another image, a tensor of 16 bits": lambda transform, index: {
        "picture": transform(dim_image(index)),
        "other": functional.pil_to_tensor(other_image(index)).to(torch.int16),
    },
    "another image, grey floats": lambda transform, index: {
        "picture": transform(dim_image(index)),
        "other": functional.to_tensor(other_image(index))[0],
    },
    "two crops of one": lambda transform, index: {
        "picture": transform(dim_image(index)),
        "other": transform(dim_image(index).transpose(0)),
    },
    "the same twice": lambda transform, index: dict.fromkeys(["picture", "other"], transform(dim_image(index))),
    "what follows from the image, an image itself": lambda transform, index: {
        "picture": (image := transform(dim_image(index))),
        "other": 1 - image,
    },
}


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("case", AMBIGUOUS)
def test_two_entries_that_may_be_images_are_refused_with_the_entries_and_the_remedy(case, views, workers, tmp_path):
    words = ("picture", "other", "3, 12, 10", "float32", "image_key=", "Samples")
    check_refused(tmp_path, lambda: Samples(AMBIGUOUS[case]), *words, views=views, loading={"workers": workers})


@pytest.mark.parametrize("case", list(AMBIGUOUS)[:5])
@pytest.mark.parametrize("arguments", [{"image_key": "picture"}, {"inject": False}])
def test_one_of_two_images_that_the_user_names_is_augmented_alone(case, arguments, tmp_path):
    assert judge(tmp_path, lambda placed=None: Samples(AMBIGUOUS[case], placed), "picture", **arguments) is None


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_two_entries_that_may_be_images_stay_clean_with_a_warning(case, tmp_path):
    make, clean = (lambda: Samples(AMBIGUOUS[case])), fitted(tmp_path, loaded(Samples(AMBIGUOUS[case])))
    with pytest.warns(UserWarning, match="AugMix"):
        batches = fitted(tmp_path, loaded(make()), AugMixCallback(**CERTAIN, on_unsupported="warn"))
    assert same(batches, clean)


def uint8_and(other):
    return lambda transform, index: {"picture": functional.pil_to_tensor(dim_image(index)), "other": other(index)}


@pytest.mark.parametrize("case", [case for case in AMBIGUOUS if "another image, " in case])
def test_two_images_without_a_transform_that_can_be_seen_are_refused(case, tmp_path):
    other = lambda index: AMBIGUOUS[case](to_tensor(), index)["other"]  # noqa: E731
    check_refused(tmp_path, lambda: Samples(uint8_and(other), hidden=True), "picture", "other", "image_key=")


NAMED = {
    "a target of the same size": ("image", lambda i: {"target": functional.to_tensor(other_image(i))}),
    "a depth map": ("image", lambda i: {"depth": functional.to_tensor(other_image(i))[:1]}),
    "an image called target": ("target", lambda i: {"id": i}),
    "an image called label": ("label", lambda i: {"id": i}),
}


@pytest.mark.parametrize("case", NAMED)
def test_names_of_targets_decide_only_between_several_images(case, tmp_path):
    name, others = NAMED[case]
    make = lambda: Samples(lambda transform, index: {name: transform(dim_image(index)), **others(index)})  # noqa: E731
    assert judge(tmp_path, make, name) is None


FOLLOWS = {
    "its mean": lambda image: float(image.mean()),
    "its histogram": lambda image: torch.histc(image, 4),
    "its largest level, as a word": lambda image: f"{float(image.max()):.6f}",
    "a part of it": lambda image: image[0, 0, :3].clone(),
}


@pytest.mark.parametrize("case", FOLLOWS)
def test_a_value_elsewhere_that_follows_from_the_image_is_refused(case, tmp_path):
    def make(placed=None):
        def sample(transform, index):
            image = transform(dim_image(index))
            return {"picture": image, "statistic": FOLLOWS[case](image), "label": index}

        return Samples(sample, placed)

    check_refused(tmp_path, make, "picture", "statistic", "image_key=")
    check_refused(tmp_path, make, "statistic", views=2)
    check_refused(tmp_path, make, "statistic", inject=False)
    assert judge(tmp_path, make, "picture", image_key="picture") is None
    check_warned(tmp_path, make, "picture")


class Bypassing(Six):
    """Holds a transform that it does not call."""

    def __init__(self, placed=None):
        self.transform = to_tensor() if placed is None else v1.Compose([placed, v1.ToTensor()])

    def __getitem__(self, index):
        return {"picture": functional.to_tensor(dim_image(index)), "label": index}


class Discarding(Bypassing):
    """Calls its transform and throws away what that gives."""

    def __getitem__(self, index):
        self.transform(dim_image(index))
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("arguments", [{}, {"views": 2}, {"inject": False}])
@pytest.mark.parametrize("kind", [Bypassing, Discarding])
def test_an_image_that_augmix_does_not_reach_is_refused(kind, arguments, workers, tmp_path):
    seen = "transform" if "inject" in arguments else kind.__name__
    check_refused(tmp_path, kind, seen, loading={"workers": workers}, **arguments)


@pytest.mark.parametrize("kind", [Bypassing, Discarding])
def test_an_image_that_augmix_does_not_reach_stays_clean_with_a_warning(kind, tmp_path):
    with pytest.warns(UserWarning, match="AugMix"):
        batches = fitted(tmp_path, loaded(kind()), AugMixCallback(**CERTAIN, on_unsupported="warn"))
    assert same(batches, fitted(tmp_path, loaded(kind())))


class Slotted:
    __slots__ = ("label", "picture")

    def __init__(self, picture, label):
        self.picture, self.label = picture, label


@dataclass
class Record:
    picture: torch.Tensor
    label: int


def of_records(samples):
    return {"picture": torch.stack([sample.picture for sample in samples]), "label": [s.label for s in samples]}


@pytest.mark.parametrize("kind", [Slotted, Record])
def test_samples_that_are_objects_are_looked_into(kind, tmp_path):
    data = loaded(Samples(lambda transform, index: kind(transform(dim_image(index)), index)), collate_fn=of_records)
    check_batches(fitted(tmp_path, data, AugMixCallback(**CERTAIN)), fitted(tmp_path, data), "picture")


@dataclass
class Annotated:
    picture: torch.Tensor
    extra: object


@pytest.mark.parametrize("kind", [Annotated, lambda picture, extra: {"picture": picture, "extra": extra}])
def test_a_later_sample_that_holds_a_mask_does_not_reach_the_model(kind, tmp_path):
    def make(transform, index):
        return kind(transform(dim_image(index)), torch.ones(1, 12, 10, dtype=torch.int64) if index >= 4 else index)

    def pictures(samples):
        return torch.stack([s["picture"] if isinstance(s, dict) else s.picture for s in samples])

    witness = Witness()
    callback = AugMixCallback(augmentation_set="all")
    with pytest.raises(PlacementError, match=r"(?s)extra.*photometric"):
        trainer(callback, root=tmp_path).fit(witness, loaded(Samples(make), collate_fn=pictures))
    assert len(witness.batches) == 1


def test_samples_that_hold_each_other(tmp_path):
    def make(transform, index):
        first = {"picture": transform(dim_image(index)), "others": [], "id": index}
        first["others"] += [first, [first]]
        return first

    data = loaded(Samples(make), collate_fn=lambda samples: {"picture": torch.stack([s["picture"] for s in samples])})
    check_batches(fitted(tmp_path, data, AugMixCallback(**CERTAIN)), fitted(tmp_path, data), "picture")


# ---- Datasets within, and beside each other -------------------------------------------------------------------------


class UncheckedDim(Dim):
    """Its images stay uint8, by no transform that can be seen."""

    def __init__(self, _):
        super().__init__(None)

    def __getitem__(self, index):
        return functional.pil_to_tensor(dim_image(index)), index


@pytest.mark.parametrize("image_key", [None, 0])
@pytest.mark.parametrize("kind", [Dim, UncheckedDim])
def test_a_part_of_a_dataset_that_is_augmented_already_is_not_augmented_twice(kind, image_key, tmp_path):
    part = Subset(augment_dataset(kind(v1.PILToTensor()), AugmentAndMixTransform(**CERTAIN)), range(4))
    with pytest.raises(PlacementError, match="twice"):
        fitted(tmp_path, loaded(part), AugMixCallback(**CERTAIN, image_key=image_key))
    with pytest.raises(PlacementError, match="twice"):
        augment_dataset(part, AugmentAndMixTransform(**CERTAIN), image_key=image_key)


class OverBase(Six):
    """Uses the transform of a base for the image, or for a reference beside it."""

    def __init__(self, base, is_clean):
        self.base, self.is_clean = base, is_clean

    def __getitem__(self, index):
        images = self.base.transform(dim_image(index)), functional.to_tensor(dim_image(index))
        reference, image = images if self.is_clean else images[::-1]
        return {"image": image, "reference_mask": reference[0, 0, 0], "label": index}


def test_a_later_member_that_augments_something_else_does_not_reach_the_model(tmp_path):
    base, witness = Dim(to_tensor()), Witness()
    members = ConcatDataset([OverBase(base, False), OverBase(base, True)])
    with pytest.raises(PlacementError, match=r"reference_mask.*and not.*image"):
        trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(witness, loaded(members, batch_size=3))
    assert all(is_augmented(image) for batch in witness.batches for image in batch["image"])
    assert len(witness.batches) == 2


class Light(Six):
    """Has no sample of a light image."""

    def __init__(self, fails):
        self.transform = to_tensor()
        self.fails = fails

    def __getitem__(self, index):
        image = self.transform(dim_image(index))
        if image.mean() > 0.5:
            if self.fails:
                raise ValueError("there is nothing on the image")
            return None
        return {"image": image, "label": index}


@pytest.mark.parametrize("arguments", [{}, {"image_key": "image"}])
@pytest.mark.parametrize("fails", [False, True])
def test_a_dataset_that_has_no_sample_of_the_negative_is_proved_with_an_image_like_the_first(
    fails, arguments, tmp_path
):
    assert judge(tmp_path, lambda: Light(fails), "image", **arguments) is None


class OfSizes(Six):
    """Is asked for an index and a size at once."""

    def __init__(self):
        self.transform = to_tensor()

    def __getitem__(self, index):
        position, size = index
        return {
            "image": self.transform(dim_image(position, (size, 10))),
            "label": position,
            "crops": (np.zeros((2, 2)),) * 2,
        }


def test_an_index_of_two_numbers_is_no_batch(tmp_path):
    loading = {"sampler": [(index, 12) for index in range(6)], "batch_size": 3}
    clean = fitted(tmp_path, loaded(OfSizes(), **loading))
    check_batches(fitted(tmp_path, loaded(OfSizes(), **loading), AugMixCallback(**CERTAIN)), clean, "image")


# ---- What to write instead ------------------------------------------------------------------------------------------


def test_where_a_pipeline_is_there_none_is_advised(tmp_path):
    with pytest.raises(PlacementError) as error:
        fitted(tmp_path, loaded(Bypassing()), AugMixCallback(**CERTAIN))
    assert "Compose" not in str(error.value).partition("Write instead")[2]
    assert "inject=False" in str(error.value)


class ListsOfImages(Six):
    def __getitem__(self, indices):
        return {"images": [functional.pil_to_tensor(dim_image(index)) for index in indices]}


def test_a_list_of_images_without_a_transform_is_told_of_the_list(tmp_path):
    with pytest.raises(PlacementError, match=r"(?s)are a list.*image_key='images'"):
        fitted(tmp_path, loaded(ListsOfImages(), **of_lists()), AugMixCallback(**CERTAIN))
    clean = fitted(tmp_path, loaded(ListsOfImages(), **of_lists()))
    for batch, before in zip(
        fitted(tmp_path, loaded(ListsOfImages(), **of_lists()), AugMixCallback(**CERTAIN, image_key="images")),
        clean,
        strict=True,
    ):
        assert all(map(is_augmented, batch["images"]))
        assert not any(map(is_augmented, before["images"]))


# ---- Caches ---------------------------------------------------------------------------------------------------------


class InMapping(Dim):
    def __init__(self, cache):
        super().__init__(to_tensor())
        self.cache = cache

    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = super().__getitem__(index)
        return self.cache[index]


class InClass(Dim):
    cache: dict  # on purpose: of all instances

    def __init__(self):
        super().__init__(to_tensor())

    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = super().__getitem__(index)
        return self.cache[index]


class InFunction(Dim):
    @functools.lru_cache(maxsize=None)  # noqa: B019, UP033  # as people write
    def __getitem__(self, index):
        return super().__getitem__(index)


class EqualInFunction(InFunction):
    """Is equal to its copies, which so share what the cache holds."""

    def __eq__(self, other):
        return isinstance(other, EqualInFunction)

    def __hash__(self):
        return 0


class InHolder(Dim):
    """Keeps its samples in an object of its own."""

    class Holder:
        def __init__(self):
            self.samples = [None] * 6

    def __init__(self):
        super().__init__(to_tensor())
        self.holder = self.Holder()

    def __getitem__(self, index):
        self.holder.samples[index] = self.holder.samples[index] or super().__getitem__(index)
        return self.holder.samples[index]


def in_class():
    return type("InClass", (InClass,), {"cache": {}})()


def on_disk(folder):
    class OnDisk(Dim):
        def __getitem__(self, index):
            path = folder / f"{index}.pt"
            if not path.exists():  # written whole: a worker may be ended at any time
                part = path.with_suffix(f".{os.getpid()}")
                torch.save(super().__getitem__(index), part)
                part.replace(path)
            return torch.load(path, weights_only=False)

    return OnDisk(to_tensor())


CACHES = {
    "a dictionary": lambda _: InMapping({}),
    "an OrderedDict": lambda _: InMapping(OrderedDict()),
    "an attribute of the class": lambda _: in_class(),
    "lru_cache": lambda _: InFunction(to_tensor()),
    "lru_cache of equal datasets": lambda _: EqualInFunction(to_tensor()),
    "an object": lambda _: InHolder(),
    "files": on_disk,
}


@pytest.fixture(params=CACHES)
def caching(request, tmp_path):
    InFunction.__getitem__.cache_clear()
    folder = tmp_path / "cache"
    folder.mkdir()
    return CACHES[request.param](folder)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("arguments", [{}, {"views": 2}])
def test_a_cache_is_refused_before_the_first_step_and_holds_clean_images_at_most(caching, arguments, workers, tmp_path):
    witness = Witness()
    with pytest.raises(PlacementError, match="cache"):
        trainer(AugMixCallback(**CERTAIN, **arguments), root=tmp_path).fit(witness, loaded(caching, workers=workers))
    assert not witness.batches
    check_dataset(caching, Dim(to_tensor()))


def test_a_cache_stays_clean_with_a_warning(caching, tmp_path):
    with pytest.warns(UserWarning, match="AugMix"):
        batches = fitted(tmp_path, loaded(caching), AugMixCallback(**CERTAIN, on_unsupported="warn"))
    assert same(batches, fitted(tmp_path, loaded(Dim(to_tensor()))))
    check_dataset(caching, Dim(to_tensor()))


def test_a_cache_that_validation_shares_stays_clean(caching, tmp_path):
    train, val = random_split(caching, [3, 3], torch.Generator().manual_seed(0))

    class Validated(Witness):
        def validation_step(self, batch, batch_idx):
            assert not any(map(is_augmented, batch[0]))

    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path)
    with pytest.raises(PlacementError, match="cache"):
        run.fit(Validated(), loaded(train), loaded(val))
    run.validate(Validated(), loaded(caching), verbose=False)
    check_dataset(caching, Dim(to_tensor()))


def test_a_cache_of_finished_samples_with_a_named_image_is_augmented_anew_and_stays_clean(caching, tmp_path):
    clean = fitted(tmp_path, loaded(Dim(to_tensor())))
    batches = fitted(tmp_path, loaded(caching), AugMixCallback(**CERTAIN, image_key=0))
    check_batches(batches, clean, 0)
    check_dataset(caching, Dim(to_tensor()))


# ---- Lists of indices -----------------------------------------------------------------------------------------------


class OfLists(Six):
    """Is asked for lists of indices, and stacks."""

    def __init__(self, skips=()):
        self.transform = to_tensor()
        self.skips = skips

    def __getitem__(self, indices):
        images = [
            functional.to_tensor(dim_image(index)) if index in self.skips else self.transform(dim_image(index))
            for index in indices
        ]
        return {"image": torch.stack(images), "label": torch.tensor(indices)}


def of_lists(size=3):
    return {"sampler": BatchSampler(range(6), size, drop_last=False), "batch_size": None}


@pytest.mark.parametrize("workers", WORKERS)
def test_lists_of_indices_whose_images_all_meet_augmix(workers, tmp_path):
    loading = {**of_lists(), "workers": workers}
    clean = fitted(tmp_path, loaded(OfLists(), **loading))
    check_batches(fitted(tmp_path, loaded(OfLists(), **loading), AugMixCallback(**CERTAIN)), clean, "image")


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("skips", [(1,), (0,), (2, 4), (0, 1, 2)])
def test_an_image_of_a_list_that_misses_augmix_is_refused_before_the_first_step(skips, workers, tmp_path):
    witness, data = Witness(), loaded(OfLists(skips), **of_lists(), workers=workers)
    with pytest.raises(PlacementError, match="OfLists"):
        trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(witness, data)
    assert not witness.batches


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("skips", [(4,), (3, 4, 5)])
def test_a_later_list_that_misses_augmix_does_not_reach_the_model(skips, workers, tmp_path):
    witness, data = Witness(), loaded(OfLists(skips), **of_lists(), workers=workers)
    with pytest.raises(PlacementError, match="OfLists"):
        trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(witness, data)
    assert all(is_augmented(image) for batch in witness.batches for image in batch["image"])


def test_an_image_of_a_list_that_misses_augmix_leaves_the_batch_clean_with_a_warning(tmp_path):
    callback = AugMixCallback(**CERTAIN, on_unsupported="warn")
    with pytest.warns(UserWarning, match="AugMix"):
        batches = fitted(tmp_path, loaded(OfLists((1,)), **of_lists()), callback)
    assert same(batches, fitted(tmp_path, loaded(OfLists(), **of_lists())))


@pytest.mark.parametrize("arguments", [{}, {"image_key": 0}])
def test_lists_of_indices_of_a_tensor_dataset(arguments, tmp_path):
    images = torch.stack([functional.pil_to_tensor(dim_image(index)) for index in range(6)])
    data = TensorDataset(images, torch.arange(6))
    clean = fitted(tmp_path, loaded(data, **of_lists()))
    check_batches(fitted(tmp_path, loaded(data, **of_lists()), AugMixCallback(**CERTAIN, **arguments)), clean, 0)


# ---- Random generators of the dataset's own -------------------------------------------------------------------------


class Noisy(Six):
    """Draws a label's noise, and the side of a flip, from a generator of its own."""

    def __init__(self, generator):
        self.generator = generator
        self.transform = to_tensor()

    def uniform(self):
        if isinstance(self.generator, torch.Generator):
            return float(torch.rand((), generator=self.generator))
        return float(self.generator.random())

    def __getitem__(self, index):
        img = dim_image(index)
        return {"image": self.transform(img.transpose(0) if self.uniform() < 0.5 else img), "noise": self.uniform()}


class NoisyClosure(Noisy):
    def __init__(self, generator):
        super().__init__(None)
        self.uniform = lambda: float(generator.random())


module_generator = np.random.default_rng(0)


class NoisyModule(Noisy):
    def __init__(self):
        super().__init__(None)
        module_generator.bit_generator.state = np.random.default_rng(0).bit_generator.state

    def uniform(self):
        return float(module_generator.random())


class NoisyClass(Noisy):
    shared: np.random.Generator

    def __init__(self):
        super().__init__(None)
        NoisyClass.shared = np.random.default_rng(0)

    def uniform(self):
        return float(self.shared.random())


class NoisyNested(Noisy):
    """Keeps its generator in a container."""

    def __init__(self):
        super().__init__(None)
        self.settings = {"generators": [np.random.default_rng(0)]}

    def uniform(self):
        return float(self.settings["generators"][0].random())


class NoisyGlobal(Noisy):
    """Draws from the global generators of all three libraries."""

    def __init__(self):
        super().__init__(None)

    def uniform(self):
        return (float(torch.rand(())) + random.random() + float(np.random.random())) % 1


OWN_GENERATORS = {
    "np.random.default_rng": lambda: Noisy(np.random.default_rng(0)),
    "np.random.RandomState": lambda: Noisy(np.random.RandomState(0)),
    "torch.Generator": lambda: Noisy(torch.Generator().manual_seed(0)),
    "random.Random": lambda: Noisy(random.Random(0)),
    "in a container": NoisyNested,
    "in a closure": lambda: NoisyClosure(np.random.default_rng(0)),
    "at module level": NoisyModule,
    "of the class": NoisyClass,
    "global": NoisyGlobal,
}


def global_states():
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]


def seeded_fit(root, make, *callbacks, workers=0):
    """The batches of a fit, the global random states after it, and what the dataset draws next."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    dataset = make()
    batches = fitted(root, loaded(dataset, workers=workers), *callbacks)
    return batches, global_states(), dataset.uniform()


@pytest.mark.parametrize("views", [0, 1])
@pytest.mark.parametrize("make", OWN_GENERATORS.values(), ids=OWN_GENERATORS)
def test_a_dataset_with_a_generator_is_augmented_and_no_random_stream_moves(make, views, tmp_path):
    clean, *streams = seeded_fit(tmp_path, make)
    # With a seed AugMix itself draws from no generator.
    batches, *after = seeded_fit(tmp_path, make, AugMixCallback(**CERTAIN, views=views, seed=1))
    check_batches(batches, clean, "image", views)
    assert after == streams


@pytest.mark.parametrize("make", OWN_GENERATORS.values(), ids=OWN_GENERATORS)
@pytest.mark.parametrize("arguments", [{"image_key": "image"}, {"inject": False}])
def test_no_random_stream_moves_with_an_image_that_the_user_names(make, arguments, tmp_path):
    callback = AugMixCallback(**CERTAIN, seed=1, **arguments)

    def placed():
        dataset = make()
        if not callback.inject:
            dataset.transform = v1.Compose([callback.transform, v1.ToTensor()])
        return dataset

    clean, *streams = seeded_fit(tmp_path, make)
    batches, *after = seeded_fit(tmp_path, placed, callback)
    check_batches(batches, clean, "image")
    assert after == streams


@pytest.mark.slow
@pytest.mark.parametrize("make", OWN_GENERATORS.values(), ids=OWN_GENERATORS)
def test_no_random_stream_moves_in_workers(make, tmp_path):
    clean, *streams = seeded_fit(tmp_path, make, workers=2)
    batches, *after = seeded_fit(tmp_path, make, AugMixCallback(**CERTAIN, views=1, seed=1), workers=2)
    check_batches(batches, clean, "image", 1)
    assert after == streams


def test_no_random_stream_of_albumentations_moves(tmp_path):
    class Only(Six):
        def __init__(self):
            self.transform = A.Compose([A.HorizontalFlip(p=0.5), ToTensorV2()], seed=0)

        def __getitem__(self, index):
            return {"image": self.transform(image=np.array(dim_image(index)))["image"], "label": index}

    clean = fitted(tmp_path, loaded(Only()))
    check_batches(fitted(tmp_path, loaded(Only()), AugMixCallback(**CERTAIN, views=1)), clean, "image", 1)


def test_a_dataset_that_moves_by_itself_hides_no_augmix_in_the_wrong_field(tmp_path):
    class Moving(Noisy):
        """Its image by a function, beside a reference picture; both are flipped by chance."""

        def __getitem__(self, index):
            flip = v1.RandomHorizontalFlip(1.0 if self.uniform() < 0.5 else 0.0)
            image = functional.to_tensor(flip(dim_image(index)))
            return {"image": image, "reference": self.transform(flip(other_image(index))), "noise": self.uniform()}

    witness = Witness()
    with pytest.raises(PlacementError, match="reference"):
        trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(witness, loaded(Moving(np.random.default_rng(0))))
    assert not witness.batches


# ---- Files, and what it costs ---------------------------------------------------------------------------------------


class Lazy(Dim):
    """Opens its file with the first sample, and writes down by which process, and each sample."""

    def __init__(self, log):
        super().__init__(to_tensor(), length=8)
        self.log = log
        self.handle = None

    def note(self, what):
        with open(self.log, "a") as log:
            log.write(f"{what} {os.getpid()}\n")

    def __getitem__(self, index):
        if self.handle is None:
            self.note("opened")
            self.handle = "open"
        self.note("sample")
        return super().__getitem__(index)


def notes(log):
    lines = [line.split() for line in log.read_text().splitlines()]
    opened, samples = ([pid for what, pid in lines if what == name] for name in ("opened", "sample"))
    return opened, Counter(samples)


ARGUMENTS = [{}, {"views": 2}, {"image_key": 0}, {"seed": 1}]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_it_costs_two_samples_per_process_and_opens_files_where_they_are_read(arguments, workers, tmp_path):
    without, with_augmix = tmp_path / "without", tmp_path / "with"
    fitted(tmp_path, loaded(Lazy(without), workers=workers))
    fitted(tmp_path, loaded(Lazy(with_augmix), workers=workers), AugMixCallback(**CERTAIN, **arguments))
    _, samples = notes(without)
    opened, more = notes(with_augmix)
    assert len(more) == len(samples)
    assert sum(samples.values()) <= sum(more.values()) <= sum(samples.values()) + 2 * len(samples)
    assert set(opened) == set(more)
    assert (str(os.getpid()) in more) == (workers == 0)


@pytest.mark.slow
def test_a_file_that_cannot_be_shared_is_opened_in_each_worker(tmp_path):
    """A file that was opened before the fork has one position for all workers."""
    (tmp_path / "levels").write_bytes(bytes(range(8)))

    class Positioned(Lazy):
        def __getitem__(self, index):
            img, _ = super().__getitem__(index)
            if self.handle == "open":
                self.handle = open(tmp_path / "levels", "rb", buffering=0)  # noqa: SIM115
            self.handle.seek(int(index))
            return img, self.handle.read(1)[0]

    data = loaded(Positioned(tmp_path / "log"), workers=2)
    for _, levels in fitted(tmp_path, data, AugMixCallback(**CERTAIN)):
        assert levels.tolist() in ([0, 1, 2, 3], [4, 5, 6, 7])


def test_what_differs_from_sample_to_sample_costs_no_more(tmp_path):
    weather = [None, "sun", 3, 0.5, "rain", None, True, 2]

    class Described(Lazy):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return {"image": image, "label": label, "extra": {"weather": weather[index]}}

    data = loaded(Described(tmp_path / "log"), collate_fn=lambda samples: torch.stack([s["image"] for s in samples]))
    fitted(tmp_path, data, AugMixCallback(**CERTAIN))
    assert sum(notes(tmp_path / "log")[1].values()) == 2 * 8 + 2
