"""Fits whose processes others start: Ray Train's, and submitit's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from lightning_augmix import AugMixCallback
from toy import CERTAIN, Dim, Recorder, to_tensor, trainer

TESTS = Path(__file__).parents[1]

FIT = """
import json, sys
from pathlib import Path
from torch.utils.data import DataLoader
from lightning_augmix import AugMixCallback
from toy import CERTAIN, Dim, Recorder, to_tensor, trainer

def fit(folder, **settings):
    data = Dim(to_tensor(), 12)
    module = Recorder({"train": lambda: DataLoader(data, 2), "val": lambda: DataLoader(data, 2)})
    run = trainer(AugMixCallback(10, **CERTAIN, seed=3), root=folder, **{"devices": 1, **settings})
    if "plugins" in settings:
        run = prepare_trainer(run)
    run.fit(module)
    seen = {stage: module.seen[stage] for stage in ("train", "val")}
    Path(folder, f"rank-{run.global_rank}.json").write_text(json.dumps(seen))
"""

RAY = f"""{FIT}
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer

def worker(config):
    fit(config["folder"], devices="auto", strategy=RayDDPStrategy(), plugins=[RayLightningEnvironment()])

ray.init(num_cpus=2, include_dashboard=False)
folder = sys.argv[1]
TorchTrainer(
    worker,
    train_loop_config={{"folder": folder}},
    scaling_config=ScalingConfig(num_workers=2),
    run_config=RunConfig(storage_path=folder + "/ray"),
).fit()
"""

SUBMITIT = f"""{FIT}
import submitit

folder = sys.argv[1]
executor = submitit.LocalExecutor(folder + "/submitit")
executor.update_parameters(timeout_min=5, tasks_per_node=2)
executor.submit(fit, folder, devices=2, strategy="ddp").results()
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [RAY, SUBMITIT], ids=["ray", "submitit"])
def test_processes_of_others_share_out_the_images_of_one(script, tmp_path):
    file = tmp_path / "cluster.py"
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, file, str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank-*.json"))]
    assert len(ranks) == 2

    data = Dim(to_tensor(), 12)
    one = Recorder({"train": lambda: DataLoader(data, 2)})
    trainer(AugMixCallback(10, **CERTAIN, seed=3), root=tmp_path).fit(one)
    shared = {(epoch, index): image for rank in ranks for epoch, index, _, image in rank["train"]}
    assert shared == one.images()
    for rank in ranks:
        assert len(rank["train"]) == 2 * 6
        assert {augmented for *_, augmented, _ in rank["train"]} == {True}
        assert {augmented for *_, augmented, _ in rank["val"]} == {False}
