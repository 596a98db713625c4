import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest
from omegaconf import OmegaConf

from commands_fixture import QUICK, QUIET, fixture_of
from lightning_augmix.commands import sweeps, train

pytestmark = QUIET
SMALL = ["--multirun", "augmix=off", "data.train_images=128", "trainer.max_epochs=1", *QUICK]

command = fixture_of("augmix-train", train.main)


def records(folder):
    found = [json.loads(path.read_text()) for path in folder.glob("*/run-*.json")]
    return sorted(found, key=lambda record: record["number"])


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.parent.name != ".hydra" and path.suffix != ".log"}


def ended(printed):
    return re.findall(r"Run (\d) of \d \(([^)]*)\) came to its end before", printed)


def test_the_same_sweep_goes_on_with_the_runs_that_did_not_end(command, tmp_path, capfd):
    arguments = [*SMALL, "model.learning_rate=0.1,-1,0.2"]
    with pytest.raises(SystemExit, match=r"^1 of 3 runs failed\.$"):
        command(*arguments)
    (folder,) = tmp_path.glob("multirun/*/*")
    kept = {number: content(folder / number) for number in ("0", "2")}
    with pytest.raises(SystemExit, match=r"^1 of 3 runs failed\.$"):
        command(*arguments)
    printed = capfd.readouterr()
    assert list(tmp_path.glob("multirun/*/*")) == [folder]
    assert f"Going on with the sweep in multirun/{folder.parent.name}/{folder.name};" in printed.out
    assert printed.err.count("augmix-train: Expected argument `learning_rate`") == 2
    assert ended(printed.out) == [("1", "model.learning_rate=0.1"), ("3", "model.learning_rate=0.2")]
    assert {number: content(folder / number) for number in kept} == kept
    table = printed.out[printed.out.rindex("Runs  ") :]
    assert re.search(r"rate=0\.1 .*%.*\n.*rate=-1.*failed.*\n.*rate=0\.2 .*%", table)


def test_a_sweep_that_has_ended_or_another_one_gets_a_new_folder(command, tmp_path):
    command(*SMALL, "seed=1,2")
    for overrides in (["seed=1,2"], ["seed=1,3"]):
        assert "Going on" not in command(*SMALL, *overrides)
    assert len(list(tmp_path.glob("multirun/*/*"))) == 3


def test_a_sweep_in_a_named_folder_is_not_run_twice(command, tmp_path):
    arguments = [*SMALL, "seed=1,2", "hydra.sweep.dir=named"]
    before = command(*arguments)
    after = command(*arguments)
    assert ended(after) == [("1", "seed=1"), ("2", "seed=2")]
    assert after[after.rindex("Runs  ") :] == before[before.rindex("Runs  ") :]


def test_a_run_that_ended_returns_its_objective_again(command, tmp_path, monkeypatch):
    arguments = [*SMALL, "seed=1", "hydra.sweep.dir=named"]
    returned = []
    monkeypatch.setattr(sweeps, "this_run", lambda: "This run")
    command(*arguments)
    [record] = records(tmp_path / "named")
    assert record["error"] is None
    assert record["objective"] == record["measures"]["held-out accuracy"]
    assert record["seconds"] > 0
    original = train.runs.finished
    monkeypatch.setattr(train.runs, "finished", lambda settings: returned.append(original(settings)) or returned[-1])
    command(*arguments)
    assert returned == [record["objective"]]


def test_the_end_is_expected_by_the_mean_of_the_runs_so_far(command, tmp_path, monkeypatch):
    arguments = [*SMALL, "seed=1,2,3", "hydra.sweep.dir=named"]
    printed = command(*arguments)
    assert re.findall(r"Run (\d) of 3 \(seed=(\d)\)", printed) == [("1", "1"), ("2", "2"), ("3", "3")]
    first, *others = re.findall(r"Run \d of 3 \(seed=\d\)(.*)\.\n", printed)
    assert first == ""
    assert all(other.startswith("; the sweep will end at about ") for other in others)
    for number, seconds in ((0, 1000), (1, 3000)):
        path = tmp_path / "named" / str(number) / f"run-{number}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": seconds}))
    path = tmp_path / "named" / "2" / "run-2.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "error": "lost"}))
    soon = datetime.now() + timedelta(seconds=2000)
    printed = command(*arguments)
    [expected] = re.findall(r"will end at about (\d\d:\d\d on \d{4}-\d\d-\d\d), if", printed)
    assert abs(datetime.strptime(expected, "%H:%M on %Y-%m-%d") - soon) < timedelta(minutes=2)


@pytest.mark.parametrize(
    ("sweeper", "overrides", "is_same"),
    [
        ({"_target_": "hydra._internal.BasicSweeper", "params": None}, ["seed=1,2"], True),
        ({"_target_": "hydra._internal.BasicSweeper", "params": None}, ["seed=2,1"], False),
        ({"_target_": "hydra._internal.BasicSweeper", "params": {"seed": "1,2"}}, ["seed=1,2"], False),
        ({"_target_": "hydra_plugins.optuna.OptunaSweeper", "params": None}, ["seed=1,2"], False),
        ({}, ["seed=1,2"], False),
    ],
)
def test_only_a_sweep_over_the_same_combinations_is_the_same(sweeper, overrides, is_same, tmp_path):
    OmegaConf.save({"hydra": {"sweeper": sweeper, "overrides": {"task": ["seed=1,2"]}}}, tmp_path / "multirun.yaml")
    assert sweeps.is_same_sweep(tmp_path, overrides) == is_same


@pytest.mark.parametrize("damage", [b"", b"hydra: [", b"\xff\xfe"])
def test_a_damaged_note_of_a_sweep_is_another_sweep(damage, tmp_path):
    (tmp_path / "multirun.yaml").write_bytes(damage)
    assert not sweeps.is_same_sweep(tmp_path, ["seed=1,2"])


def test_two_runs_that_are_given_one_folder_do_not_go_on_with_each_other(command, tmp_path, capfd):
    arguments = [*SMALL, "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same"]
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"1 of 2 runs failed\."):
            command(*arguments)
        assert "sweep/same is the folder of another run" in capfd.readouterr().err
    assert "seed=1" in json.loads((tmp_path / "sweep" / "same" / "run-0.json").read_text())["overrides"]


def test_a_run_of_other_settings_is_not_gone_on_with(command, tmp_path, capfd):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.write_text("# @package _global_\nmodel:\n  learning_rate: 0.1\n")
    arguments = [*SMALL, "experiment=mine", "seed=1,2", "hydra.sweep.dir=named", "--config-dir", tmp_path / "conf"]
    command(*arguments)
    assert len(ended(command(*arguments))) == 2
    mine.write_text("# @package _global_\nmodel:\n  learning_rate: 0.2\n")
    kept = content(tmp_path / "named" / "0")
    with pytest.raises(SystemExit, match=r"2 of 4 runs failed\."):
        command(*arguments)
    assert "named/0 has a run with another model: choose another hydra.sweep.dir." in capfd.readouterr().err
    assert content(tmp_path / "named" / "0") == kept


def test_runs_deeper_in_the_folder_are_those_of_another_sweep(command):
    arguments = [*SMALL, "hydra.sweep.dir=named", "hydra.sweep.subdir=group/${hydra.job.num}"]
    command(*arguments, "seed=1")
    with pytest.raises(SystemExit, match="named has the runs of another sweep"):
        command(*arguments, "seed=3")
    assert "Run 1 of 1 came to its end before." in command(*arguments, "seed=1")


@pytest.mark.parametrize("override", ["seed=shuffle(1,2,3)", "model=glob(small*)", "seed=interval(0,1)"])
def test_sweeps_whose_runs_have_other_numbers_the_next_time_do_not_go_on(override, tmp_path):
    sweeper = {"_target_": "hydra._internal.BasicSweeper", "params": None}
    OmegaConf.save({"hydra": {"sweeper": sweeper, "overrides": {"task": [override]}}}, tmp_path / "multirun.yaml")
    assert not sweeps.is_same_sweep(tmp_path, [override])


def test_sweeps_over_files_and_in_random_order_run(command):
    assert "Run 1 of the sweep." in command(*SMALL, "model=glob(small*)")
    printed = command(*SMALL, "seed=shuffle(1,2)")
    assert printed[printed.rindex("Runs  ") :].count("seed=") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"),
    [([], signal.SIGKILL), (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], signal.SIGINT)],
    ids=["one at a time, killed", "two at a time, Ctrl-C"],
)
def test_an_interrupted_sweep_goes_on(launcher, number, tmp_path):
    arguments = [sys.executable, "-m", "lightning_augmix.commands.train", *SMALL, *launcher]
    arguments += ["trainer.max_epochs=8", "data.train_images=1000", "data.num_workers=1", "seed=0,1,2"]
    settings = {"cwd": tmp_path, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(arguments, **settings, start_new_session=True)
    while not list(tmp_path.glob("multirun/*/*/1/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    printed = process.communicate(timeout=100)[0]
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "augmix-train: interrupted; the same command goes on with the sweep." in printed
        # A thread of Python's, with which loaders hand over tensors, may print that the other process is gone.
        of_python = r"Traceback [^\n]*\n  File [^\n]*resource_sharer\.py[^\n]*in _serve\n(?: [^\n]*\n)*[^\n]*\n"
        assert "Traceback" not in re.sub(of_python, "", printed)
    (folder,) = tmp_path.glob("multirun/*/*")
    before = {record["number"] for record in records(folder) if record["error"] is None}
    assert 1 not in before
    again = subprocess.run(arguments, **settings, timeout=300)
    assert again.returncode == 0, again.stdout
    assert list(tmp_path.glob("multirun/*/*")) == [folder]
    assert {int(run) - 1 for run, _ in ended(again.stdout)} == before
    assert re.search(r"Restored all states from the checkpoint at .*/1/checkpoints/last\.ckpt", again.stdout)
    assert [record["error"] for record in records(folder)] == [None] * 3
    steps = [line.split(",")[1] for line in (folder / "1" / "logs" / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(steps, key=int)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "threads"),
    [(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], {}), (["cluster=local"], {"OMP_NUM_THREADS": "1"})],
    ids=["joblib", "submitit"],
)
def test_runs_at_the_same_time_share_the_processors_and_give_what_one_alone_gives(launcher, threads, tmp_path):
    arguments = [sys.executable, "-m", "lightning_augmix.commands.train", *SMALL, "data.num_workers=1", "seed=0,1"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*arguments, "hydra.sweep.dir=one"], cwd=tmp_path, env=alone, check=True)

    together = {name: value for name, value in alone.items() if name != "OMP_NUM_THREADS"} | threads
    subprocess.run([*arguments, "hydra.sweep.dir=two", *launcher], cwd=tmp_path, env=together, check=True)

    for seed in ("0", "1"):
        one, two = (tmp_path / name / seed / "logs" / "metrics.csv" for name in ("one", "two"))
        assert one.read_text() == two.read_text()


@pytest.mark.slow
def test_a_bad_run_among_several_at_the_same_time_ends_alone(tmp_path):
    arguments = [sys.executable, "-m", "lightning_augmix.commands.train", *SMALL, "model.learning_rate=0.1,-1"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=two"]
    run = subprocess.run([*arguments, *launcher], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert run.returncode == 1
    assert "1 of 2 runs failed." in run.stderr
    assert "augmix-train: Expected argument `learning_rate`" in run.stderr
    assert "Traceback" not in run.stderr
    assert [record["error"] is None for record in records(tmp_path / "two")] == [True, False]


@pytest.mark.slow
def test_a_sweep_that_measures_corruptions_ends_with_a_picture_of_both_errors(command, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(sweeps, "save_figure", lambda figure, path: figures.append((figure, path)))
    printed = command(
        "--multirun",
        "augmix.severity=1,5",
        "augmix.width=2",
        "augmix.augmentation_set=safe,all",
        "objective=corrupted_accuracy",
        "data.train_images=64",
        "trainer.max_epochs=1",
        "hydra.sweep.dir=sweep",
        *QUICK,
    )
    ((figure, path),) = figures
    assert str(path) == "sweep/sweep.png"
    assert "Clean against corrupted error: sweep/sweep.png" in printed
    (axes,) = figure.axes
    drawn = {
        text.get_text(): axes.collections[0].get_offsets()[number].tolist() for number, text in enumerate(axes.texts)
    }
    assert drawn.keys() == {f"{severity}, {name}" for severity in (1, 5) for name in ("safe", "all")}
    for record in records(tmp_path / "sweep"):
        values = ", ".join(each.partition("=")[2] for each in record["overrides"][:3:2])  # not the width, which is one
        clean, corrupted = (1 - record["measures"][name] for name in ("held-out accuracy", "corrupted accuracy"))
        assert drawn[values] == pytest.approx([100 * clean, 100 * corrupted])


def test_a_sweep_that_measures_no_corruptions_has_no_picture(command, tmp_path):
    command(*SMALL, "seed=1,2", "hydra.sweep.dir=sweep")
    assert not (tmp_path / "sweep" / "sweep.png").exists()
