from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms as v1
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform, augment_dataloader
from lightning_augmix._errors import PlacementError
from lightning_augmix._views import Views
from lightning_augmix.injection.collate import CollateViews
from lightning_augmix.injection.lookup import Conversion
from toy import CERTAIN, Dim, is_augmented, to_tensor

Pair = namedtuple("Pair", "image label")


def image(value):
    return torch.full((3, 5, 4), float(value))


def views(index):
    """Of an image whose levels are its index and, in tenths, the number of the view."""
    return Views([image(index + view / 10) for view in range(3)])


SAMPLES = [(views(index), index) for index in range(4)]
EXPECTED = [index + view / 10 for view in range(3) for index in range(4)]


def collate(function, **settings):
    return CollateViews(function, 2, **{"takes_list": True, "on_unsupported": "raise", **settings})


def levels(images):
    return [pytest.approx(float(each.mean())) for each in images]


def test_all_clean_images_come_first_then_all_first_views():
    images, labels = collate(default_collate)(SAMPLES)
    assert images.shape == (12, 3, 5, 4)
    assert levels(images) == EXPECTED
    assert labels.tolist() == [0, 1, 2, 3]


def photograph(index, size=(8, 9)):
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8))


class Photographs(Dataset):
    """Each sample is made by ``made(transform, index)``."""

    def __init__(self, transform, made=lambda transform, index: transform(photograph(index))):
        self.transform, self.made = transform, made

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.made(self.transform, index), index


NORMALIZED = v1.Compose([v1.ToTensor(), v1.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])])
CHANGING = v1.Normalize([0.0, 0.0, 0.0], [0.2, 0.3, 0.4])
OF_TENSORS = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])])


def closed_after(transform, index):
    img = photograph(index)
    made = transform(img)
    img.close()
    return made


def of_one_buffer(transform, index, buffer=np.zeros((8, 9), np.uint8)):  # noqa: B008
    buffer[:] = np.asarray(photograph(index).convert("L"))
    return transform(Image.fromarray(buffer))


def of_one_tensor(transform, index, buffer=torch.zeros(3, 8, 9, dtype=torch.uint8)):  # noqa: B008
    buffer.copy_(torch.from_numpy(np.array(photograph(index))).permute(2, 0, 1))
    return transform(buffer)


def changing_its_steps(transform, index):
    CHANGING.mean = [0.1 * index] * 3
    return transform(photograph(index))


def of_two_kinds(transform, index):
    """An image of one channel, which three means make three of, is as good as another."""
    img = photograph(index)
    return transform(img.convert("L") if index % 2 else img)


MADE = {
    "PIL": (NORMALIZED, lambda transform, index: transform(photograph(index))),
    "tensors": (OF_TENSORS, lambda t, index: t(torch.from_numpy(np.array(photograph(index))).permute(2, 0, 1))),
    "closed": (NORMALIZED, closed_after),
    "one buffer": (v1.Compose([v1.ToTensor()]), of_one_buffer),
    "one tensor": (OF_TENSORS, of_one_tensor),
    "changing steps": (v1.Compose([v1.ToTensor(), CHANGING]), changing_its_steps),
    "two kinds": (v1.Compose([v1.ToTensor(), v1.Lambda(lambda img: img.expand(3, -1, -1))]), of_two_kinds),
}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("transform", "made"), MADE.values(), ids=MADE)
def test_the_clean_images_are_those_without_views_whatever_the_dataset_does_with_its_own(transform, made, workers):
    settings = {"batch_size": 3, "num_workers": workers}
    clean = [images for images, _ in DataLoader(Photographs(transform, made), **settings)]
    loader = DataLoader(Photographs(transform, made), **settings)
    for (images, labels), expected in zip(
        augment_dataloader(loader, AugmentAndMixTransform(10), views=2), clean, strict=True
    ):
        assert labels.shape == (3,)
        assert torch.equal(images[:3], expected)
        assert not torch.equal(images[3:6], images[6:])
        assert images.is_contiguous()
    unchanged = augment_dataloader(loader, AugmentAndMixTransform(0), views=2)
    for (images, _), expected in zip(unchanged, clean, strict=True):
        assert torch.equal(images, expected.repeat(3, 1, 1, 1))


def test_errors_of_a_conversion_are_those_of_the_transform():
    """A dataset may catch them."""

    def made(transform, index):
        try:
            return transform(photograph(index).convert("L" if index % 2 else "RGB"))
        except RuntimeError:
            return made(transform, index - 1)

    steps = v1.Compose([v1.ToTensor(), v1.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4], inplace=True)])
    loader = augment_dataloader(
        DataLoader(Photographs(steps, made), batch_size=6), AugmentAndMixTransform(severity=0), views=1
    )
    images, _ = next(iter(loader))
    assert torch.equal(images[0::2][:3], images[1::2][:3])


def test_views_are_converted_straight_into_the_batch(monkeypatch):
    """In each of these ways; converted one by one, they would only be slower."""
    batches = []
    monkeypatch.setattr(Conversion, "batch", lambda self, images: batches.append(len(images)))
    for name in ("PIL", "tensors", "closed", "one buffer", "one tensor"):
        loader = augment_dataloader(DataLoader(Photographs(*MADE[name]), 3), AugmentAndMixTransform(), views=1)
        assert len(list(loader)) == 2
    assert batches == [6, 6] * 5


def test_images_of_several_sizes_are_refused_in_torchs_words():
    data = Photographs(v1.Compose([v1.ToTensor()]), lambda transform, index: transform(photograph(0, (8, 9 + index))))
    loader = augment_dataloader(DataLoader(data, batch_size=2), AugmentAndMixTransform(), views=1)
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        next(iter(loader))


def as_dict(samples):
    return {"pixels": torch.stack([sample["x"] for sample in samples]), "meta": [{"y": s["y"]} for s in samples]}


def as_lists(samples):
    return tuple(zip(*samples, strict=True))


def mixed_up(samples):
    """Mixes images, as MixUp does, by draws from two global generators."""
    images, labels = default_collate(samples)
    share, order = float(np.random.rand()), torch.randperm(len(images))
    return share * images + (1 - share) * images[order], labels, labels[order], share


def test_dictionaries():
    batch = collate(as_dict)([{"x": view, "y": index} for view, index in SAMPLES])
    assert levels(batch["pixels"]) == EXPECTED
    assert batch["meta"] == [{"y": index} for index in range(4)]


def test_named_tuples_stay_what_they_are():
    batch = collate(default_collate)([Pair(*sample) for sample in SAMPLES])
    assert isinstance(batch, Pair)
    assert levels(batch.image) == EXPECTED
    assert batch.label.tolist() == [0, 1, 2, 3]


def test_lists_of_images():
    images, labels = collate(as_lists)(SAMPLES)
    assert levels(images) == EXPECTED
    assert labels == (0, 1, 2, 3)


def test_views_are_mixed_with_the_same_draws_as_the_clean_images():
    torch.manual_seed(0)
    np.random.seed(0)
    clean = mixed_up([(entry.images[0], label) for entry, label in SAMPLES])
    following = torch.rand(3)
    torch.manual_seed(0)
    np.random.seed(0)
    images, labels, others, share = collate(mixed_up)(SAMPLES)
    assert torch.equal(torch.rand(3), following)
    assert torch.equal(images[:4], clean[0])
    torch.testing.assert_close(images[4:8], clean[0] + 0.1)
    assert labels.tolist() == [0, 1, 2, 3]
    assert others.tolist() == clean[2].tolist()
    assert share == clean[3]


def test_several_batches_are_mixed_with_the_draws_of_a_loader_without_views():
    torch.manual_seed(0)
    np.random.seed(0)
    expected = [mixed_up([(entry.images[0], label) for entry, label in SAMPLES]) for _ in range(4)]
    torch.manual_seed(0)
    np.random.seed(0)
    join = collate(mixed_up)
    for clean, labels, others, share in expected:
        images, *targets, found = join(SAMPLES)
        assert torch.equal(images[:4], clean)
        assert [target.tolist() for target in targets] == [labels.tolist(), others.tolist()]
        assert found == share


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_missing_values_in_targets_are_no_difference(kind):
    def collated(samples):
        return torch.stack([entry for entry, _ in samples]), kind([target.tolist() for _, target in samples])

    samples = [(entry, kind([float("nan"), 1.0])) for entry, _ in SAMPLES]
    images, targets = collate(collated)(samples)
    assert len(images) == 12
    assert targets.shape == (4, 2)


def test_targets_that_cannot_be_compared_are_no_difference():
    images, targets = collate(as_lists)([(entry, object()) for entry, _ in SAMPLES])
    assert len(images) == 12
    assert len(targets) == 4


def test_a_function_that_takes_away_what_is_constant():
    def scaled(samples):
        images, labels = default_collate(samples)
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        return (images - low) / (high - low), labels

    ramp = torch.arange(60.0).reshape(3, 5, 4)
    for views_of_one in ([ramp * 4, ramp**2, ramp**0.5], [ramp] * 3):
        images, labels = collate(scaled)([(Views(views_of_one), index) for index in range(4)])
        assert (len(images), len(labels)) == (12, 4)


@pytest.mark.parametrize("kind", [torch.tensor, list])
def test_a_generator_of_its_own_that_shows_in_a_later_batch_is_an_error(kind):
    calls = []

    def late(samples):
        calls.append(None)
        images, labels = default_collate(samples)
        return images, kind([label + max(0, len(calls) - 4) for label in labels.tolist()])

    join = collate(late)
    join(SAMPLES)
    with pytest.raises(TypeError, match=r"without generators of its own.*differs between the views"):
        join(SAMPLES)


def test_images_of_another_size_for_each_view_are_an_error():
    sizes = iter(range(5, 20))

    def sized(samples):
        return torch.zeros(len(samples), 3, next(sizes), 4), 1

    with pytest.raises(TypeError, match=r"a torch.float32 tensor \[4, 3, 5, 4\] that differs between the views"):
        collate(sized)(SAMPLES)


@pytest.mark.parametrize(("function", "lengths"), [(default_collate, (12, 4)), (as_lists, (12, 4))])
def test_views_that_are_all_equal_are_joined_too(function, lengths):
    samples = [(Views([image(1)] * 3), index) for index in range(4)]
    assert tuple(map(len, collate(function)(samples))) == lengths


def test_a_batch_whose_views_are_equal_after_one_whose_views_differ():
    join = collate(default_collate)
    join(SAMPLES)
    images, labels = join([(Views([image(1)] * 3), index) for index in range(3)])
    assert (len(images), len(labels)) == (9, 3)


def test_batches_that_the_dataset_made():
    batch = {"image": Views([torch.stack([image(index + view / 10) for index in range(4)]) for view in range(3)])}
    joined = collate(lambda sample: {**sample, "more": 1}, takes_list=False)(batch)
    assert levels(joined["image"]) == EXPECTED
    assert joined["more"] == 1


def private(samples, generator=np.random.default_rng(0)):  # noqa: B008
    images, labels = default_collate(samples)
    return images, labels + int(generator.integers(1000))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (private, "without generators of its own.*a torch.int64 tensor .4. that differs between the views"),
        (lambda samples: default_collate(samples)[0].flatten(1), r"for N = 4, a torch.float32 tensor \[4, 60\]"),
        (lambda samples: "text", "got a batch of str"),
        (lambda samples: [1] * int(10 * float(samples[0][0].mean()) + 1), "batches of one structure"),
    ],
)
def test_batches_whose_images_cannot_be_told_are_an_error(function, message):
    with pytest.raises(TypeError, match=message):
        collate(function)(SAMPLES)


def test_a_single_image_without_batches_is_an_error():
    with pytest.raises(TypeError, match=r"for N = any, a torch.float32 tensor \[3, 5, 4\]"):
        collate(lambda sample: sample, takes_list=False)((views(0), 3))


def test_samples_that_lost_their_views_are_an_error_or_a_warning():
    lost = [(image(index), index) for index in range(4)]
    for samples in (lost, [*SAMPLES[:3], lost[3]]):
        with pytest.raises(PlacementError, match="a sample has lost the views of its image"):
            collate(default_collate)(samples)
    with pytest.warns(UserWarning, match="AugMix was not applied: a sample has lost"):
        images, _ = collate(default_collate, on_unsupported="warn")(lost)
    assert len(images) == 4
    with pytest.warns(UserWarning, match="lost the views"):
        images, _ = collate(default_collate, on_unsupported="warn")([*SAMPLES[:3], lost[3]])
    assert levels(images)[3::4] == [3, 3, 3]


def test_dense_targets_are_told_from_images_though_all_views_are_equal():
    samples = [(Views([image(1)] * 3), torch.ones(1, 5, 4)) for _ in range(4)]
    images, masks = collate(default_collate)(samples)
    assert (images.shape, masks.shape) == ((12, 3, 5, 4), (4, 1, 5, 4))


def test_of_two_images_one_whose_views_are_equal_is_joined_too():
    samples = [{"a": views(index), "b": Views([image(0)] * 3)} for index in range(4)]
    batch = collate(default_collate)(samples)
    assert (len(batch["a"]), len(batch["b"])) == (12, 12)


def test_targets_that_the_function_changes_in_place_are_changed_once():
    def scaling(samples):
        for _, boxes in samples:
            boxes *= 10
        return default_collate(samples)

    _, boxes = collate(scaling)([(views(index), torch.ones(2)) for index in range(4)])
    assert boxes.unique().tolist() == [10]


def test_two_batches_of_gray_images_are_no_list_of_images():
    samples = [
        (Views([torch.full((5, 4), index + view / 10) for view in range(3)]), torch.ones(5, 4)) for index in range(2)
    ]
    with pytest.raises(TypeError, match=r"for N = 2, a torch.float32 tensor \[6, 5, 4\]"):
        collate(default_collate)(samples)


@pytest.mark.parametrize("kind", [np.asarray, lambda array: Image.fromarray(array)])
def test_images_that_are_no_tensors(kind):
    def to_tensors(samples):
        return torch.stack([torch.from_numpy(np.array(entry)).permute(2, 0, 1) for entry, _ in samples]), len(samples)

    arrays = [np.full((5, 4, 3), level, np.uint8) for level in range(4)]
    images, count = collate(to_tensors)([(Views([kind(array)] * 3), 0) for array in arrays])
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3] * 3
    assert count == 4


def kept(samples):
    """Those of unreadable files are left out, and so are those of index 1."""
    return [sample for sample in samples if sample is not None and sample[1] != 1]


FUNCTIONS = {
    "tensors": default_collate,
    "lists": as_lists,
    "a dict": lambda samples: dict(zip(("image", "label"), default_collate(samples), strict=True)),
    "a dict of lists": lambda samples: dict(zip(("image", "label"), as_lists(samples), strict=True)),
    "a named tuple": lambda samples: Pair(*default_collate(samples)),
    "nested": lambda samples: {"batch": tuple(default_collate(samples))},
}


def image_and_label(batch):
    while not isinstance(batch, list | tuple):
        batch = batch["batch"] if "batch" in batch else (batch["image"], batch["label"])
    return batch


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_drop_samples(name):
    join = collate(lambda samples: FUNCTIONS[name](kept(samples)))
    every = [(views(index), index) for index in range(7)]
    # As many as there are channels, or dimensions, or none that is dropped, one after the other.
    for indices in ([0, 1, 2, 3], [0, 1, 3], [2, 1, None, 3], [0, None, 2], [2, 3, 4, 5], [1, 6], [None, 6, 1], [3, 2]):
        images, labels = image_and_label(join([None if index is None else every[index] for index in indices]))
        left = [index for index in indices if index not in (None, 1)]
        assert levels(images) == [index + view / 10 for view in range(3) for index in left]
        assert list(labels) == left


def test_a_function_that_keeps_the_first_samples():
    images, labels = collate(lambda samples: default_collate(samples[:2]))(SAMPLES)
    assert levels(images) == [index + view / 10 for view in range(3) for index in range(2)]
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("nothing", [None, [], (), {}, (torch.zeros(0, 3, 5, 4), torch.zeros(0))])
@pytest.mark.parametrize("samples", [SAMPLES, [None, None], [None, SAMPLES[0]]])
def test_functions_that_have_nothing_left(nothing, samples):
    assert collate(lambda samples: nothing)(samples) is nothing


def test_batches_after_one_with_nothing_left():
    join = collate(lambda samples: torch.stack([image for image, _ in kept(samples)]) if kept(samples) else None)
    for _ in range(2):
        assert join([None, SAMPLES[1]]) is None
        assert join([None, SAMPLES[2]]).shape == (3, 3, 5, 4)


@pytest.mark.parametrize("function", [default_collate, as_lists])
@pytest.mark.parametrize("is_dropped", [lambda image: image.mean() > 2.5, lambda image: image.mean() < 0])
def test_functions_that_drop_samples_by_their_images(function, is_dropped):
    """The experiment's other images are dropped, or all of them, and what the function makes of none is an error."""
    join = collate(lambda samples: function([sample for sample in samples if not is_dropped(sample[0])]))
    images, labels = join([(views(index), index) for index in range(5)])
    left = [index for index in range(5) if not is_dropped(image(index))]
    assert levels(images) == [index + view / 10 for view in range(3) for index in left]
    assert list(labels) == left


@pytest.mark.parametrize("function", [default_collate, as_lists, lambda samples: default_collate(samples)[0]])
def test_views_of_which_some_are_dropped_are_an_error(function):
    join = collate(lambda samples: function([sample for sample in samples if sample[0].mean() < 3.15]))
    with pytest.raises(TypeError, match=r"one structure and length for every view.*drops.*not depend on the image"):
        join(SAMPLES)


@pytest.mark.parametrize("function", [default_collate, as_lists])
def test_views_of_which_as_many_others_are_dropped_are_an_error(function):
    def some(samples):
        return [sample for sample in samples if not 1.05 < sample[0].mean() < 2.05]

    with pytest.raises(TypeError, match="differs between the views"):
        collate(lambda samples: function(some(samples)))(SAMPLES)


class Unreadable(Dim):
    def __getitem__(self, index):
        return None if index in (1, 4, 5, 6, 7) else super().__getitem__(index)


def test_datasets_without_a_sample_for_some_indices():
    loader = DataLoader(Unreadable(to_tensor(), 8), batch_size=4, collate_fn=without_none)
    loader = augment_dataloader(loader, AugmentAndMixTransform(**CERTAIN), views=2)
    (images, indices), nothing = loader
    assert indices.tolist() == [0, 2, 3]
    assert [is_augmented(each) for each in images] == [False] * 3 + [True] * 6
    assert nothing is None


def without_none(samples):
    samples = [sample for sample in samples if sample is not None]
    return default_collate(samples) if samples else None
