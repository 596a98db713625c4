"""Random fits: refused before the first step, or the model's images are augmented, each of them, and nothing else."""

import random
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import BatchSampler, ConcatDataset, Dataset, SequentialSampler, Subset, default_collate
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import functional, v2

from judge import Witness, fitted, loaded, same
from lightning_augmix import AugMixCallback, PlacementError
from toy import CERTAIN, dim_image, is_augmented, trainer

LENGTH, MISSING, BATCH_SIZE = 5, 1, 2

#: A set that moves pixels; its images are not recognisable, but hardly ever equal to the clean ones.
MOVING = {"augmentation_set": ["rotate"], "alpha": 1e6, "severity": 10}


@dataclass(frozen=True)
class Steps:
    """A pipeline that makes a tensor of an image, and what it shows."""

    transform: Any
    is_normalized: bool = False
    leaves_uint8: bool = True
    is_cropped: bool = False
    is_joint: bool = False


def pipelines():
    normalize = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    crop = v1.CenterCrop(8)
    return [
        Steps(v1.ToTensor()),
        Steps(v1.Compose([v1.ToTensor()])),
        Steps(v2.Compose(to_float), is_joint=True),
        Steps(v2.Compose([v2.CenterCrop(8), *to_float]), is_cropped=True, is_joint=True),
        Steps(v1.Compose([crop, v1.Compose([v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)])]), is_cropped=True),
        Steps(v1.Compose([v1.ToTensor(), v1.Normalize(**normalize)]), is_normalized=True),
        Steps(v1.Compose([crop, v2.Compose([*to_float, v2.Normalize(**normalize)])]), True, is_cropped=True),
        Steps(nn.Sequential(v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True))),
        Steps(v1.Compose([v1.PILToTensor()]), leaves_uint8=False),
    ]


class Own:
    """A transform of the user's own, which nothing can be seen in."""

    def __init__(self, transform):
        self.of_mine = [transform]

    def __call__(self, img):
        return self.of_mine[0](img)


def hidden(transform):
    return st.sampled_from([Own(transform), lambda img: transform(img), functional.to_tensor])


@dataclass(frozen=True)
class Entry:
    """An entry of a sample.

    Attributes:
        name: Its key or field name.
        load: Makes it of the index, as it is before transforms.
        through: The attribute of the dataset, or the function, that transforms it; `None` for neither.
        follows: Makes it of the finished image instead.
    """

    name: str
    load: Callable[[int], Any] | None = None
    through: Any = None
    follows: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Fit:
    """A dataset, a loader and the callback's arguments."""

    structure: str
    entries: tuple[Entry, ...]
    image: str
    is_normalized: bool
    attributes: dict[str, Any] = field(default_factory=dict)
    joint: str | None = None  # the name of the mask that passes the image's transforms with it
    outer: Any = None  # the image's transforms in a wrapper
    cache: tuple[str, str] | None = None
    flip: str | None = None
    has_missing: bool = False
    is_listed: bool = False
    collate: str = "default"
    around: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    is_clear: bool = False
    has_to_be_refused: bool = False

    @property
    def moves(self):
        return self.arguments["augmentation_set"] == MOVING["augmentation_set"]

    @property
    def names(self):
        return [entry.name for entry in self.entries]

    def pack(self, values):
        """Makes a sample of its entries by name."""
        if self.structure == "tuple":
            return tuple(values.values())
        if self.structure == "named tuple":
            return namedtuple("Sample", self.names)(**values)
        if self.structure == "nested":
            half = len(self.names) // 2
            first, second = self.names[:half], self.names[half:]
            return {"one": {n: values[n] for n in first}, "two": {"more": {n: values[n] for n in second}}}
        return values

    def unpack(self, sample):
        """The entries of a sample, or of a batch of the same structure, by name."""
        if self.structure == "nested":
            return {**sample["one"], **sample["two"]["more"]}
        return dict(sample) if self.structure == "dict" else dict(zip(self.names, sample, strict=True))

    def by_name(self, batch):
        return self.unpack(batch) if self.collate == "default" else batch

    def collated(self, samples):
        samples = [sample for sample in samples if sample is not None]
        if self.collate == "default":
            return default_collate(samples)
        named = [self.unpack(sample) for sample in samples]
        return default_collate(named) if self.collate == "dict" else {n: [s[n] for s in named] for n in self.names}

    def made(self):
        """The dataset, made anew."""
        parts = []
        for _ in range(2 if self.around == "concat" else 1):
            kind = type("Fields", (Fields,), {"of_class": {}})
            parts.append(kind(self) if self.outer is None else Outer(kind(self), self.outer))
        if self.around == "concat":
            return ConcatDataset(parts)
        return Subset(parts[0], [3, 0, 2]) if self.around == "subset" else parts[0]

    def loader(self, dataset):
        if self.is_listed:
            sampler = BatchSampler(SequentialSampler(dataset), BATCH_SIZE, drop_last=False)
            return loaded(dataset, sampler=sampler, batch_size=None)
        collate = {} if self.collate == "default" and not self.has_missing else {"collate_fn": self.collated}
        return loaded(dataset, batch_size=BATCH_SIZE, **collate)


class Fields(Dataset):
    """Makes its samples as a `Fit` says."""

    def __init__(self, fit):
        vars(self).update(fit.attributes)
        self.fit = fit
        if fit.flip == "attribute":
            self.rng = np.random.default_rng(0)
        elif fit.flip == "closure":
            rng = np.random.default_rng(0)
            self.toss = lambda: rng.random()
        if fit.cache and fit.cache[1] != "class":
            self.kept = OrderedDict() if fit.cache[1] == "OrderedDict" else {}

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        if isinstance(index, list):
            return default_collate([self[each] for each in index])
        if self.fit.has_missing and index == MISSING:
            return None
        return self.cached("finished", index, self.sample)

    def cached(self, what, index, make):
        if self.fit.cache is None or self.fit.cache[0] != what:
            return make(index)
        kept = self.of_class if self.fit.cache[1] == "class" else self.kept
        if index not in kept:
            kept[index] = make(index)
        return kept[index]

    def picture(self, index):
        img = self.cached("raw", index, dim_image)
        if self.fit.flip is None:
            return img
        toss = {"attribute": lambda: self.rng.random(), "closure": lambda: self.toss(), "global": np.random.rand}
        return functional.hflip(img) if toss[self.fit.flip]() < 0.5 else img

    def sample(self, index):
        fit = self.fit
        values = dict.fromkeys(fit.names)
        entries = {entry.name: entry for entry in fit.entries}
        image = entries.pop(fit.image)
        if fit.joint is None:
            values[fit.image] = self.transformed(image, self.picture(index))
        else:
            mask = tv_tensors.Mask(entries.pop(fit.joint).load(index))
            values[fit.image], values[fit.joint] = getattr(self, image.through)(self.picture(index), mask)
        for entry in entries.values():
            if entry.follows is not None:
                values[entry.name] = entry.follows(values[fit.image])
            else:
                values[entry.name] = self.transformed(entry, entry.load(index))
        return fit.pack(values)

    def transformed(self, entry, value):
        if entry.through is None:
            return value
        return (getattr(self, entry.through) if isinstance(entry.through, str) else entry.through)(value)


class Outer(Dataset):
    """A wrapper that transforms the image."""

    def __init__(self, dataset, transform):
        self.dataset = dataset
        self.transform = transform

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if isinstance(index, list):
            return default_collate([self[each] for each in index])
        sample = self.dataset[index]
        if sample is None:
            return None
        fit = self.dataset.fit
        values = fit.unpack(sample)
        return fit.pack({**values, fit.image: self.transform(values[fit.image])})


def labels(index):
    return np.random.default_rng(index + 90).integers(0, 4, (12, 10), dtype=np.uint8)


MASKS = {
    "float": lambda index: torch.from_numpy(labels(index)).float(),
    "long": lambda index: torch.from_numpy(labels(index)).long(),
    "array": labels,
}


def mask_image(index):
    return PIL.Image.fromarray(labels(index))


def other_image(index):
    return dim_image(index + 50)


def small_image(index):
    return dim_image(index + 50, (8, 8))


def boxes(index):
    return torch.tensor([[1.0, 2.0, 5.0 + index, 6.0], [0.0, 0.0, 3.0, 4.0]])


def tv_boxes(index):
    return tv_tensors.BoundingBoxes(boxes(index), format="XYXY", canvas_size=(12, 10))


HARMLESS = [
    Entry("label", lambda index: index % 3),
    Entry("path", lambda index: f"/pictures/{index}.png"),
    Entry("mask_id", lambda index: index + 7),
    Entry("image_id", lambda index: torch.tensor(index)),
    Entry("brightness", lambda index: float(np.mean(dim_image(index)))),
]
FOLLOWING = [
    lambda img: img.double().mean(),
    lambda img: img.flip(-1),
    lambda img: int(img.max() * 100),
    lambda img: torch.as_tensor(img).sum(dim=(-1, -2)),
]


@st.composite
def fits(draw):
    some = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    attributes, outer, joint = {}, None, None
    names = draw(st.permutations(["transform", "transforms", "img_transform", "preprocess", "to_input", "transform_b"]))
    free = list(names)

    def visible(transform, *others):
        name = free.pop() if not others else some(*others, free.pop())
        attributes[name] = transform
        return name

    steps = some(*pipelines())
    image = some("image", "img", "x", "pixel_values")
    way = some("visible", "visible", "visible", "wrapper", "hidden", "opaque")
    is_normalized = steps.is_normalized
    through = None
    if way == "visible":
        through = visible(steps.transform)
    elif way == "wrapper":
        outer = steps.transform
    else:
        through = draw(hidden(steps.transform))
        is_normalized = is_normalized and through is not functional.to_tensor
        if way == "opaque":
            through = visible(through)
    entries = [Entry(image, through=through)]

    moves, image_key, views = draw(st.booleans()) and draw(st.booleans()), some(None, None, "image"), some(0, 0, 1)
    only_harmless = draw(st.booleans())
    over = named = False  # what lies over the image shows by itself, or by its name alone
    entries += draw(st.lists(st.sampled_from(HARMLESS), max_size=3, unique_by=lambda entry: entry.name))
    if not only_harmless:
        if draw(st.booleans()):
            load, other = some(other_image, small_image), some(*pipelines())
            kind = some("visible", "hidden", "same")
            if kind == "same" and isinstance(through, str):
                entries.append(Entry("reference", load, through))
            else:
                own = visible(other.transform) if kind == "visible" else draw(hidden(other.transform))
                entries.append(Entry(some("reference", "second", "b"), load, own))
        if draw(st.booleans()):
            name = some("mask", "seg_mask", "extra")
            if steps.is_joint and way == "visible" and draw(st.booleans()):
                joint = name
                entries.append(Entry(name, MASKS["long"]))
                over = True
            else:
                kind = some(*MASKS, "visible", "hidden")
                if kind in MASKS:
                    entries.append(Entry(name, MASKS[kind]))
                else:
                    step = some(v1.PILToTensor(), v1.ToTensor(), v1.Compose([v1.ToTensor()]))
                    own = visible(step, "mask_transform", "target_transform") if kind == "visible" else Own(step)
                    entries.append(Entry(name, mask_image, own))
                named |= name != "extra"
                over |= not steps.is_cropped
        if draw(st.booleans()):
            entries.append(some(Entry("boxes", boxes), Entry("regions", tv_boxes)))
            named |= entries[-1].name == "boxes"
            over |= entries[-1].name == "regions"
        if way != "wrapper" and draw(st.integers(0, 3)) == 0:
            entries.append(Entry("follows", follows=some(*FOLLOWING)))

    structure = some("tuple", "dict", "named tuple", "nested")
    over |= named and structure != "tuple"
    entries = draw(st.permutations(entries))
    if structure == "nested":
        image_key = None
    elif image_key is not None:
        image_key = image if structure == "dict" else [entry.name for entry in entries].index(image)
    cache = some(None, None, None, "raw", "raw", "finished")
    kind_of_cache = cache and (cache, some("dict", "OrderedDict", "class"))
    is_listed = draw(st.integers(0, 4)) == 0
    has_missing = not is_listed and draw(st.integers(0, 4)) == 0
    is_seen = way in ("visible", "wrapper")
    return Fit(
        structure,
        tuple(entries),
        image,
        is_normalized,
        attributes,
        joint,
        outer,
        kind_of_cache,
        some(None, None, None, "attribute", "closure", "global"),
        has_missing,
        is_listed,
        "default" if is_listed else some("default", "default", "dict", "lists"),
        some(*((None, "subset") if is_listed else (None, None, "subset", "concat"))),
        {
            **(MOVING if moves else CERTAIN),
            "image_key": image_key,
            "views": views,
            "seed": None if is_listed else some(None, 1),
        },
        is_clear=is_seen
        and only_harmless
        and image_key is None
        and cache != "finished"
        and not (is_listed and (views or not steps.leaves_uint8)),
        # In a batch that the dataset stacks, boxes lose their type, and in a tuple they have no name.
        has_to_be_refused=(moves and over and not (is_listed and structure == "tuple"))
        or (cache == "finished" and way == "visible" and steps.leaves_uint8 and image_key is None),
    )


def with_seeds():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def without_image(fit, batch):
    return {name: value for name, value in batch.items() if name != fit.image}


def check_images(fit, images, clean):
    """Fails unless images are as AugMix makes them of the clean ones."""

    def looks_augmented(img):
        return is_augmented(img * 0.25 + 0.5 if fit.is_normalized else img)

    views = fit.arguments["views"]
    assert len(images) == (1 + views) * len(clean)
    if views:
        # Draws of a generator that is out of reach cannot be repeated, nor those for what stands in a cache by then.
        is_repeatable = fit.flip != "closure" and not (fit.flip and fit.cache and fit.cache[0] == "finished")
        assert not is_repeatable or same(images[: len(clean)], clean)
        images = images[len(clean) :]
    assert all(
        img.shape == before.shape and img.dtype == before.dtype for img, before in zip(images, clean, strict=True)
    )
    if fit.moves:
        assert not all(map(torch.equal, images, clean))
    else:
        assert not any(map(looks_augmented, clean))
        assert all(map(looks_augmented, images))


def judged(fit, root, on="workers"):
    """Fits with AugMix and without, and compares; returns whether the fit was augmented or refused."""
    with_seeds()
    clean = fitted(root, fit.loader(fit.made()), max_epochs=1)
    with_seeds()
    dataset, witness, verdict = fit.made(), Witness(), "augmented"
    try:
        trainer(AugMixCallback(**fit.arguments, on=on), root=root, max_epochs=1).fit(witness, fit.loader(dataset))
    except PlacementError:
        assert not witness.batches
        if fit.is_clear and on == "workers":  # the batch can do less than the dataset
            raise
        verdict = "refused"
    else:
        assert not fit.has_to_be_refused
        assert len(witness.batches) == len(clean) > 0
        for batch, before in zip(map(fit.by_name, witness.batches), map(fit.by_name, clean), strict=True):
            check_images(fit, list(batch[fit.image]), list(before[fit.image]))
            assert same(without_image(fit, batch), without_image(fit, before))
    check_clean(fit, dataset)
    return verdict


def check_clean(fit, dataset):
    """Fails unless the user's own dataset is as it was, but for what its own random generator has drawn."""
    for index in range(len(dataset)):
        sample, before = dataset[index], fit.made()[index]
        if sample is None or fit.flip is None:
            assert same(sample, before)
        else:
            sample, before = fit.unpack(sample), fit.unpack(before)
            assert fit.is_normalized or not is_augmented(sample[fit.image])
            assert "follows" in sample or same(without_image(fit, sample), without_image(fit, before))


@pytest.mark.parametrize("on", ["workers", "device"])
def test_a_fit_augments_the_images_of_the_model_and_nothing_else_or_is_refused(tmp_path_factory, on):
    verdicts = []

    @settings(max_examples=150, derandomize=True)
    @given(fits())
    def judge(fit):
        verdicts.append(judged(fit, tmp_path_factory.getbasetemp(), on))

    judge()
    assert verdicts.count("augmented") >= (50 if on == "workers" else 25)


IMAGE = Entry("x", through="transform")


def batches_of_its_own(*entries, transform, structure="tuple", **arguments):
    """A dataset that makes batches of two, and a last one of one sample."""
    arguments = {**CERTAIN, "image_key": None, "views": 0, "seed": None, **arguments}
    return Fit(structure, entries, "x", False, {"transform": transform}, is_listed=True, arguments=arguments)


def test_a_sample_of_as_many_batches_as_one_has_images_is_no_list_of_images(tmp_path):
    fit = batches_of_its_own(IMAGE, Entry("reference", other_image, "transform"), transform=v1.ToTensor())
    assert judged(fit, tmp_path) == "refused"


def test_the_image_is_found_after_lists_of_other_lengths(tmp_path):
    entries = Entry("path", str), IMAGE, Entry("label", int)
    fit = batches_of_its_own(*entries, transform=Own(v1.PILToTensor()), structure="dict")
    assert judged(fit, tmp_path) == "augmented"


def test_numbers_of_a_batch_lie_over_no_image(tmp_path):
    entries = IMAGE, Entry("mask_id", int)
    fit = batches_of_its_own(*entries, transform=v1.ToTensor(), structure="dict", **MOVING)
    assert judged(fit, tmp_path) == "augmented"
