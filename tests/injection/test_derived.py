"""What is derived from an augmented Hugging Face dataset stays augmented, or raises; it is never clean in silence."""

import datasets
import datasets.distributed
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform, PlacementError, augment_dataset
from toy import CERTAIN, dim_image, is_augmented, loader, to_tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning"),  # Hugging Face with pyarrow, torch
    pytest.mark.filterwarnings("ignore:Downcasting array dtype:UserWarning"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),
]


def rows():
    content = {"image": [dim_image(index) for index in range(6)], "label": list(range(6))}
    return datasets.Dataset.from_dict(content).cast_column("image", datasets.Image())


def levels(batch):
    return {**batch, "image": [v2.functional.pil_to_tensor(img) for img in batch["image"]]}


def scaled(batch):
    return {**batch, "image": [to_tensor()(img) for img in batch["image"]]}


def same_row(row):
    return row


def next_label(row):
    return {"label": row["label"] + 1}


def no_first(row):
    return row["label"] > 0


MADE = {
    "plain": (rows, None),
    "format": (lambda: rows().with_format("torch"), None),
    "transform": (lambda: rows().with_transform(levels), None),
    "named": (lambda: rows().with_transform(scaled), "image"),
    "stream": (lambda: rows().to_iterable_dataset(num_shards=2), None),
    "stream, format": (lambda: rows().to_iterable_dataset(num_shards=2).with_format("torch"), None),
    "stream, named": (lambda: rows().to_iterable_dataset(num_shards=2), "image"),
}
OF_ROWS = [name for name in MADE if not name.startswith("stream")]
OF_STREAMS = [name for name in MADE if name.startswith("stream")]

BOTH = {
    "shuffle": lambda data: data.shuffle(seed=0),
    "shard": lambda data: data.shard(2, 0),
    "skip": lambda data: data.skip(2),
    "take": lambda data: data.take(2),
    "repeat": lambda data: data.repeat(2),
    "filter": lambda data: data.filter(no_first),
    "map": lambda data: data.map(next_label),
    "map of whole rows": lambda data: data.map(same_row),
    "map in batches": lambda data: data.map(lambda batch: {"other": batch["label"]}, batched=True),
    "with_format": lambda data: data.with_format("torch"),
    "without a format": lambda data: data.with_format(None),
    "select_columns": lambda data: data.select_columns(["image"]),
    "remove_columns": lambda data: data.remove_columns(["label"]),
    "rename_column": lambda data: data.rename_column("label", "target"),
    "batch": lambda data: data.batch(2),
    "concatenate_datasets": lambda data: datasets.concatenate_datasets([data, data]),
    "interleave_datasets": lambda data: datasets.interleave_datasets([data, data], seed=0),
    "split_dataset_by_node": lambda data: split_dataset_by_node(data, 0, 2),
    "shuffle, take, shard": lambda data: data.shuffle(seed=0).take(4).shard(2, 1),
    "iter": lambda data: data.iter(2),
    "a loader": lambda data: loader(data, batch_size=2, collate_fn=list),
}
ROWS = {
    "select": lambda data: data.select([4, 2]),
    "select of a range": lambda data: data.select(range(3)),
    "sort": lambda data: data.sort("label", reverse=True),
    "train_test_split, train": lambda data: data.train_test_split(2, seed=0)["train"],
    "train_test_split, test": lambda data: data.train_test_split(2, seed=0)["test"],
    "to_iterable_dataset": lambda data: data.to_iterable_dataset(),
    "to_iterable_dataset, shards": lambda data: data.to_iterable_dataset(num_shards=2).shuffle(seed=0),
    "with_transform": lambda data: data.with_transform(levels),
    "flatten_indices": lambda data: data.select([1, 3]).flatten_indices(),
    "add_column": lambda data: data.add_column("other", list(range(6))),
    "cast_column": lambda data: data.cast_column("label", datasets.Value("float32")),
    "a slice": lambda data: data[:3],
    "a list of indices": lambda data: data[[0, 2]],
    "a column": lambda data: data["image"],
    "set_format": lambda data: changed(data, data.set_format, "torch"),
    "set_transform": lambda data: changed(data, data.set_transform, levels),
    "reset_format": lambda data: changed(data, data.reset_format),
    "formatted_as": lambda data: formatted(data),
    "a dictionary of datasets": lambda data: datasets.DatasetDict(train=data).shuffle(seed=0)["train"],
}


def changed(data, change, *arguments):
    change(*arguments)
    return data


def formatted(data):
    with data.formatted_as("torch"):
        return list(data)


def images(value):
    """The images in whatever nesting."""
    if isinstance(value, dict):
        return [image for key, inner in value.items() if key in ("image", "train") for image in images(inner)]
    if isinstance(value, torch.Tensor) and value.ndim == 4:
        return list(value)
    if isinstance(value, torch.Tensor) or hasattr(value, "getpixel"):
        return [value]
    return [image for inner in value for image in images(inner)]


def own_refusal(derive, data):
    """The kind of error by which Hugging Face itself refuses to derive something, if it does."""
    try:
        images(derive(data))
    except Exception as error:
        return (type(error),)
    return ()


def check(made, derive):
    make, image_key = MADE[made]
    original = make()
    data = augment_dataset(original, AugmentAndMixTransform(**CERTAIN), image_key=image_key)
    try:
        found = images(derive(data))
    except PlacementError as error:
        assert "AugMix" in str(error)  # noqa: PT017  # both are permitted
    except own_refusal(derive, make()):
        pass
    else:
        assert found
        assert all(map(is_augmented, found))
    assert not any(map(is_augmented, images(original)))


@pytest.mark.parametrize("made", OF_ROWS)
@pytest.mark.parametrize("derive", [*BOTH.values(), *ROWS.values()], ids=[*BOTH, *ROWS])
def test_what_is_derived_from_rows_is_never_clean_in_silence(derive, made):
    check(made, derive)


@pytest.mark.parametrize("made", OF_STREAMS)
@pytest.mark.parametrize("derive", BOTH.values(), ids=BOTH)
def test_what_is_derived_from_a_stream_is_never_clean_in_silence(derive, made):
    check(made, derive)


@pytest.mark.parametrize("made", MADE)
def test_what_is_derived_from_the_original_stays_clean(made):
    make, image_key = MADE[made]
    original = make()
    augment_dataset(original, AugmentAndMixTransform(**CERTAIN), image_key=image_key)
    for derive in (BOTH["shuffle"], BOTH["take"], BOTH["concatenate_datasets"]):
        assert not any(map(is_augmented, images(derive(original))))


@pytest.mark.parametrize("made", OF_ROWS)
@pytest.mark.parametrize("derive", ["shuffle", "take", "filter"])
def test_what_is_derived_first_is_augmented(derive, made):
    make, image_key = MADE[made]
    data = augment_dataset(BOTH[derive](make()), AugmentAndMixTransform(**CERTAIN), image_key=image_key)
    assert all(map(is_augmented, images(data)))
