"""A judge of fits: refused before the first step, or all of the model's images are augmented and nothing else is."""

import copy
import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from lightning_augmix import AugMixCallback, PlacementError
from toy import CERTAIN, is_augmented, loader, trainer

#: What a refusal may offer.
WAYS = ("image_key=", "inject=False", "photometric", "Compose")


class Witness(pl.LightningModule):
    """Keeps what its training steps are given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.batches.append(copy.deepcopy(batch))
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def fitted(root, data, *callbacks, **settings):
    """The batches of a fit."""
    witness = Witness()
    trainer(*callbacks, root=root, **settings).fit(witness, data)
    return witness.batches


def same(first, second):
    """Whether two samples or batches hold the same, bit by bit."""
    leaves, others = tree_leaves(first), tree_leaves(second)
    return len(leaves) == len(others) and all(map(_equal, leaves, others))


def _equal(first, second):
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    return np.array_equal(np.array(first), np.array(second))


def without(batch, image):
    if isinstance(batch, dict):
        return {key: value for key, value in batch.items() if key != image}
    return [value for position, value in enumerate(batch) if position != image]


def check_batches(batches, clean, image, views=0):
    """Fails unless the images differ from those of a fit without AugMix, each of them, and nothing else does."""
    assert len(batches) == len(clean) > 0
    for batch, expected in zip(batches, clean, strict=True):
        images, before = list(batch[image]), list(expected[image])
        assert not any(map(is_augmented, before))
        if views:
            assert same(images[: len(before)], before)
            images = images[len(before) :]
        assert len(images) == max(views, 1) * len(before)
        assert all(map(is_augmented, images))
        assert same(without(batch, image), without(expected, image))


def check_dataset(dataset, untouched):
    """Fails unless a dataset makes the samples that one makes which never met AugMix."""
    for index in range(len(untouched)):
        assert same(dataset[index], untouched[index])


def loaded(dataset, *, sampler=None, batch_size=4, workers=0, **settings):
    return loader(dataset, workers, sampler=sampler, batch_size=batch_size, **settings)


def judge(root, make, image, *, loading=(), **arguments):
    """Fits with AugMix and without, and compares.

    Returns the message of a refusal, or `None` where every image was augmented and nothing else.
    """
    loading = dict(loading)
    callback = AugMixCallback(**{**CERTAIN, **arguments})
    dataset = make() if callback.inject else make(callback.transform)
    clean = fitted(root, loaded(make(), **loading))
    witness, message = Witness(), None
    try:
        trainer(callback, root=root).fit(witness, loaded(dataset, **loading))
    except PlacementError as error:
        message = str(error)
        assert not witness.batches
        assert type(dataset).__name__ in message
        assert any(way in message for way in WAYS)
    else:
        check_batches(witness.batches, clean, image, callback.views)
    if callback.inject:
        check_dataset(dataset, make())
    return message


def check_refused(root, make, *matches, loading=(), **arguments):
    """Fails unless a fit is refused before its first step, in words that hold each of those given."""
    callback = AugMixCallback(**{**CERTAIN, **arguments})
    dataset = make() if callback.inject else make(callback.transform)
    witness = Witness()
    with pytest.raises(PlacementError) as error:
        trainer(callback, root=root).fit(witness, loaded(dataset, **dict(loading)))
    assert not witness.batches
    for words in matches:
        assert words in str(error.value)
    if callback.inject:
        check_dataset(dataset, make())


def check_warned(root, make, image, *, loading=(), **arguments):
    """Fails unless a fit goes on with clean images everywhere and says so, or augments every image."""
    loading = dict(loading)
    clean = fitted(root, loaded(make(), **loading))
    dataset = make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = AugMixCallback(**{**CERTAIN, **arguments}, on_unsupported="warn")
        batches = fitted(root, loaded(dataset, **loading), callback)
    if any("AugMix" in str(warning.message) for warning in caught):
        assert same(batches, clean)
    else:
        check_batches(batches, clean, image, callback.views)
    check_dataset(dataset, make())
