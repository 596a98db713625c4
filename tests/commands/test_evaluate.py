import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import write_parts
from test_published import write_cifar_c
from test_sequences import write_cifar_p

from commands_fixture import QUICK, QUIET, fixture_of, train_in
from lightning_augmix import RobustnessReport
from lightning_augmix.commands import evaluate, train
from lightning_augmix.commands.data import Digits
from lightning_augmix.robustness.published import CORRUPTIONS
from toy import BatchSizes

pytestmark = QUIET


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of two runs: without AugMix, and with views."""
    root = tmp_path_factory.mktemp("runs")
    return [train_in(root, "standard", "augmix=off"), train_in(root, "jsd", "augmix=jsd")]


command = fixture_of("augmix-evaluate", evaluate.main)


def digest_of_digits():
    digits = Digits(train=False)
    return hashlib.sha256(digits.data.tobytes() + np.array(digits.targets).tobytes()).hexdigest()[:16]


def files(tmp_path):
    (folder,) = tmp_path.glob("outputs/*/*")
    return folder


def test_a_checkpoint_on_published_files(command, checkpoints, tmp_path):
    write_cifar_c(tmp_path / "c")
    printed = command(f"ckpt_path={checkpoints[1]}", "corruptions=c", *QUICK)
    assert "Error in %, jsd" in printed
    assert "Measured on 360 images of digits; corruptions from c (CIFAR-10-C's format)." in " ".join(printed.split())
    folder = files(tmp_path)
    report = RobustnessReport.load(folder / "jsd.json")
    assert tuple(report.errors) == CORRUPTIONS
    assert "solarize" in report.operations
    assert (report.data, report.images, report.source) == ("digits", 360, "c (CIFAR-10-C's format)")
    assert report.digest == digest_of_digits()
    assert report.overlapping == ()
    assert {path.name for path in folder.glob("*.*")} >= {"jsd.json", "jsd.csv", "errors.png", "reliability.png"}


def test_runs_of_one_kind_are_a_row_and_overrides_arrive(command, checkpoints, tmp_path):
    write_cifar_c(tmp_path / "c")
    both = ",".join(map(str, checkpoints))
    BatchSizes.seen.clear()
    printed = command(
        f"ckpt_path=[{both}]",
        "names=['[a]-seed0','[a]-seed1']",
        "corruptions=c",
        "data.batch_size=50",
        "+trainer.callbacks=[{_target_: toy.BatchSizes}]",
        *QUICK,
    )
    assert set(BatchSizes.seen) == {50, (360 + 75 * 4) % 50}
    reports = [RobustnessReport.load(files(tmp_path) / f"[a]-seed{seed}.json") for seed in range(2)]
    columns = [
        [
            report.clean_error,
            report.mean_corruption_error,
            report.excess_error,
            report.clean.rms_error,
            report.corrupted.rms_error,
        ]
        for report in reports
    ]
    [row] = [line for line in printed.splitlines() if line.startswith("│ [a] ")]
    cells = [cell.strip() for cell in row.split("│")[2:-1]]
    assert cells == [f"{100 * fmean(pair):.2f} ± {100 * stdev(pair):.2f}" for pair in zip(*columns, strict=True)]


def test_a_report_is_named_for_the_folder_of_its_run(command, checkpoints, tmp_path, monkeypatch):
    write_cifar_c(tmp_path / "c")
    run = tmp_path / "my=[run]"
    shutil.copytree(checkpoints[0].parent, run / "checkpoints")
    (run / "logs").mkdir()
    command(f"ckpt_path='{run}/logs/../checkpoints/last.ckpt'", "corruptions=c", "hydra.run.dir=out", *QUICK)
    assert (tmp_path / "out" / "my=[run].json").exists()
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".hydra-evaluate"]  # .hydra is of trainings


def test_a_part_and_sequences_of_published_files(command, checkpoints, tmp_path):
    digits = Digits(train=False)
    write_cifar_c(tmp_path / "c", count=360)
    np.save(tmp_path / "c" / "labels.npy", np.tile(digits.targets, 5))
    write_cifar_p(tmp_path / "p", count=360)
    both = ",".join(map(str, checkpoints))
    printed = command(
        f"ckpt_path=[{both}]", "names=[a-seed0,a-seed1]", "corruptions=c", "sequences=p", "limit=30", *QUICK
    )
    reports = [RobustnessReport.load(files(tmp_path) / f"a-seed{seed}.json") for seed in (0, 1)]
    assert [(report.images, report.part_of) for report in reports] == [(30, 360)] * 2
    table = printed.split("Error, flips and RMS calibration error in %")[1]
    assert table.split("flips")[0].count("corrupted") == 2
    rates = [report.mean_flip_rate for report in reports]
    assert f"{100 * fmean(rates):.2f} ± {100 * stdev(rates):.2f}" in table
    assert "30 of the 360 images of digits, stratified; corruptions from c (CIFAR-10-C's format); sequences from p" in (
        " ".join(printed.split())
    )


@pytest.mark.slow
def test_a_part_and_sequences_that_are_computed(command, checkpoints, tmp_path):
    command(f"ckpt_path={checkpoints[0]}", "sequences=computed", "limit=30", "seed=3", "processes=1", *QUICK)
    corrupted = tmp_path / "data" / "corrupted" / "digits-limit-30"
    assert np.load(corrupted / "fog.npy").shape == (5 * 30, 8, 8)
    labels = np.load(corrupted / "labels.npy")[:30]
    assert np.bincount(labels).tolist() == [3] * 10
    report = RobustnessReport.load(files(tmp_path) / "standard.json")
    assert (report.images, report.part_of, len(report.flip_rates)) == (30, 360, 10)
    assert report.sequences == "computed at CIFAR-10-P's strengths, seed 3, 30 each"


@pytest.mark.slow
def test_several_checkpoints_on_computed_corruptions(command, checkpoints, tmp_path):
    both = ",".join(map(str, checkpoints))
    printed = command(f"ckpt_path=[{both}]", "names=[plain,consistent]", "processes=2", *QUICK)
    comparison = printed.split("Error and RMS calibration error in %")[1]
    assert "plain" in comparison
    assert "excess" in comparison
    folder = files(tmp_path)
    reports = [json.loads((folder / f"{name}.json").read_text()) for name in ("plain", "consistent")]
    assert [bool(report["operations"]) for report in reports] == [False, True]
    assert reports[0]["clean"] != reports[1]["clean"]
    for report in reports:
        assert (report["data"], report["strengths"], report["seed"]) == ("digits", "CIFAR-10-C", 0)
        assert report["digest"] == digest_of_digits()
    corrupted = tmp_path / "data" / "corrupted" / "digits"
    assert np.load(corrupted / "fog.npy").shape == (5 * 360, 8, 8)
    written = (corrupted / "fog.npy").stat().st_mtime
    command(f"ckpt_path={checkpoints[0]}", "hydra.run.dir=again", *QUICK)
    assert (corrupted / "fog.npy").stat().st_mtime == written
    assert json.loads((tmp_path / "again" / "standard.json").read_text())["errors"] == reports[0]["errors"]
    with pytest.raises(SystemExit, match="data/corrupted/digits holds corruptions of different strengths"):
        command(f"ckpt_path={checkpoints[0]}", "strengths=imagenet", *QUICK)


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_computed_and_nothing_in_parts(checkpoints, tmp_path):
    arguments = [f"ckpt_path={checkpoints[0]}", "cache=cache", *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_augmix.commands.evaluate", *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Python leaves interrupts alone where it was started with them ignored, as by `pytest &` in a script.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    first = tmp_path / "cache" / "digits" / f"{CORRUPTIONS[0]}.npy"
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the pool's processes too
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "augmix-evaluate: interrupted." in printed
    assert "Traceback" not in printed
    assert np.load(first).shape == (5 * 360, 8, 8)
    kept = {path.stem for path in first.parent.glob("*.npy")}
    assert kept < {"clean", "labels", *CORRUPTIONS}
    assert not list(first.parent.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ckpt_path=nowhere.ckpt"], "Expected ckpt_path to be a checkpoint file of augmix-train.*'nowhere.ckpt'"),
        ([], r"Expected ckpt_path to be a checkpoint file of augmix-train.*got None"),
        (["ckpt_path={checkpoint}", "corruptions=nowhere"], "nowhere is not a folder"),
        (["ckpt_path=[{checkpoint},{checkpoint}]"], "Expected names to have a unique name for each of the 2"),
        (["ckpt_path={checkpoint}", "names=[a,b]"], "Expected names to have a unique name"),
        (["ckpt_path={checkpoint}", "names=[a/b]"], "Expected names to be file names, without slashes"),
        (["ckpt_path=[]"], r"Expected ckpt_path to be a checkpoint file.*got \[\]"),
        (["ckpt_path={checkpoint}", "names=" + 251 * "n"], r"at most 250 bytes; got 'nnn.* \(pass names=\[…\]\)"),
        (["ckpt_path={checkpoint}", f"names='{126 * 'é'}'"], "at most 250 bytes; got 'ééé"),
        (["ckpt_path={checkpoint}", "names=a/b"], r"without slashes; got \['a/b'\]"),
        (["ckpt_path={checkpoint}", "corruptions=null"], "Expected corruptions to be a folder; got None"),
        (["ckpt_path={checkpoint}", "cache=3"], "Expected cache to be a folder; got 3"),
        (["ckpt_path={checkpoint}", "names=[a,b,c]"], r"each of the 1 checkpoints; got \['a', 'b', 'c'\]"),
        (
            ["ckpt_path={checkpoint}", "corruptions=c", "+trainer.limit_test_batches=1"],
            "`trainer` to test with all images",
        ),
        (["ckpt_path={checkpoint}", "download=maybe"], "`download` to be True or False; got 'maybe'"),
        (["ckpt_path={checkpoint}", "corruptions=nowhere", "download=true"], "is named CIFAR-10-C, .*; got nowhere"),
        (["ckpt_path={checkpoint}", "strengths=weak"], "`strengths` to be 'auto', 'cifar', .*; got 'weak'"),
        (["ckpt_path={checkpoint}", "seed=x"], "`seed` to be an integer, at least 0; got 'x'"),
        (["ckpt_path={checkpoint}", "processes=0"], "`processes` to be an integer, at least 1; got 0"),
        (["ckpt_path={checkpoint}", "limit=0"], "`limit` to be an integer, at least 1; got 0"),
        (["ckpt_path={checkpoint}", "sequences=3"], "Expected sequences to be a folder; got 3"),
        (
            ["ckpt_path={checkpoint}", "corruptions=c", "sequences=nowhere"],
            "CIFAR-10-P's .*nowhere is not a folder",
        ),
        (["ckpt_path=3"], "Expected ckpt_path to be a checkpoint file"),
        (["ckpt_path={checkpoint}", "data.batch_size=0"], "batch_size"),
        (["ckpt_path={checkpoint}", "batch_sise=3"], "batch_sise"),
    ],
)
def test_mistakes_are_one_line(arguments, message, command, checkpoints, tmp_path, capfd):
    write_cifar_c(tmp_path / "c")
    with pytest.raises(SystemExit, match=f"(?s)augmix-evaluate: .*{message}") as caught:
        command(*(argument.format(checkpoint=checkpoints[0]) for argument in arguments), *QUICK)
    assert len(str(caught.value).splitlines()) == 1


def test_an_accelerator_that_is_not_there_is_told_before_corruptions_are_computed(command, checkpoints, tmp_path):
    with pytest.raises(SystemExit, match=r"^augmix-evaluate: No supported gpu backend found!$"):
        command(f"ckpt_path={checkpoints[0]}", "trainer.accelerator=gpu")
    assert not (tmp_path / "data").exists()


def test_unknown_keys_are_refused(command, checkpoints):
    with pytest.raises(SystemExit, match=r"There is no key 'cach' \(did you mean cache\?\)"):
        command(f"ckpt_path={checkpoints[0]}", "+cach=here")


def test_a_cache_that_cannot_be_written_is_one_line(command, checkpoints):
    with pytest.raises(SystemExit, match=r"^augmix-evaluate: .*/proc/cache") as stopped:
        command(f"ckpt_path={checkpoints[0]}", "cache=/proc/cache")
    assert "\n" not in str(stopped.value.code)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_ends_with_its_worker_processes(number, status, checkpoints, tmp_path):
    arguments = [f"ckpt_path={checkpoints[0]}", "processes=2", "data.num_workers=0"]
    run = subprocess.Popen(
        [sys.executable, "-m", "lightning_augmix.commands.evaluate", *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("data/corrupted/digits/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    run.send_signal(number)
    printed = run.communicate(timeout=60)[0]
    assert run.returncode == status, printed
    assert "Traceback" not in printed
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)


@pytest.fixture
def of_folders(checkpoints, tmp_path):
    """Makes a checkpoint that says it was trained on a folder of images."""

    def make(name, root, images=1, size=16, turn=0, parts=("train", "test"), **settings):
        for part in parts:
            for number in range(images):
                path = tmp_path / root / part / "ant" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.linear_gradient("L").resize((20, 20)).rotate(turn + 9 * number).save(path)
        state = torch.load(checkpoints[0], weights_only=True)
        state["datamodule_hyper_parameters"] |= {
            "dataset": "image_folder",
            "root": str(tmp_path / root),
            "classes": ["ant", *map(str, range(9))],
            "image_size": size,
            **settings,
        }
        torch.save(state, tmp_path / f"{name}.ckpt")
        return tmp_path / f"{name}.ckpt"

    return make


DIGESTS = r"digest of clean images \(\w{16} and \w{16}\)"


@pytest.mark.parametrize(
    ("other", "corruptions", "differ"),
    [
        (None, "computed", r"data \(digits and image_folder a/test at 16 pixels\), images \(360 and 1\)"),
        (None, "c", r"data \(digits and image_folder a/test\), images \(360 and 1\)"),
        ({"root": "b"}, "c", r"data \(image_folder b/test and image_folder a/test\)"),
        ({"root": "b/a", "images": 2}, "c", r"images \(2 and 1\)"),
        ({"root": "a", "size": 24}, "computed", r"data \(.* at 24 pixels and .* at 16 pixels\)"),
        ({"root": "a", "size": 24}, "c", None),
        ({"root": "a", "crop": "resized"}, "computed", rf"{DIGESTS}, data\.crop \(resized and pad\)"),
        ({"root": "a", "crop": "resized"}, "c", None),
        ({"root": "b/a", "turn": 90}, "computed", rf"{DIGESTS}, data\.root \(.*/b/a and .*/a\)"),
        ({"root": "b/a", "turn": 90}, "c", rf"{DIGESTS}, data\.root \(.*/b/a and .*/a\)"),
        ({"root": "b/a"}, "c", None),
        (
            {"root": "a", "classes": ["aardvark", "ant", *map(str, range(8))]},
            "c",
            rf"{DIGESTS}, data\.classes \(\['aardvark', 'ant', .*\.\.\.\]\)",
        ),
    ],
)
def test_checkpoints_of_different_images_are_refused_before_any_is_measured(
    other, corruptions, differ, command, checkpoints, of_folders, tmp_path, monkeypatch
):
    write_cifar_c(tmp_path / "c")
    first = checkpoints[0] if other is None else of_folders("first", **other)
    second = of_folders("second", "a")

    def measured(*args, **settings):
        raise ValueError("measured")

    monkeypatch.setattr("lightning_augmix.robustness.evaluate.evaluate_robustness", measured)
    message = "measured$" if differ is None else rf"x and y differ in {differ}: compare those that agree\.$"
    with pytest.raises(SystemExit, match=f"^augmix-evaluate: .*{message}"):
        command(f"ckpt_path=[{first},{second}]", "names=[x,y]", f"corruptions={corruptions}", *QUICK)


@pytest.mark.parametrize("corruptions", ["computed", "c"])
def test_checkpoints_that_held_out_other_images_are_refused(corruptions, command, of_folders, tmp_path):
    write_cifar_c(tmp_path / "c")
    first, second = (
        of_folders(f"s{seed}", "a", images=20, parts=["train"], classes=["ant"], seed=seed) for seed in range(2)
    )
    with pytest.raises(SystemExit, match=rf"x and y differ in {DIGESTS}, data\.seed \(0 and 1\): compare"):
        command(f"ckpt_path=[{first},{second}]", "names=[x,y]", f"corruptions={corruptions}", *QUICK)


@pytest.mark.slow
def test_names_of_folders_are_escaped(command, checkpoints, tmp_path):
    write_cifar_c(tmp_path / "c\x1b[2J")
    run = tmp_path / "run\x1b[31m[red]"
    shutil.copytree(checkpoints[0].parent, run / "checkpoints")
    printed = command(
        f"ckpt_path=['{run}/checkpoints/last.ckpt','{checkpoints[1]}']",
        "corruptions='c\x1b[2J'",
        "hydra.run.dir='out\x1b[2J'",
        *QUICK,
    )
    assert "\x1b" not in printed
    assert printed.count(r"run\x1b[31m[red]") >= 2
    assert RobustnessReport.load(tmp_path / "out\x1b[2J" / r"run\x1b[31m[red].json").name == r"run\x1b[31m[red]"


def test_names_of_folders_in_errors_are_escaped(command, tmp_path):
    with pytest.raises(SystemExit, match=r"^augmix-evaluate: .*got 'a\\x1b\[2J'") as caught:
        command("ckpt_path='a\x1b[2J'", *QUICK)
    assert str(caught.value).isprintable()


def test_what_is_no_checkpoint_of_ours_is_an_error(command, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit, match=r"other\.ckpt is not a checkpoint of augmix-train"):
        command("ckpt_path=other.ckpt", *QUICK)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of a run on folders, and the folders; the test folder lacks the first class."""
    root = tmp_path_factory.mktemp("folders")
    write_parts(root, train="abc", test="bc")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        arguments = ["data=image_folder", "data.root=.", "augmix=off", "trainer.max_epochs=1", "hydra.run.dir=run"]
        patch.setattr(sys, "argv", ["augmix-train", *arguments, *QUICK])
        train.main()
    return root / "run" / "checkpoints" / "last.ckpt", root


def evaluated(monkeypatch, command, *arguments):
    """What is handed on to be measured."""
    handed = []

    def measure(model, data, *others, **settings):
        handed.append((data, others[1]))
        raise ValueError("enough")

    monkeypatch.setattr("lightning_augmix.robustness.evaluate.evaluate_robustness", measure)
    monkeypatch.setattr(evaluate, "_corrupted", lambda cfg, data: None)
    with pytest.raises(SystemExit, match="enough"):
        command(*arguments, *QUICK)
    return handed[0]


def test_the_numbers_of_the_classes_are_those_of_training(command, folders, tmp_path, monkeypatch):
    checkpoint, root = folders
    shutil.copytree(root / "test", tmp_path / "new" / "test")  # alone, without training images
    data, _ = evaluated(monkeypatch, command, f"ckpt_path={checkpoint}", "data.root=new")
    assert set(data.targets) == {1, 2}
    assert data[0][0].shape == (3, 32, 32)


def older(checkpoint, path, **changes):
    """A checkpoint as earlier versions wrote them."""
    saved = torch.load(checkpoint)
    hyperparameters = {**saved["datamodule_hyper_parameters"], **changes}
    saved["datamodule_hyper_parameters"] = {
        key: value for key, value in hyperparameters.items() if key not in ("crop", "classes")
    }
    torch.save(saved, path)
    return path


def test_checkpoints_of_earlier_versions_crop_as_they_did(command, folders, tmp_path, monkeypatch):
    checkpoint, root = folders
    path = older(checkpoint, tmp_path / "old.ckpt", image_size=224)
    data, _ = evaluated(monkeypatch, command, f"ckpt_path={path}", f"data.root={root}")
    resize = next(step for step in data.transform.transforms if type(step).__name__ == "Resize")
    assert resize.size == [256]
    assert set(data.targets) == {1, 2}


def test_checkpoints_of_earlier_versions_are_compared(command, checkpoints, tmp_path, monkeypatch):
    path = older(checkpoints[0], tmp_path / "old.ckpt")
    data, _ = evaluated(monkeypatch, command, f"ckpt_path=[{path},{checkpoints[0]}]", "names=[old,new]")
    assert len(data) == 360


def test_data_with_another_number_of_classes_are_refused(command, folders, tmp_path):
    path = older(folders[0], tmp_path / "old.ckpt")
    write_parts(tmp_path, train="abcd", test="abcd")
    with pytest.raises(SystemExit, match=r"old\.ckpt knows 3 classes, its data have 4"):
        command(f"ckpt_path={path}", f"data.root={tmp_path}", *QUICK)
