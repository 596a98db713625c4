import json

import pytest
import torch
from PIL import Image

from commands_fixture import fixture_of
from lightning_augmix.commands import bench, benchmark, device_benchmark
from lightning_augmix.engines import torch_engine
from lightning_augmix.operations import OPERATIONS
from toy import dim_image

QUICK = ["sizes=[12,16]", "seconds=0.01"]


command = fixture_of("augmix-bench", bench.main)


def written(root):
    """The folder of the command, and what it wrote as JSON."""
    (folder,) = root.glob("outputs/*/*")
    return folder, json.loads((folder / "bench.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_it_prints_tables_and_a_sentence_and_writes_figures_and_a_chart(workers, command, tmp_path):
    printed = " ".join(command(*QUICK, f"workers={workers}").split())
    for words in (
        "AugMix, 12×12",
        "AugMix, 16×16",
        "JPEG loader, 224×224",
        "JPEG loader, 32×32",
        "with numba, views=2",
        "torchvision v2",
        "timm",
        "from about num_workers=",
    ):
        assert words in printed
    folder, found = written(tmp_path)
    times = found["milliseconds"]
    assert found["machine"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert times.keys() == {"12×12", "16×16", "operations", "JPEG loader, 224×224", "JPEG loader, 32×32"}
    assert times["operations"].keys() == {f"{name}, {engine}" for name in OPERATIONS for engine in ("numba", "pillow")}
    assert all(value > 0 for part in times.values() for value in part.values())
    with Image.open(folder / "bench.png") as chart:
        assert chart.width > chart.height > 100


def test_on_a_device_it_compares_bytes_and_times_batches_steps_and_loaders(command, tmp_path):
    printed = " ".join(command("device=cpu", "sizes=[16,224]", "seconds=0.01").split())
    for words in (
        "AugMix, 16×16, batches of 256",
        "torchvision v2, one plan a batch",
        "0 bytes differ from the reference's. numba augments",
        "A training step takes",
        "for the device",
    ):
        assert words in printed
    _, found = written(tmp_path)
    assert found["different_bytes"] == {"torch": 0, "numba": 0}
    assert found["copied_bytes_per_second"] > 1e8
    # Two operations in each of three chains, on average, each read and written.
    assert 13 < found["bytes_per_image_224"] / (3 * 224**2) < 22
    assert {"with AugMix", "without AugMix"} == found["milliseconds"]["Training step, ResNet-50, bf16"].keys()


def test_an_engine_with_other_bytes_is_found(monkeypatch):
    monkeypatch.setattr(torch_engine, "_mixed", lambda images, chains, weights: images)
    differ = device_benchmark.different_bytes(torch.device("cpu"))
    assert differ["torch"] > 0
    assert differ["numba"] == 0


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("sizes=[0]", "`sizes` to be an integer, at least 1; got 0 (in a list, such as [224])"),
        ("sizes=224", "`sizes` to be a list of integers, such as [224]; got 224"),
        ("sizes=null", "`sizes` to be a list of integers, such as [224]; got None"),
        ("sizes=[true]", "`sizes` to be an integer, at least 1; got True of type bool"),
        ("workers=-1", "`workers` to be an integer, at least 0; got -1"),
        ("seconds=inf", "`seconds` to be a real number above 0; got inf"),
        ("seconds=0", "`seconds` to be a real number above 0; got 0"),
        ("images_per_second=many", "`images_per_second` to be a real number above 0; got 'many'"),
        ("device=gpu", "`device` to be cpu, cuda or null; got 'gpu'"),
        *([] if torch.cuda.is_available() else [("device=cuda", "where torch finds no CUDA device; got 'cuda'")]),
        ("folder=nowhere", "Expected `folder` to be a folder with images, or none; got 'nowhere'"),
        ("second=1", "There is no key 'second' (did you mean seconds?)"),
    ],
)
def test_bad_values_end_with_one_line(argument, words, command):
    with pytest.raises(SystemExit) as stopped:
        command(argument)
    assert words in str(stopped.value.code)


def test_the_sentence_counts_processes():
    times = {"without AugMix": 2.0, "with numba": 2.3, "with numba, views=2": 3.5}
    sentence = bench._in_words(times, 0, 1000)
    assert "takes 2.00 ms without AugMix, 2.30 ms with it (+15 %)" in sentence
    assert "and 3.50 ms with two views for JSDLoss (+75 %) (1 process)" in sentence
    assert "from about num_workers=3 on, 4 with views, and 2 without AugMix." in sentence
    assert "from about num_workers=7 on, 11 with views, and 6 without AugMix." in bench._in_words(times, 3, 1000)
    assert "1.90 ms with it (-5 %)" in bench._in_words({**times, "with numba": 1.9}, 0, 1000)


def test_photographs_of_ones_own(tmp_path):
    (tmp_path / "within").mkdir()
    dim_image(0).convert("L").save(tmp_path / "within" / "a.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "notes.pdf").write_text("none that Pillow reads")
    (tmp_path / "folder.jpg").mkdir()
    (photograph,) = benchmark.photographs(str(tmp_path))
    assert (photograph.mode, photograph.size) == ("RGB", (10, 12))
    assert len(benchmark.photographs(None)) == 2
