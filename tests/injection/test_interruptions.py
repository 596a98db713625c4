"""A fit that is interrupted and resumed, however often, shows the images of the uninterrupted one."""

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from interruptions import (
    Interruption,
    Setting,
    follow,
    next_checkpoint,
    random_chain,
    uninterrupted_images,
)

# Lightning's advice on modules that override many hooks, and on checkpoints within an epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

#: More with AUGMIX_CHAINS=1000, to look for what is rare.
CHAINS = int(os.environ.get("AUGMIX_CHAINS", "40"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return uninterrupted_images(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("unit", ["epochs", "steps"])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("kind", ["exception", "requeue"])
@pytest.mark.parametrize(
    "hook", ["on_train_batch_start", "training_step", "optimizer_step", "on_train_batch_end", "on_train_epoch_end"]
)
def test_interrupted_while_the_last_batch_of_an_epoch_is_in_work(hook, kind, scheduled, unit, images, tmp_path):
    setting = Setting(unit=unit, scheduled=scheduled)
    count = 2 if hook == "on_train_epoch_end" else 2 * setting.batches
    _, complaint = follow(setting, [Interruption(kind, hook, count)], images, tmp_path)
    assert complaint is None


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("kind", ["exception", "requeue"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("hook", ["on_after_batch_transfer", "validation_step", "on_validation_end"])
def test_interrupted_in_the_sanity_check_of_a_resumed_run(hook, count, kind, scheduled, images, tmp_path):
    # Lightning has one where the checkpoint was written at the end of an epoch.
    setting = Setting(scheduled=scheduled, saving={"save_on_train_epoch_end": True})
    chain = [Interruption("limit", "", 2 * setting.batches), Interruption(kind, hook, count)]
    _, complaint = follow(setting, chain, images, tmp_path)
    assert complaint is None


@pytest.mark.parametrize("batch_size", [2, 8])
def test_interrupted_in_the_batch_that_lightning_adds_to_an_epoch(batch_size, images, tmp_path):
    # With `max_steps` and no validation, a resume from the end of an epoch has a pass of one batch.
    setting = Setting("steps", batch_size, saving={"save_on_train_epoch_end": True}, trainer={"limit_val_batches": 0})
    chain = [Interruption("exception", "on_train_epoch_end", 2), Interruption("exception", "optimizer_step", 1)]
    _, complaint = follow(setting, chain, images, tmp_path)
    assert complaint is None


def test_interrupted_in_the_only_batch_of_an_epoch_after_lightning_has_lost_count(images, tmp_path):
    chain = [
        Interruption("exception", "on_train_batch_end", 2),
        Interruption("exception", "on_before_optimizer_step", 2),
    ]
    _, complaint = follow(Setting(batch_size=8, trainer={"limit_val_batches": 0}), chain, images, tmp_path)
    assert complaint is None


@pytest.mark.parametrize("seed", range(CHAINS))
def test_chains_of_interruptions(seed, images, tmp_path):
    _, complaint = follow(*random_chain(seed), images, tmp_path)
    assert complaint is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1000 + CHAINS // 4))
def test_chains_of_interruptions_with_workers(seed, images, tmp_path):
    _, complaint = follow(*random_chain(seed, workers=(2,)), images, tmp_path)
    assert complaint is None


PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from interruptions import Interruption, Setting, run

if __name__ == "__main__":
    setting, interruption, number, folder, ckpt_path = json.loads(sys.argv[2])
    run(Setting(**setting), Interruption(**interruption), number, Path(folder), ckpt_path, kill=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 4, 6])
def test_a_process_that_is_killed(count, images, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def run(setting, interruption, number, folder, ckpt_path):
        import json

        content = json.dumps([asdict(setting), asdict(interruption), number, str(folder), ckpt_path and str(ckpt_path)])
        command = [sys.executable, program, Path(__file__).parents[1], content]
        ended = subprocess.run(command, timeout=200, check=False)
        assert ended.returncode == -signal.SIGKILL
        return next_checkpoint(interruption, folder, ckpt_path)

    kills = [Interruption("kill", "training_step", count), Interruption("kill", "on_train_batch_end", 3)]
    _, complaint = follow(Setting(), kills, images, tmp_path, run=run)
    assert complaint is None
