"""With `on="device"`, batches are those of `on="workers"`, to the bit; what cannot be left for the batch is refused."""

import copy
from collections import namedtuple
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, StackDataset, Subset, TensorDataset, default_collate
from torchvision import transforms as v1
from torchvision.transforms import v2

from lightning_augmix import AugMixCallback
from lightning_augmix._errors import PlacementError
from toy import CERTAIN, Batches, Dim, Recorder, dim_image, is_augmented, loader, to_tensor, trainer

Pair = namedtuple("Pair", "image label")
NORMALIZED = v1.Compose([v1.RandomCrop((9, 8)), v1.ToTensor(), v1.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])])


class Transferred(Batches):
    """Records the batches as `on_after_batch_transfer` gets them, too."""

    def __init__(self, make):
        super().__init__(make)
        self.transferred = []

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            self.transferred.append(copy.deepcopy(batch))
        return batch


def fitted(make, on, root, module=Transferred, settings=None, **arguments):
    pl.seed_everything(1, workers=True, verbose=False)
    fitted_module = module(make)
    callback = AugMixCallback(**{"severity": 10, "seed": 3, "on": on, **arguments})
    run = trainer(callback, root=root, **(settings or {}))
    before = run.strategy.batch_to_device
    run.fit(fitted_module)
    assert run.strategy.batch_to_device == before
    return fitted_module


def assert_equal(found, expected):
    leaves, structure = torch.utils._pytree.tree_flatten(found)
    others, expected_structure = torch.utils._pytree.tree_flatten(expected)
    assert structure == expected_structure
    for one, other in zip(leaves, others, strict=True):
        assert type(one) is type(other)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype
            assert one.stride() == other.stride()
            assert torch.equal(one, other)
        else:
            assert one == other


def assert_as_in_workers(make, root, **arguments):
    found, expected = (fitted(make, on, root, **arguments) for on in ("device", "workers"))
    assert len(found.batches) > 1
    assert_equal(found.batches, expected.batches)
    assert_equal(found.transferred, expected.transferred)
    assert_equal(found.validated, expected.validated)
    return found


@pytest.mark.parametrize("engine", ["numba", "pillow", "torch"])
@pytest.mark.parametrize("views", [0, 1, 2])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_those_of_workers(workers, views, engine, tmp_path):
    data = Dim(NORMALIZED, 10)
    assert_as_in_workers(
        lambda: loader(data, workers, shuffle=True, persistent_workers=workers > 0),
        tmp_path,
        views=views,
        engine=engine,
    )
    assert data.transform is NORMALIZED


PIPELINES = {
    "ToTensor": v1.ToTensor(),
    "v2": v2.Compose(
        [v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    ),
    "half": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float16, scale=True)]),
    "unscaled": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]),
    "nested": v1.Compose([v1.Compose([v1.RandomHorizontalFlip(), v1.ToTensor()]), v1.Normalize([0.5], [0.25])]),
    "sequential": v1.Compose([v1.PILToTensor(), torch.nn.Sequential(v1.ConvertImageDtype(torch.float32))]),
}


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_every_conversion(pipeline, views, tmp_path):
    assert_as_in_workers(lambda: loader(Dim(pipeline, 8)), tmp_path, views=views)


class Shaped(Dim):
    """Samples of another kind."""

    def __init__(self, transform, shape):
        super().__init__(transform, 8)
        self.shape = shape

    def __getitem__(self, index):
        return self.shape(*super().__getitem__(index))


class Outer(Dataset):
    """Normalises what another dataset returns."""

    def __init__(self, dataset):
        self.dataset, self.transform = dataset, v1.Normalize([0.5], [0.25])

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        return self.transform(image), label


class Gray(Dim):
    def __getitem__(self, index):
        return self.transform(dim_image(int(index)).convert("L")), index


DATA = {
    "dict": lambda: Shaped(to_tensor(), lambda image, label: {"image": image, "labels": [label, "name"]}),
    "named tuple": lambda: Shaped(to_tensor(), Pair),
    "nested": lambda: Shaped(to_tensor(), lambda image, label: ({"a": (image, label)}, [label])),
    "subset": lambda: Subset(Dim(to_tensor(), 12), range(2, 10)),
    "stack": lambda: StackDataset(Dim(to_tensor(), 8), TensorDataset(torch.arange(8))),
    "outer": lambda: Outer(Dim(to_tensor(), 8)),
    "gray": lambda: Gray(to_tensor(), 8),
    "tensors": lambda: TensorDataset(torch.randint(256, (8, 3, 9, 8), dtype=torch.uint8), torch.arange(8)),
}


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_every_dataset(make, tmp_path):
    data = make()
    assert_as_in_workers(lambda: loader(data), tmp_path)


SETTINGS = {
    "double": {"precision": "64-true"},
    "bfloat16": {"precision": "bf16-true"},
    "mixed": {"precision": "bf16-mixed"},
    "accumulated": {"accumulate_grad_batches": 2},
    "overfit": {"overfit_batches": 1, "limit_val_batches": 0},
    "reloaded": {"reload_dataloaders_every_n_epochs": 1, "max_epochs": 3},
    "limited": {"limit_train_batches": 1, "max_epochs": 3},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_of_the_trainer(settings, tmp_path):
    assert_as_in_workers(lambda: loader(Dim(NORMALIZED, 8)), tmp_path, settings=settings)


class Transfers(Transferred):
    """Has a transfer of its own."""

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        if self.trainer.training:
            self.transferred.append(copy.deepcopy(batch))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def test_a_transfer_of_the_modules_own_gets_augmented_batches(tmp_path):
    found = assert_as_in_workers(lambda: loader(Dim(NORMALIZED, 8)), tmp_path, module=Transfers)
    assert len(found.transferred) == 2 * len(found.batches)


def test_all_of_training_is_augmented_and_nothing_else(tmp_path):
    module, data = Recorder(), Dim(to_tensor(), 12)
    make = {"train_dataloaders": loader(data), "val_dataloaders": loader(data)}
    run = trainer(AugMixCallback(**CERTAIN, on="device"), root=tmp_path)
    run.fit(module, **make)
    assert module.fraction("train") == [1, 1]
    assert module.fraction("val") == [0, 0]
    assert make["train_dataloaders"].collate_fn is default_collate
    assert not any(is_augmented(data[index][0]) for index in range(12))
    run.validate(module, loader(data), verbose=False)
    assert set(module.fraction("val")) == {0}


def test_a_resumed_run_sees_what_an_uninterrupted_one_does(tmp_path):
    def images(epochs, checkpoint=None):
        module = Recorder()
        run = trainer(AugMixCallback(severity=10, seed=1, on="device"), root=tmp_path, max_epochs=epochs)
        run.fit(module, loader(Dim(to_tensor(), 8)), ckpt_path=checkpoint)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module.images()

    whole = images(3)
    images(1)
    assert images(3, tmp_path / "1.ckpt") == {key: image for key, image in whole.items() if key[0] > 0}


def as_dict(samples):
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": list(labels), "draws": torch.rand(2)}


def in_place(samples):
    images = [image.add_(0) for image, _ in samples]
    return Pair(torch.stack(images), torch.tensor([label for _, label in samples]))


def twice(samples):
    images, labels = default_collate(samples)
    return {"views": [images, images], "labels": labels}


NOTHING = object()


def by_identity(samples):
    images, labels = default_collate([(image, label) for image, label, _ in samples])
    return images, [
        1 if other is NOTHING else label for label, (_, _, other) in zip(labels.tolist(), samples, strict=True)
    ]


def test_a_collate_function_gets_the_entries_of_the_samples_themselves(tmp_path):
    data = Shaped(NORMALIZED, lambda image, label: (image, label, NOTHING))
    module = assert_as_in_workers(lambda: loader(data, collate_fn=by_identity), tmp_path)
    assert all(labels == [1, 1, 1, 1] for _, labels in module.batches)


class Drawing:
    """Draws from a generator of its own."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, samples):
        return *default_collate(samples), torch.rand(2, generator=self.generator)


def test_a_collate_function_has_its_own_draws(tmp_path):
    assert_as_in_workers(lambda: loader(Dim(NORMALIZED, 8), collate_fn=Drawing()), tmp_path)


@pytest.mark.parametrize("views", [0, 1])
@pytest.mark.parametrize("function", [as_dict, in_place, twice])
def test_a_collate_function_that_stacks(function, views, tmp_path):
    assert_as_in_workers(lambda: loader(Dim(NORMALIZED, 8), collate_fn=function), tmp_path, views=views)


def test_a_collate_function_that_drops_what_the_dataset_does_not_have(tmp_path):
    class Missing(Dim):
        def __getitem__(self, index):
            return None if index % 3 == 0 or index > 7 else super().__getitem__(index)

    def kept(samples):
        samples = [sample for sample in samples if sample is not None]
        return default_collate(samples) if samples else (torch.ones(1, 3, 9, 8), torch.ones(1))

    assert_as_in_workers(lambda: loader(Missing(NORMALIZED, 12), collate_fn=kept), tmp_path)


# ---- Refusals ---------------------------------------------------------------------------------------------------


def mixed_up(samples):
    images, labels = default_collate(samples)
    return 0.5 * images + 0.5 * images.flip(0), labels


def sometimes_mixed(samples):
    images, labels = default_collate(samples)
    return (images if 0 in labels else images.flip(0)), labels


def shuffled(samples):
    return default_collate([samples[index] for index in torch.randperm(len(samples)).tolist()])


def scaled(samples):
    images, labels = default_collate(samples)
    return images.float() / 2, labels


def labelled_by_pixels(samples):
    images, labels = default_collate(samples)
    return images, labels + (images.float().mean((1, 2, 3)) > 127)


def dropping(samples):
    return default_collate(samples[1:])


def listed(samples):
    return [image for image, _ in samples], [label for _, label in samples]


def failing(samples):
    assert samples[0][0].float().mean() < 127, "too bright"
    return default_collate(samples)


def needing_floats(samples):
    images, labels = default_collate(samples)
    return images, labels + 0 * images.std()


def clamped(samples):
    images, labels = default_collate(samples)
    return images.clamp(max=0.45) if images.is_floating_point() else images, labels


def halved(samples):
    images, labels = default_collate(samples)
    return images.half() if images.is_floating_point() else images, labels


def last_channels(samples):
    images, labels = default_collate(samples)
    return images.contiguous(memory_format=torch.channels_last), labels


class Small:
    def __init__(self, images):
        self.images = images[..., ::2]


def hiding(samples):
    images, labels = default_collate(samples)
    return images, Small(images), labels


class LooksBefore(Batches):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch


class Iterates(Batches):
    def training_step(self, dataloader_iter):
        return self.layer(torch.ones(1, 1)).sum()


class Sizes(Dim):
    def __getitem__(self, index):
        return self.transform(dim_image(int(index), (12, 10 + int(index) % 2))), index


CHANGING = v1.Normalize([0.0, 0.0, 0.0], [0.2, 0.3, 0.4])


class Changes(Dim):
    def __getitem__(self, index):
        CHANGING.mean = [0.1 * index] * 3
        return super().__getitem__(index)


def erasing():
    return Dim(v1.Compose([v1.ToTensor(), v1.RandomErasing()]), 8)


def two_conversions():
    return ConcatDataset([Dim(v1.ToTensor(), 3), Dim(NORMALIZED, 3)])


REFUSED = {
    "a random step": (lambda: loader(erasing()), Batches, r"RandomErasing.* comes after AugMix.*put it before them"),
    **{
        f"the collate function {function.__name__}": (
            partial(loader, Dim(to_tensor(), 8), collate_fn=function),
            Batches,
            rf"collate function \({function.__name__}\) {seen}.*let it stack the images alone",
        )
        for function, seen in {
            mixed_up: "does not return them stacked, as they were",
            sometimes_mixed: "does not return them stacked, as they were, in every batch",
            shuffled: "does not return them stacked",
            scaled: "does not return them stacked",
            clamped: "does not return them stacked",
            halved: "does not return them stacked",
            last_channels: "does not return them stacked",
            dropping: "does not return them stacked",
            listed: "returns batches whose structure|does not return them stacked",
            labelled_by_pixels: "returns something else that depends on them",
            hiding: "returns a Small, which may hold them",
            failing: r"raises AssertionError \(too bright.* for images in 8 bits",
            needing_floats: "raises RuntimeError .* for images in 8 bits",
        }.items()
    },
    "no batches": (lambda: DataLoader(Dim(to_tensor()), batch_size=None), Batches, "makes no batches"),
    "a hook before": (lambda: loader(Dim(to_tensor())), LooksBefore, "LooksBefore has an `on_before_batch_transfer`"),
    "dataloader_iter": (lambda: loader(Dim(to_tensor())), Iterates, "takes a `dataloader_iter`"),
    "several sizes": (
        lambda: loader(Sizes(to_tensor())),
        Batches,
        "must be alike; got a PIL image of mode RGB",
    ),
    "changing conversions": (
        lambda: loader(Changes(v1.Compose([v1.ToTensor(), CHANGING]))),
        Batches,
        "converted in the same way",
    ),
    "several conversions": (lambda: loader(two_conversions(), batch_size=6), Batches, "converted in the same way"),
}


@pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument")
@pytest.mark.parametrize(("make", "module", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_left_for_the_batch_is_refused(make, module, message, tmp_path):
    with pytest.raises(PlacementError, match=message):
        fitted(make, "device", tmp_path, module)


def test_floating_point_images_are_refused(tmp_path):
    data = TensorDataset(torch.rand(8, 3, 9, 8), torch.arange(8))
    with pytest.raises(
        PlacementError, match=r"single images of 8 bits; got a Tensor \[3, 9, 8\] of dtype torch.float32"
    ):
        fitted(lambda: loader(data), "device", tmp_path, image_key=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": "gpu"}, "`on` to be 'workers' or 'device'; got 'gpu'"),
        ({"on": "device", "inject": False}, "`on` to be 'workers' with `inject=False`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AugMixCallback(**arguments)


def test_images_of_samples_can_be_looked_into_by_nobody(tmp_path):
    class Looks(Dim):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image.mean(), label

    with pytest.raises((PlacementError, AttributeError), match=r"mean|reach|views"):
        fitted(lambda: loader(Looks(to_tensor())), "device", tmp_path)
