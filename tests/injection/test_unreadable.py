"""`None` for files that cannot be read, which the collate function leaves out: training as without the callback."""

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, default_collate
from torchvision import transforms as v1
from torchvision.transforms import functional

from judge import Witness, check_batches, fitted, loaded
from lightning_augmix import (
    AugmentAndMixTransform,
    AugMixCallback,
    PlacementError,
    augment_dataloader,
    augment_dataset,
)
from toy import CERTAIN, dim_image, is_augmented, to_tensor, trainer

WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]
UNREADABLE = {"the first": {0}, "a later one": {3}, "one in each batch": {0, 5}, "most": {0, 1, 2, 4, 5}}
unreadable = pytest.mark.parametrize("gone", UNREADABLE.values(), ids=UNREADABLE)
#: Those that leave something of each batch of three.
in_each_batch = pytest.mark.parametrize("gone", list(UNREADABLE.values())[:3], ids=list(UNREADABLE)[:3])


def readable(samples):
    samples = [sample for sample in samples if sample is not None]
    return default_collate(samples) if samples else None


class Files(Dataset):
    """Its transforms can be seen."""

    def __init__(self, gone, placed=None):
        self.gone = gone
        self.transform = self.pipeline(placed)

    def pipeline(self, placed):
        return to_tensor() if placed is None else v1.Compose([placed, v1.ToTensor()])

    def __getitem__(self, index):
        return None if index in self.gone else (self.transform(dim_image(index)), index)

    def __len__(self):
        return 6


class Samples(Files):
    """Has no transform that can be seen, and makes uint8 images."""

    def pipeline(self, placed):
        return lambda img: functional.pil_to_tensor(img if placed is None else placed(img))


class Stream(IterableDataset):
    def __init__(self, gone, placed=None):
        self.files = Files(gone, placed)
        self.transform = self.files.transform

    def __iter__(self):
        self.files.transform = self.transform
        worker = torch.utils.data.get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (self.files[index] for index in range(start, 6, step))


class PlainStream(IterableDataset):
    """The same without a transform that can be seen."""

    def __init__(self, gone, placed=None):
        self.make = Samples(gone, placed).__getitem__

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (self.make(index) for index in range(start, 6, step))


def check(root, kind, gone, workers=0, **arguments):
    callback = AugMixCallback(**CERTAIN, **arguments)
    loading = {"workers": workers, "batch_size": 3, "collate_fn": readable}
    clean = fitted(root, loaded(kind(gone), **loading))
    dataset = kind(gone) if callback.inject else kind(gone, callback.transform)
    batches = fitted(root, loaded(dataset, **loading), callback)
    assert sum(len(labels) for _, labels in batches) == 2 * (6 - len(gone))
    check_batches(batches, clean, 0, callback.views)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("arguments", [{}, {"views": 2}, {"seed": 1}, {"image_key": 0}, {"inject": False}])
@pytest.mark.parametrize("kind", [Files, Samples])
@in_each_batch
def test_files_that_cannot_be_read_are_left_out(gone, kind, arguments, workers, tmp_path):
    check(tmp_path, kind, gone, workers, **arguments)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("arguments", [{}, {"views": 2}, {"image_key": 0}, {"inject": False}])
@pytest.mark.parametrize("kind", [Stream, PlainStream])
@in_each_batch
def test_files_of_a_stream_that_cannot_be_read_are_left_out(gone, kind, arguments, workers, tmp_path):
    check(tmp_path, kind, gone, workers, **arguments)


@pytest.mark.filterwarnings("ignore:.*yielded None:UserWarning")
@pytest.mark.parametrize("arguments", [{}, {"views": 2}, {"seed": 1}, {"image_key": 0}, {"inject": False}])
@pytest.mark.parametrize("gone", [{0, 1, 2}, {3, 4, 5}], ids=["the first batch", "the last batch"])
def test_a_batch_of_nothing_is_skipped_as_without(gone, arguments, tmp_path):
    class Skipping(Witness):
        def training_step(self, batch, batch_idx):
            return None if batch is None else super().training_step(batch, batch_idx)

    callback = AugMixCallback(**CERTAIN, **arguments)
    made = []
    for callbacks, dataset in (
        ((), Files(gone)),
        ((callback,), Files(gone) if callback.inject else Files(gone, callback.transform)),
    ):
        made.append(Skipping())
        trainer(*callbacks, root=tmp_path).fit(made[-1], loaded(dataset, batch_size=3, collate_fn=readable))
    clean, witness = made
    check_batches(witness.batches, clean.batches, 0, callback.views)


class Hidden(Files):
    def __getitem__(self, index):
        return None if index in self.gone else (functional.to_tensor(dim_image(index)), index)


@pytest.mark.parametrize("arguments", [{}, {"views": 2}, {"inject": False}])
@pytest.mark.parametrize("gone", [{0}, {0, 1}, {0, 1, 2}], ids=["one", "two", "the first batch"])
@pytest.mark.filterwarnings("ignore:.*yielded None:UserWarning")
def test_a_file_that_cannot_be_read_hides_no_image_that_augmix_misses(gone, arguments, tmp_path):
    callback = AugMixCallback(**CERTAIN, **arguments)
    dataset = Hidden(gone) if callback.inject else Hidden(gone, callback.transform)
    witness = Witness()
    with pytest.raises(PlacementError, match="Hidden" if callback.inject else "transform"):
        trainer(callback, root=tmp_path).fit(witness, loaded(dataset, batch_size=3, collate_fn=readable))
    assert not [batch for batch in witness.batches if batch is not None]


class Dropping(Files):
    """Has a sample for every file; which are bad, the collate function finds out."""

    def __getitem__(self, index):
        return self.transform(dim_image(index)), -1 if index in self.gone else index


def without_bad_labels(samples):
    return default_collate([(img, label) for img, label in samples if label >= 0])


@pytest.mark.parametrize("views", [0, 1, 2])
@unreadable
def test_a_collate_function_that_drops_samples(gone, views, tmp_path):
    loading = {"batch_size": 6, "collate_fn": without_bad_labels}
    clean = fitted(tmp_path, loaded(Dropping(gone), **loading))
    batches = fitted(tmp_path, loaded(Dropping(gone), **loading), AugMixCallback(**CERTAIN, views=views))
    check_batches(batches, clean, 0, views)


@unreadable
@pytest.mark.parametrize("image_key", [None, 0])
@pytest.mark.parametrize("kind", [Files, Samples])
def test_without_a_trainer_too(gone, kind, image_key):
    dataset = augment_dataset(kind(gone), AugmentAndMixTransform(**CERTAIN), image_key=image_key)
    for index in range(6):
        assert (dataset[index] is None) == (index in gone)
        assert dataset[index] is None or is_augmented(dataset[index][0])
    for views in (0, 2):
        data = loaded(kind(gone), batch_size=6, collate_fn=readable)
        [(images, labels)] = augment_dataloader(
            data, AugmentAndMixTransform(**CERTAIN), views=views, image_key=image_key
        )
        assert len(labels) == 6 - len(gone)
        assert len(images) == len(labels) * (1 + views)
        assert sum(map(is_augmented, images)) == len(labels) * max(views, 1)
