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
from test_published import write_cifar_c

from commands_fixture import fixture_of
from lightning_augmix import RobustnessReport
from lightning_augmix.commands import evaluate, train
from lightning_augmix.robustness.published import CORRUPTIONS
from toy import BatchSizes

QUICK = ["trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "data.num_workers=0"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:The `.*_dataloader` does not have many workers"),
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of two runs: without AugMix, and with views."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, augmix in (("standard", "augmix=off"), ("jsd", "augmix=jsd")):
            short = ["trainer.max_epochs=1", "data.train_images=128", f"hydra.run.dir={name}"]
            patch.setattr(sys, "argv", ["augmix-train", augmix, *short, *QUICK])
            train.main()
    return [root / name / "checkpoints" / "last.ckpt" for name in ("standard", "jsd")]


command = fixture_of("augmix-evaluate", evaluate.main)


def files(tmp_path):
    (folder,) = tmp_path.glob("outputs/*/*")
    return folder


def test_a_checkpoint_on_published_files(command, checkpoints, tmp_path):
    write_cifar_c(tmp_path / "c")
    printed = command(f"ckpt_path={checkpoints[1]}", "corruptions=c", *QUICK)
    assert "Error in %, jsd" in printed
    folder = files(tmp_path)
    report = RobustnessReport.load(folder / "jsd.json")
    assert tuple(report.errors) == CORRUPTIONS
    assert "solarize" in report.operations
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
        [report.clean_error, report.mean_corruption_error, report.clean.rms_error, report.corrupted.rms_error]
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


@pytest.mark.slow
def test_several_checkpoints_on_computed_corruptions(command, checkpoints, tmp_path):
    both = ",".join(map(str, checkpoints))
    printed = command(f"ckpt_path=[{both}]", "names=[plain,consistent]", "processes=2", *QUICK)
    assert "plain" in printed.split("Error and RMS calibration error in %")[1]
    folder = files(tmp_path)
    reports = [json.loads((folder / f"{name}.json").read_text()) for name in ("plain", "consistent")]
    assert [bool(report["operations"]) for report in reports] == [False, True]
    assert reports[0]["clean"] != reports[1]["clean"]
    corrupted = tmp_path / "data" / "corrupted" / "digits"
    assert np.load(corrupted / "fog.npy").shape == (5 * 360, 8, 8)
    written = (corrupted / "fog.npy").stat().st_mtime
    command(f"ckpt_path={checkpoints[0]}", "hydra.run.dir=again", *QUICK)
    assert (corrupted / "fog.npy").stat().st_mtime == written
    assert json.loads((tmp_path / "again" / "standard.json").read_text())["errors"] == reports[0]["errors"]


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
        (["ckpt_path={checkpoint}", "names=a/b"], r"without slashes; got \['a/b'\]"),
        (["ckpt_path={checkpoint}", "corruptions=null"], "Expected corruptions to be a folder; got None"),
        (["ckpt_path={checkpoint}", "cache=3"], "Expected cache to be a folder; got 3"),
        (["ckpt_path={checkpoint}", "names=[a,b,c]"], r"each of the 1 checkpoints; got \['a', 'b', 'c'\]"),
        (
            ["ckpt_path={checkpoint}", "corruptions=c", "+trainer.limit_test_batches=1"],
            "`trainer` to test with all images",
        ),
        (["ckpt_path={checkpoint}", "seed=x"], "`seed` to be an integer, at least 0; got 'x'"),
        (["ckpt_path={checkpoint}", "processes=0"], "`processes` to be an integer, at least 1; got 0"),
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


def test_what_is_no_checkpoint_of_ours_is_an_error(command, tmp_path):
    import torch

    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit, match=r"other\.ckpt is not a checkpoint of augmix-train"):
        command("ckpt_path=other.ckpt", *QUICK)
