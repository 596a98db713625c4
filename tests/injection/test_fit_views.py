"""With `views`, batches have clean images first, and these are the ones of a fit without the callback."""

import json
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision import transforms
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform, AugMixCallback, JSDLoss, augment_dataloader
from lightning_augmix._errors import PlacementError
from toy import CERTAIN, Batches, Dim, digest, is_augmented, loader, to_tensor, trainer


def fitted(make, *callbacks, root, **settings):
    pl.seed_everything(1, workers=True, verbose=False)
    module = Batches(make)
    trainer(*callbacks, root=root, **settings).fit(module)
    return module


RANDOM = transforms.Compose(
    [transforms.RandomCrop(8), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.RandomErasing()]
)

pytestmark = pytest.mark.usefixtures("on")


@pytest.mark.parametrize(
    "pipeline", [to_tensor(), pytest.param(RANDOM, marks=pytest.mark.refused_on_device)], ids=["plain", "random"]
)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_clean_images_are_those_of_a_fit_without_the_callback(workers, pipeline, tmp_path):
    def make():
        return loader(Dim(pipeline, 12), workers, shuffle=True)

    without = fitted(make, root=tmp_path)
    callback = AugMixCallback(**CERTAIN, views=2, seed=0)
    with_views = fitted(make, callback, root=tmp_path)
    assert len(with_views.batches) == len(without.batches) == 6
    for (images, labels), (expected, expected_labels) in zip(with_views.batches, without.batches, strict=True):
        assert images.shape == (12, *expected.shape[1:])
        assert torch.equal(images[:4], expected)
        assert torch.equal(labels, expected_labels)
        assert all(is_augmented(image) for image in images[4:])
    for images, _ in with_views.validated:
        assert images.shape[0] == 4
        assert not any(map(is_augmented, images))


@pytest.mark.parametrize("seed", [None, 0])
def test_views_are_independent_and_the_first_is_what_there_is_without_views(seed, tmp_path):
    def make():
        return loader(Dim(to_tensor(), 8))

    images = torch.cat(
        [batch[0] for batch in fitted(make, AugMixCallback(10, views=3, seed=seed), root=tmp_path).batches]
    )
    assert len({digest(image.numpy()) for image in images}) == 2 * 8 * 3 + 8  # clean ones come twice
    if seed is not None:
        single = fitted(make, AugMixCallback(10, seed=seed), root=tmp_path).batches
        assert torch.equal(images[4:8], single[0][0])


def as_dict(samples):
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": list(labels)}


def pairs(batch):
    """The images and labels of a batch, or of those of several loaders."""
    if isinstance(batch, dict):
        return [batch.values()]
    return [batch] if isinstance(batch[0], torch.Tensor) else batch


@pytest.mark.parametrize(
    ("make", "image_key"),
    [
        (lambda: loader(Dim(to_tensor(), 8), collate_fn=as_dict), None),
        (
            lambda: DataLoader(
                TensorDataset(torch.arange(960, dtype=torch.uint8).view(8, 3, 5, 8), torch.arange(8)), 4
            ),
            None,
        ),
        pytest.param(
            *(lambda: DataLoader(TensorDataset(torch.rand(8, 3, 5, 7), torch.arange(8)), 4), 0),
            marks=pytest.mark.refused_on_device,
        ),
        (lambda: [loader(Dim(to_tensor(), 8)), loader(Dim(to_tensor(), 8))], None),
    ],
    ids=["dictionary", "samples", "image_key", "two loaders"],
)
def test_all_kinds_of_batches(make, image_key, tmp_path):
    module = fitted(make, AugMixCallback(views=1, image_key=image_key), root=tmp_path, max_epochs=1)
    assert len(module.batches) == 2
    for images, labels in (pair for batch in module.batches for pair in pairs(batch)):
        assert len(images) == 8
        assert len(labels) == 4


def test_the_loader_has_its_collate_function_back(tmp_path):
    module = Batches(lambda: loader(Dim(to_tensor(), 8)))
    fit = trainer(AugMixCallback(views=2), root=tmp_path)
    fit.fit(module)
    images, labels = next(iter(fit.train_dataloader))
    assert len(images) == len(labels) == 4


def test_a_combined_loader_that_the_user_keeps_with_reloads(tmp_path):
    combined = CombinedLoader([loader(Dim(to_tensor(), 8))])
    module = fitted(
        lambda: combined, AugMixCallback(views=2), root=tmp_path, max_epochs=3, reload_dataloaders_every_n_epochs=1
    )
    assert [len(batch[0][0]) for batch in module.batches] == [12] * 6


class Wrapper(torch.utils.data.Dataset):
    def __init__(self, subset, transform):
        self.subset, self.transform = subset, transform

    def __getitem__(self, index):
        image, label = self.subset[index]
        return self.transform(image), label

    def __len__(self):
        return len(self.subset)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.Normalize(0.5, 0.5),
        v2.Normalize([0.5], [0.5]),
        pytest.param(v2.Compose([v2.RandomErasing(1.0)]), marks=pytest.mark.refused_on_device),
    ],
)
def test_wrappers_with_a_transform_of_their_own(transform, tmp_path):
    def make():
        return loader(Wrapper(Dim(to_tensor(), 8), transform))

    without = fitted(make, root=tmp_path)
    with_views = fitted(make, AugMixCallback(**CERTAIN, views=1, seed=0), root=tmp_path)
    for (images, _), (expected, _) in zip(with_views.batches, without.batches, strict=True):
        assert torch.equal(images[:4], expected)
        assert not torch.equal(images[4:], expected)


class Reading(Dim):
    """Looks at the image behind its transform."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image.clamp(0, 1), label


class Stacking(Dim):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return {"sample": Hidden(image), "label": label}


class Hidden:
    def __init__(self, image):
        self.image = image


@pytest.mark.parametrize("on", ["workers"], indirect=True)
@pytest.mark.parametrize(
    ("dataset", "kind", "message"),
    [
        (Reading, AttributeError, "`clamp` was asked of several views of an image. With `views`, the dataset must"),
        (Stacking, PlacementError, "a sample has lost the views of its image"),
    ],
)
def test_datasets_that_do_not_hand_on_what_their_transform_gives(dataset, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        fitted(lambda: loader(dataset(to_tensor(), 8)), AugMixCallback(views=2), root=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"views": -1}, ValueError, "`views` to be an integer, at least 0; got -1"),
        ({"views": 2.0}, TypeError, "`views` to be an integer"),
        ({"views": 2, "inject": False}, ValueError, "`views` to be 0 with `inject=False`"),
    ],
)
def test_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        AugMixCallback(**arguments)


def test_the_number_of_views_is_part_of_the_state():
    assert AugMixCallback(views=2).settings["views"] == 2


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_loop_without_a_trainer(workers):
    plain = DataLoader(Dim(to_tensor(), 8), 4, num_workers=workers)
    augmented = augment_dataloader(plain, AugmentAndMixTransform(**CERTAIN), views=2)
    loss = JSDLoss(views=2)
    for (images, labels), (clean, _) in zip(augmented, plain, strict=True):
        assert torch.equal(images[:4], clean)
        assert all(is_augmented(image) for image in images[4:])
        assert loss(images.flatten(1), labels).isfinite()
    assert type(plain.collate_fn) is not type(augmented.collate_fn)


RANKS = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from lightning_augmix import AugMixCallback
sys.path.append(f"{sys.argv[1]}/injection")
from test_fit_views import Batches
from toy import CERTAIN, Dim, is_augmented, loader, to_tensor, trainer

class Ranks(Batches):
    def on_fit_end(self):
        seen = [[len(x), [is_augmented(each) for each in x], y.tolist()] for x, y in self.batches]
        json.dump(seen, open(f"{sys.argv[2]}/rank{self.global_rank}.json", "w"))

if __name__ == "__main__":
    callback = AugMixCallback(**CERTAIN, views=2, seed=0)
    trainer(callback, root=sys.argv[2], devices=2, strategy="ddp", max_epochs=1).fit(
        Ranks(lambda: loader(Dim(to_tensor(), 8), 1, batch_size=2))
    )
"""


@pytest.mark.slow
def test_two_ranks(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    subprocess.run([sys.executable, script, Path(__file__).parents[1], tmp_path], check=True, timeout=200)
    labels = []
    for rank in range(2):
        for count, augmented, indices in json.loads((tmp_path / f"rank{rank}.json").read_text()):
            assert (count, augmented) == (6, [False] * 2 + [True] * 4)
            labels += indices
    assert sorted(labels) == list(range(8))


class Learner(pl.LightningModule):
    """Classifies four classes with a loss."""

    def __init__(self, loss):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4))
        self.loss = loss
        self.batches = []

    def training_step(self, batch, batch_idx):
        images, targets = batch
        self.batches.append(batch)
        return self.loss(self.model(images), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def learn(tmp_path, loss, callback, **settings):
    module, four = Learner(loss), Dim(to_tensor(), 4)
    module.model(four[0][0].unsqueeze(0))
    pl.seed_everything(0, verbose=False)
    trainer(callback, root=tmp_path, max_epochs=1).fit(module, DataLoader(four, 4, **settings))
    return module


HINT = "Batches have 3 images for each target, all clean ones first, and Learner has no JSDLoss"


def test_without_the_consistency_loss_its_name_is_said_before_the_error(tmp_path, caplog):
    caplog.set_level("INFO")
    with pytest.raises(ValueError, match="batch_size"):
        learn(tmp_path, torch.nn.CrossEntropyLoss(), AugMixCallback(views=2))
    assert HINT in caplog.text


def test_the_consistency_loss_without_views_is_an_error(tmp_path, caplog):
    caplog.set_level("INFO")
    with pytest.raises(ValueError, match=r"pass AugMixCallback\(views=2\)"):
        learn(tmp_path, JSDLoss(), AugMixCallback())
    learn(tmp_path, JSDLoss(), AugMixCallback(views=2))
    assert HINT not in caplog.text


@pytest.mark.parametrize("on", ["workers"], indirect=True)
def test_mixup_in_the_collate_function_mixes_the_views_of_a_sample_alike(tmp_path):
    mixup = v2.MixUp(num_classes=4, alpha=1.0)
    callback = AugMixCallback(severity=0, augmentation_set=["rotate"], views=2)  # turns by nothing: views are clean
    module = learn(tmp_path, JSDLoss(), callback, collate_fn=lambda samples: mixup(*default_collate(samples)))
    [(images, targets)] = module.batches
    clean, first, second = images.chunk(3)
    assert targets.shape == (4, 4)
    assert not torch.equal(clean, default_collate([Dim(to_tensor(), 4)[number] for number in range(4)])[0])
    torch.testing.assert_close(first, clean)
    torch.testing.assert_close(second, clean)
