"""The README and the site: their code runs, their commands compose, their files are there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from PIL import Image
from test_data import write_cifar, write_fashion_mnist, write_image_folder
from test_published import write_cifar_c
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10, FakeData

from commands_fixture import QUICK, QUIET, train_in
from lightning_augmix.commands.schemas import register

pytestmark = QUIET
ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))  # `make docs` runs them
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SIZE = (3, 32, 40)


def blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)


def every_page(test):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)(test)


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 40, 10))

    def forward(self, images):
        return self.network(images)

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return nn.functional.cross_entropy(self(images), targets)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(images(transforms.ToTensor()), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(images(transforms.ToTensor()), batch_size=8)


def images(transform=None):
    return FakeData(16, SIZE, 10, transform)


def what_readers_have():
    """What the text takes for granted: a model, data, a photograph."""
    model = Model()
    return {
        "pl": pl,
        "torch": torch,
        "model": model,
        "network": model.network,
        "data": Data(),
        "image": Image.fromarray(torch.randint(256, (48, 64, 3), dtype=torch.uint8).numpy()),
        "dataset": images(transforms.ToTensor()),
        "loader": Data().train_dataloader(),
        "test_images": images(),
        "test_data": images(transforms.ToTensor()),
        "to_input": transforms.ToTensor(),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")
@every_page
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = what_readers_have()
    if page.stem in ("hydra", "README"):
        register()
        with initialize_config_module("lightning_augmix.commands.configs", version_base="1.3"):
            names["cfg"] = compose("train")
    if page.stem == "your-images":
        train_in(tmp_path, "jsd")
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


COMMANDS = {
    command.name: command.name.removeprefix("augmix-")
    for command in entry_points(group="console_scripts")
    if command.name.startswith("augmix-")
}


def lines(page):
    """The command lines of a page."""
    for block in blocks(page, "bash"):
        for line in re.sub(r"\\\n *", "", block).splitlines():
            if shlex.split(line, comments=True):
                yield line


def commands(page):
    """The command lines of a page that are ours: name and arguments."""
    for line in lines(page):
        words = shlex.split(re.sub(r"\$\([^)]*\)|\$\{[^}]*\}|\$\w+", "x", line), comments=True)
        if words[0] in COMMANDS:
            yield words[0], words[1:]


@every_page
def test_the_commands_of_a_page_compose(page):
    register()
    for name, words in commands(page):
        flags = [word for word in words if word.startswith("-")]
        assert set(flags) <= {"--multirun", "--help", "--cfg"}, flags
        overrides = [word for word in words if "=" in word]
        if "--multirun" in flags or any(word.startswith("cluster=") for word in words):  # one value of each
            overrides = [re.sub(r"=([^\[{]*?),.*", r"=\1", word) for word in overrides]
        with initialize_config_module("lightning_augmix.commands.configs", version_base="1.3"):
            compose(COMMANDS[name], overrides, return_hydra_config=True)


def test_the_pages_have_commands_of_each_kind():
    seen = {name for page in PAGES for name, _ in commands(page)}
    assert seen == {"augmix-train", "augmix-evaluate", "augmix-bench", "augmix-preview"}


#: What makes the commands of the pages short.
SHORT = {
    "augmix-train": ["trainer.max_epochs=1", "data.train_images=128", *QUICK],
    "augmix-evaluate": ["processes=1", *QUICK],
    "augmix-preview": ["images=4"],
    "python": [f"--trainer.{key}=false" for key in ("logger", "enable_checkpointing")] + ["--trainer.max_epochs=1"],
}
#: What it takes GPUs or Slurm to run, and what other tests run.
NOT_RUN = ("trainer=ddp", "cluster=slurm", "augmix-bench", "pip install")
#: What starts processes, which run the command anew.
OF_PROCESSES = ("hydra/launcher=", "cluster=", "optuna", "python ")


def write_what_commands_take_for_granted(folder, monkeypatch):
    """A run, images, and code, under the names that the pages use."""
    images = folder / "DIR"
    write_image_folder(images)
    write_cifar(images, CIFAR10, monkeypatch)
    (folder / "data").mkdir()
    write_fashion_mnist(folder / "data")
    write_cifar_c(folder / "data" / "CIFAR-10-C")
    train_in(folder, "a")
    for run in ("b", "DIR", "outputs/DATE/TIME"):
        shutil.copytree(folder / "a", folder / run, dirs_exist_ok=True)
    shutil.copy(folder / "a" / "checkpoints" / "last.ckpt", folder)
    what_readers_have()["image"].save(folder / "PHOTO", "JPEG")
    (folder / "your").mkdir()
    (folder / "your" / "module.py").write_text(
        "from torchvision.datasets import FakeData\n"
        "from torchvision.transforms import ToTensor\n"
        f"data = FakeData(8, {SIZE}, 10, ToTensor())\n"
    )
    shutil.copy(ROOT / "examples" / "lightning_cli.py", folder / "main.py")


def can_run(line):
    return not any(words in line for words in NOT_RUN)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(map(can_run, lines(p)))], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    write_what_commands_take_for_granted(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    for line in filter(can_run, lines(page)):
        expanded = subprocess.check_output(["bash", "-euc", rf"printf '%s\0' {line}"], text=True)
        name, *arguments = expanded.split("\0")[:-1]
        arguments += SHORT[name] if "--help" not in arguments else []
        if "hparams_search=optuna" in arguments:
            arguments.append("hydra.sweeper.n_trials=2")
        if name == "augmix-evaluate" and "corruptions=" not in line:
            arguments.append("limit=12")
        if any(words in line for words in OF_PROCESSES):
            subprocess.run([name, *arguments], check=True)
            continue
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        (command,) = entry_points(group="console_scripts", name=name)
        command.load()()


@every_page
def test_the_yaml_of_a_page_is_yaml(page):
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block)


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_each_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)

    def pages(entries):
        for entry in entries:
            for content in entry.values():
                yield from [content] if isinstance(content, str) else pages(content)

    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    files = [*PAGES[1:], *NOTEBOOKS]
    assert sorted(pages(settings["nav"])) == sorted(page.name for page in files)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_hold_no_results(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 1000
