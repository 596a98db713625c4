"""A small data set whose augmented images can be told from clean ones, and a module that records what it is given."""

import hashlib

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import transforms

from lightning_augmix import augmix_image

#: Levels of a clean image lie in [100, 140); autocontrast stretches them to [0, 255], and half of that is mixed in.
CERTAIN = {"augmentation_set": ["autocontrast"], "alpha": 1e6}


def dim_image(index, size=(12, 10)):
    levels = np.random.default_rng(index).integers(100, 140, (*size, 3), dtype=np.uint8)
    levels[0, 0], levels[1, 1] = 100, 139
    levels[5, 4], levels[6, 5] = 100, 139  # within every central crop
    return Image.fromarray(levels)


def is_augmented(img):
    """Whether an image, of levels or scaled to [0, 1], has been through AugMix with the settings `CERTAIN`."""
    values = img.as_subclass(torch.Tensor) if isinstance(img, torch.Tensor) else torch.from_numpy(np.array(img))
    return bool(values.max() > (150 if values.dtype == torch.uint8 else 150 / 255))


def augmented_bytes(seed, engine="auto"):
    return augmix_image(dim_image(0), 10, generator=torch.Generator().manual_seed(seed), engine=engine).tobytes()


class Dim(Dataset):
    def __init__(self, transform, length=6):
        self.transform = transform
        self.length = length

    def __getitem__(self, index):
        img = dim_image(int(index))
        return (img if self.transform is None else self.transform(img)), index

    def __len__(self):
        return self.length


class Handles(Dim):
    """Opens its file in the worker, in the user's `worker_init_fn`."""

    def __getitem__(self, index):
        assert self.handle == "open"
        return super().__getitem__(index)


def open_handle(worker):
    torch.utils.data.get_worker_info().dataset.handle = "open"


def digest(img):
    return hashlib.sha256(np.ascontiguousarray(img).tobytes()).hexdigest()[:16]


class Recording:
    """Records (epoch, index, whether augmented, digest) of every image, by stage; to be mixed into a module."""

    def __init__(self, loaders=None):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen = {"train": [], "val": [], "test": [], "predict": []}
        self.loaders = loaders or {}
        for stage, loader in self.loaders.items():
            setattr(self, "predict_dataloader" if stage == "predict" else f"{stage}_dataloader", loader)

    def record(self, stage, batch):
        for img, index in zip(*batch, strict=True):
            entry = (self.current_epoch, int(index), is_augmented(img.cpu()), digest(img.cpu().numpy()))
            self.seen[stage].append(entry)

    def training_step(self, batch, batch_idx):
        self.record("train", batch)
        return self.layer(batch[0].new_ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.record("val", batch)

    def test_step(self, batch, batch_idx):
        self.record("test", batch)

    def predict_step(self, batch, batch_idx):
        self.record("predict", batch)
        return batch[1]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)

    def fraction(self, stage):
        """The fraction of augmented images per epoch."""
        epochs = {}
        for epoch, _, augmented, _ in self.seen[stage]:
            epochs.setdefault(epoch, []).append(augmented)
        return [sum(flags) / len(flags) for flags in epochs.values()]

    def images(self):
        """Digests of the training images by (epoch, index)."""
        return {(epoch, index): image for epoch, index, _, image in self.seen["train"]}


class Recorder(Recording, pl.LightningModule):
    pass


def to_tensor():
    return transforms.Compose([transforms.ToTensor()])


def loader(dataset, workers=0, **kwargs):
    kwargs = {"persistent_workers": False, "batch_size": 4, **kwargs}
    return DataLoader(dataset, num_workers=workers, **kwargs)


def trainer(*callbacks, root, package=pl, **kwargs):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": root,
    }
    return package.Trainer(callbacks=list(callbacks), **{**defaults, **kwargs})


class Data(pl.LightningDataModule):
    """Train and validation parts of one dataset, as people write it; all four stages share the dataset."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings
        self.dataset = Dim(to_tensor(), length=12)

    def setup(self, stage):
        self.train, self.val = random_split(self.dataset, [8, 4], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return loader(self.train, shuffle=True, **self.settings)

    def val_dataloader(self):
        # Workers that only the garbage collector ends keep it waiting for seconds.
        return loader(self.val, **{**self.settings, "persistent_workers": False})

    test_dataloader = val_dataloader

    def predict_dataloader(self):
        return loader(self.train, **self.settings)


class Scheduled(Recorder):
    """Has its loaders made in `configure_optimizers`, before the loops know what a checkpoint says."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


class Several(Recorder):
    """Takes batches of several loaders."""

    def training_step(self, batch, batch_idx):
        leaves = [leaf for leaf in tree_leaves(batch) if leaf is not None]
        for images, indices in zip(leaves[::2], leaves[1::2], strict=True):
            self.record("train", (images, indices))
        return self.layer(torch.ones(1, 1)).sum()


class BatchSizes(pl.Callback):
    """Records the sizes of the batches of tests."""

    seen = []  # noqa: RUF012  # on purpose: of all instances

    def on_test_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.seen.append(len(batch[0]))


class Batches(pl.LightningModule):
    """Records the batches of a fit."""

    def __init__(self, make):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.train_dataloader = make
        self.batches, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.layer(torch.ones(1, 1, dtype=self.dtype)).sum()

    def val_dataloader(self):
        return loader(Dim(to_tensor(), 4))

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)
