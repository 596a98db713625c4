"""The package beside Hydra applications of others: what they compose is the same, but for what they ask for."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HYDRA = ["antlr4", "hydra", "hydra_zen", "omegaconf", "packaging", "typing_extensions", "yaml"]

STORE = """
import hydra
from dataclasses import dataclass, field
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

@dataclass
class Trainer:
    max_epochs: int = 7

@dataclass
class Data:
    name: str = "theirs"

@dataclass
class AugMix:
    strength: int = 1

@dataclass
class Config:
    defaults: list = field(default_factory=lambda: [
        "_self_", {"trainer": "default"}, {"callbacks": "default"}, {"data": "cifar10"}, {"augmix": "default"}])
    trainer: Trainer = field(default_factory=Trainer)
    data: Data = field(default_factory=Data)
    augmix: AugMix = field(default_factory=AugMix)
    callbacks: dict = field(default_factory=dict)

store = ConfigStore.instance()
store.store("NAME", Config)
store.store("default", Trainer, group="trainer")
store.store("default", {"timer": {"_target_": "theirs.Timer"}}, group="callbacks")
store.store("cifar10", Data, group="data")
store.store("default", AugMix, group="augmix")

@hydra.main(version_base="1.3", config_path=None, config_name="NAME")
def main(cfg):
    print(OmegaConf.to_yaml(cfg))

main()
"""

ZEN = """
from hydra_zen import builds, store, zen
from omegaconf import OmegaConf

class Theirs:
    def __init__(self, strength: int = 1):
        self.strength = strength

store(builds(Theirs, populate_full_signature=True), group="augmix", name="default")
store(builds(dict, max_epochs=7), group="trainer", name="default")

@store(name="train", hydra_defaults=["_self_", {"augmix": "default"}, {"trainer": "default"}])
def task(augmix, trainer, zen_cfg):
    print(OmegaConf.to_yaml(zen_cfg))

if __name__ == "__main__":
    store.add_to_hydra_store()
    zen(task).hydra_main(config_name="train", version_base="1.3", config_path=None)
"""

MAIN = """
import hydra
from omegaconf import OmegaConf

@hydra.main(version_base="1.3", config_path="configs", config_name="train.yaml")
def main(cfg):
    print(OmegaConf.to_yaml(cfg))

main()
"""

#: Where configs were looked for, which is no part of what the application is given.
SOURCES = r"    config_sources:\n(    (-|  ).*\n)*|\s*provider=.*|20\d\d-\d\d-\d\d/\d\d-\d\d-\d\d"

#: As lightning-hydra-template has them.
FILES = {
    "train.yaml": "defaults: [_self_, {data: mnist}, {callbacks: default}, {trainer: default}, {experiment: null}]\n",
    "data/mnist.yaml": "_target_: theirs.Data\n",
    "callbacks/default.yaml": "defaults: [early_stopping, _self_]\nearly_stopping: {patience: 100}\n",
    "callbacks/early_stopping.yaml": "early_stopping: {_target_: theirs.EarlyStopping}\n",
    "callbacks/none.yaml": "",
    "trainer/default.yaml": "max_epochs: 7\n",
    "experiment/robust.yaml": "# @package _global_\ndefaults: [{override /callbacks: [default, augmix_safe]}]\n"
    "callbacks: {augmix: {severity: 2}}\n",
}


@pytest.fixture(scope="session")
def paths(tmp_path_factory):
    """Hydra's own packages alone, and the wheel."""
    folder = tmp_path_factory.mktemp("guest")
    hydra = folder / "hydra"
    hydra.mkdir()
    for name in HYDRA:
        origin = Path(find_spec(name).origin)
        origin = origin.parent if origin.name == "__init__.py" else origin
        (hydra / origin.name).symlink_to(origin)
    # A folder `build` of earlier times would go into the wheel.
    source = shutil.copytree(
        ROOT, folder / "source", ignore=shutil.ignore_patterns("build", ".*", "outputs", "multirun")
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "ours", wheel], check=True)
    return {"without": [hydra], "with": [hydra, folder / "ours"]}


@pytest.fixture
def application(paths, tmp_path, request):
    if request.param == "files":
        (tmp_path / "main.py").write_text(MAIN)
        for name, content in FILES.items():
            path = tmp_path / "configs" / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(content)
    else:
        (tmp_path / "main.py").write_text(ZEN if request.param == "zen" else STORE.replace("NAME", request.param))

    def run(which, *overrides):
        """What it printed, and whether it failed."""
        # Without `site`, there is nothing but what the path has.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths[which]))}
        command = [sys.executable, "-S", "main.py", *overrides]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr, done.returncode

    return run


everywhere = pytest.mark.parametrize("application", ["config", "train", "evaluate", "zen", "files"], indirect=True)


@pytest.mark.slow
@everywhere
def test_what_an_application_composes_is_the_same(application):
    for overrides in ([], ["trainer.max_epochs=3"], ["--cfg", "all"], ["data=cifar100"], ["experiment=paper_cifar10"]):
        printed, failed = application("without", *overrides)
        now, fails = application("with", *overrides)
        assert fails == failed
        assert re.sub(SOURCES, "", now) == re.sub(SOURCES, "", printed)
    assert "max_epochs: 7" in application("with")[0]


@pytest.mark.slow
@everywhere
def test_its_help_lists_nothing_but_the_two_groups(application):
    def lines(which):
        printed = application(which, "--help")[0] + application(which, "--hydra-help")[0]
        return [line for line in printed.splitlines() if ": " in line]

    more = set(lines("with")) - set(lines("without"))
    assert {line.partition(":")[0] for line in more} <= {"augmix", "callbacks"}
    listed = {name for line in more for name in line.partition(": ")[2].split(", ")}
    ours = {"default", "safe", "jsd", "off", "augmix", "augmix_safe", "augmix_jsd"}
    assert listed <= ours | {"early_stopping", "none"}
    assert {"augmix_safe", "safe"} <= listed


@pytest.mark.slow
@pytest.mark.parametrize("application", ["files"], indirect=True)
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["callbacks=augmix"], ["_target_: lightning_augmix.AugMixCallback", "severity: 3.0"]),
        (["callbacks=[default,augmix]"], ["patience: 100", "augmentation_set: all"]),
        (
            ["callbacks=[default,augmix_safe]", "callbacks.augmix.severity=5"],
            ["severity: 5.0", "augmentation_set: safe"],
        ),
        (["callbacks=augmix_jsd"], ["views: 2"]),
        (["experiment=robust"], ["severity: 2.0", "patience: 100", "augmentation_set: safe"]),
        (["+augmix@callbacks.augmix=off"], ["augmix:\n    _target_: lightning.pytorch.Callback"]),
    ],
)
def test_what_is_asked_for_is_there(overrides, words, application):
    printed, failed = application("with", *overrides)
    assert not failed
    assert all(word in printed for word in words)
    assert application("without", *overrides)[1]


@pytest.mark.slow
@pytest.mark.parametrize("application", ["files"], indirect=True)
def test_their_search_path_comes_first(application, tmp_path):
    (tmp_path / "more" / "augmix").mkdir(parents=True)
    (tmp_path / "more" / "augmix" / "safe.yaml").write_text("theirs: 1\n")
    printed, _ = application("with", f"hydra.searchpath=[file://{tmp_path / 'more'}]", "+augmix=safe")
    assert "augmix:\n  theirs: 1\n" in printed
    assert "lightning_augmix" not in printed
