"""Data and Trainers of other libraries."""

import gc
import io
import tarfile

import datasets
import litdata
import pytest
import pytorch_lightning
import torch
import webdataset
from litdata.streaming.cache import Cache
from pytorch_lightning.callbacks import ModelCheckpoint
from timm.data import create_dataset, create_loader, create_transform
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.transforms import v2

from kinds import Closure
from lightning_augmix import AugmentAndMixTransform, AugMixCallback, augment_dataloader, augment_dataset
from lightning_augmix._errors import PlacementError
from toy import CERTAIN, Dim, Recorder, Recording, dim_image, is_augmented, loader, to_tensor, trainer

pytestmark = [
    pytest.mark.usefixtures("on", "_files_closed_here"),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # files that webdataset and timm open
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined:UserWarning"),  # litdata's
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
]

WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]


@pytest.fixture
def _files_closed_here():
    """Closes the files that libraries leave open: collected later, they would fail another test."""
    yield
    gc.collect()


@pytest.fixture
def augmix():
    return AugmentAndMixTransform(**CERTAIN)


def check_fit(root, data, settings=(), image="image", length=6, epochs=2, **callback):
    """Trains on the data and checks that every image was augmented, and that the data itself gives clean ones."""

    class Fields(Recorder):
        def training_step(self, batch, batch_idx):
            images = batch[image]
            self.record("train", (images, range(len(images))))
            return self.layer(torch.ones(1, 1)).sum()

    module = Fields()
    run = trainer(AugMixCallback(**CERTAIN, **callback), root=root, max_epochs=epochs)
    run.fit(module, data if isinstance(data, DataLoader) else DataLoader(data, batch_size=3, **dict(settings)))
    assert module.fraction("train") == [1.0] * epochs
    assert len(module.seen["train"]) == epochs * length
    assert not any(is_augmented(sample[image]) for sample in (data.dataset if isinstance(data, DataLoader) else data))


# ---- Hugging Face datasets ------------------------------------------------------------------------------------------


@pytest.fixture
def hugging_face():
    rows = {"image": [dim_image(index) for index in range(6)], "label": list(range(6))}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def transformed(rows):
    return {"image": [v2.functional.pil_to_tensor(img) for img in rows["image"]], "label": rows["label"]}


def normalized(rows):
    return {"image": [to_tensor()(img) for img in rows["image"]]}


@pytest.mark.refused_on_device
@pytest.mark.parametrize("workers", WORKERS)
def test_hugging_face(workers, hugging_face, tmp_path):
    with_seed = {"seed": 1}
    check_fit(tmp_path, hugging_face.with_format("torch"), {"num_workers": workers}, **with_seed)
    check_fit(tmp_path, hugging_face.with_transform(transformed), {"num_workers": workers}, **with_seed)
    check_fit(tmp_path, hugging_face.with_transform(normalized), {"num_workers": workers}, image_key="image")
    stream = hugging_face.to_iterable_dataset(num_shards=2).with_format("torch")
    check_fit(tmp_path, stream, {"num_workers": workers})


def test_hugging_face_read_directly(hugging_face, augmix):
    dataset = augment_dataset(hugging_face, augmix)
    assert is_augmented(dataset[2]["image"])
    assert [is_augmented(row["image"]) for row in dataset] == [True] * 6
    with pytest.raises(PlacementError, match="3 entries of the sample"):
        dataset[:3]
    assert isinstance(dataset, datasets.Dataset)
    assert dataset.column_names == ["image", "label"]


def test_hugging_face_with_a_transform_that_cannot_be_seen_is_refused(hugging_face, tmp_path):
    for data in (hugging_face.with_transform(normalized), hugging_face.to_iterable_dataset().map(with_tensor)):
        with pytest.raises(PlacementError, match=r"(?s)torch.float32.*`image_key=`.*`inject=False`"):
            check_fit(tmp_path, data)


def with_tensor(row):
    return {"image": to_tensor()(row["image"])}


@pytest.mark.parametrize("on", ["workers"], indirect=True)
def test_hugging_face_with_the_callbacks_transform_put_in_by_hand(hugging_face, tmp_path):
    callback = AugMixCallback(**CERTAIN, inject=False, seed=1)
    pipeline = v1.Compose([callback.transform, v1.ToTensor(), v1.Normalize((0.0,) * 3, (1.0,) * 3)])

    def set_up(rows):
        return {"pixel_values": [pipeline(img) for img in rows["image"]], "label": rows["label"]}

    class Fields(Recorder):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["pixel_values"], batch["label"]), batch_idx)

    module = Fields()
    hugging_face.set_transform(set_up)
    trainer(callback, root=tmp_path).fit(module, DataLoader(hugging_face, batch_size=4))
    assert module.fraction("train") == [1.0, 1.0]


# ---- webdataset -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for index in range(6):
            png = io.BytesIO()
            dim_image(index).save(png, "png")
            for name, content in ((f"{index}.png", png.getvalue()), (f"{index}.cls", str(index).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return str(path)


def web(shard):
    return webdataset.WebDataset(shard, shardshuffle=False).decode("pil").to_tuple("png", "cls")


@pytest.mark.refused_on_device
@pytest.mark.parametrize("workers", WORKERS)
def test_webdataset(workers, shard, tmp_path):
    settings = {"num_workers": min(workers, 1)}  # of one shard
    check_fit(tmp_path, web(shard).map_tuple(v1.PILToTensor(), int), settings, image=0)
    check_fit(tmp_path, web(shard).map_tuple(v1.ToTensor(), int), settings, image=0, image_key=0)
    stages = (
        webdataset.SimpleShardList(shard),
        webdataset.tarfile_to_samples(),
        webdataset.decode("torchrgb8"),
        webdataset.to_tuple("png", "cls"),
    )
    check_fit(tmp_path, webdataset.DataPipeline(*stages), settings, image=0)


@pytest.mark.slow
def test_webdataset_in_spawned_workers(shard, tmp_path):
    settings = {"num_workers": 1, "multiprocessing_context": "spawn"}
    check_fit(tmp_path, web(shard).map_tuple(v1.PILToTensor(), int), settings, image=0, epochs=1)


@pytest.mark.parametrize("on", ["workers"], indirect=True)
def test_webdataset_with_stages_that_hide_the_image_is_refused(shard, tmp_path):
    for data in (web(shard).map_tuple(v1.ToTensor(), int), web(shard).batched(2)):
        with pytest.raises(PlacementError, match=r"(?s)AugMix was not applied: .*WebDataset"):
            check_fit(tmp_path, loader(data, batch_size=None), image=0)


def test_webdatasets_loader_is_refused(shard, tmp_path):
    with pytest.raises(PlacementError, match=r"training loader of type WebLoader.*`inject=False`"):
        trainer(AugMixCallback(), root=tmp_path).fit(Recorder(), webdataset.WebLoader(web(shard), batch_size=2))


# ---- litdata --------------------------------------------------------------------------------------------------------


class Streamed(litdata.StreamingDataset):
    """As litdata's guide writes them."""

    def __init__(self, folder, pipeline):
        super().__init__(folder)
        self.pipeline = pipeline

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "image": self.pipeline(sample["image"])}


@pytest.fixture
def chunks(tmp_path):
    folder = str(tmp_path / "chunks")
    cache = Cache(folder, chunk_bytes="1MB")
    for index in range(6):
        cache[index] = {"image": dim_image(index), "label": index}
    cache.done()
    cache.merge()
    return folder


@pytest.mark.refused_on_device
@pytest.mark.parametrize("workers", WORKERS)
def test_litdata(workers, chunks, tmp_path):
    check_fit(tmp_path, litdata.StreamingDataLoader(Streamed(chunks, to_tensor()), batch_size=3, num_workers=workers))
    check_fit(tmp_path, Streamed(chunks, v1.PILToTensor()), {"num_workers": workers})
    check_fit(tmp_path, Streamed(chunks, normalize), {"num_workers": workers}, image_key="image")


def normalize(img):
    return v1.functional.to_tensor(img)


def test_litdata_read_directly(chunks, augmix):
    for dataset in (litdata.StreamingDataset(chunks), Streamed(chunks, to_tensor())):
        augmented = augment_dataset(dataset, augmix)
        assert is_augmented(augmented[2]["image"])
        assert [is_augmented(sample["image"]) for sample in augmented] == [True] * 6
        assert not is_augmented(dataset[2]["image"])


def test_litdata_with_a_transform_that_cannot_be_seen_is_refused(chunks, tmp_path):
    data = litdata.StreamingDataset(chunks, transform=with_tensor)
    with pytest.raises(PlacementError, match=r"(?s)torch.float32.*StreamingDataset.transform: \[<function with_tensor"):
        check_fit(tmp_path, data)


# ---- timm -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for index in range(6):
        path = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        dim_image(index, (32, 24)).save(path)
    return tmp_path / "images"


NO_NORM = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"is_training": False}, marks=pytest.mark.refused_on_device),
        pytest.param(
            {"is_training": True, "scale": (0.9, 1.0), "color_jitter": None, "re_prob": 1.0, "re_mode": "const"},
            marks=pytest.mark.refused_on_device,
        ),
        {"is_training": True, "scale": (0.9, 1.0), "color_jitter": None, "use_prefetcher": True},
    ],
)
def test_timm(settings, folder, tmp_path):
    dataset = create_dataset("", folder)
    dataset.transform = create_transform((3, 24, 20), **NO_NORM, **settings)
    check_fit(tmp_path, dataset, image=0, seed=1)


def test_timm_erases_after_augmix(folder, augmix):
    dataset = create_dataset("", folder)
    dataset.transform = create_transform((3, 24, 20), is_training=True, re_prob=1.0)
    names = [type(step).__name__ for step in augment_dataset(dataset, augmix).transform.transforms]
    assert names[-4:] == ["AugmentAndMixTransform", "MaybeToTensor", "Normalize", "RandomErasing"]


@pytest.mark.slow
@pytest.mark.refused_on_device
def test_timms_endless_loader_is_augmented_until_it_has_started(folder, tmp_path):
    dataset = create_dataset("", folder)
    settings = {"is_training": True, "color_jitter": None, "scale": (0.9, 1.0), "use_prefetcher": False, **NO_NORM}
    data = create_loader(dataset, (3, 24, 20), 2, num_workers=1, use_multi_epochs_loader=True, **settings)
    check_fit(tmp_path, data, image=0, epochs=3)
    with pytest.raises(PlacementError, match=r"`seed=1` needs worker processes.*MultiEpochsDataLoader"):
        check_fit(tmp_path, data, image=0, seed=1)
    next(iter(data))
    with pytest.raises(PlacementError, match="started its workers"):
        augment_dataloader(data, AugmentAndMixTransform())


# ---- The other package of Lightning ---------------------------------------------------------------------------------


class OtherRecorder(Recording, pytorch_lightning.LightningModule):
    pass


@pytest.mark.parametrize("workers", WORKERS)
def test_the_trainer_of_pytorch_lightning(workers, tmp_path):
    whole, parts = (
        ModelCheckpoint(tmp_path / name, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        for name in ("whole", "parts")
    )

    def fit(saving, callback, epochs, ckpt_path=None):
        module = OtherRecorder()
        run = trainer(
            callback, saving, package=pytorch_lightning, root=tmp_path, max_epochs=epochs, enable_checkpointing=True
        )
        data = pytorch_lightning.LightningDataModule.from_datasets(
            Dim(to_tensor()), Dim(to_tensor()), batch_size=4, num_workers=workers
        )
        run.fit(module, datamodule=data, ckpt_path=ckpt_path)
        run.validate(module, dataloaders=run.train_dataloader, verbose=False)
        assert set(module.fraction("val")) == {0.0}
        return module

    module = fit(whole, AugMixCallback(**CERTAIN), 3)
    assert module.fraction("train") == [1.0, 1.0, 1.0]

    uninterrupted = fit(whole, AugMixCallback(10, seed=1), 3).images()
    fit(parts, AugMixCallback(10, seed=1), 1)
    resumed = fit(parts, AugMixCallback(10, seed=1), 3, tmp_path / "parts" / "epoch=0.ckpt").images()
    assert len(resumed) == 12
    assert resumed.items() <= uninterrupted.items()
    with pytest.warns(UserWarning, match="severity from 10.0 to 5.0"):
        fit(parts, AugMixCallback(5, seed=1), 3, tmp_path / "parts" / "epoch=0.ckpt")
    with pytest.raises(PlacementError, match="AugMix was not applied"):
        fit_closure(tmp_path)


def fit_closure(root):
    run = trainer(AugMixCallback(), package=pytorch_lightning, root=root)
    try:
        run.fit(OtherRecorder(), loader(Closure(to_tensor())))
    finally:
        assert "setup_data" not in vars(run.fit_loop)
