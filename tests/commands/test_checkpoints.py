"""A checkpoint is data: nothing in it is executed, called, downloaded or written to."""

import copy
import os
import sys
from pickle import UnpicklingError

import pytest
import torch
from PIL import Image
from test_published import write_cifar_c

from commands_fixture import QUICK, QUIET, train_in
from lightning_augmix.commands import evaluate, train
from lightning_augmix.commands.checkpoints import Checkpoint, read_checkpoint
from lightning_augmix.commands.console import UsageError

pytestmark = QUIET


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What a checkpoint of a short run with AugMix contains."""
    return torch.load(train_in(tmp_path_factory.mktemp("run"), "run"), weights_only=True)


@pytest.fixture
def content(trained):
    return copy.deepcopy(trained)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["augmix-evaluate", "augmix-train"])
def command(request, folder, monkeypatch):
    """Either command, given the content of a checkpoint, or what is one in a file already."""
    main, short = {
        "augmix-evaluate": (evaluate.main, ["corruptions=nowhere"]),
        "augmix-train": (train.main, ["trainer.max_epochs=2", "data.train_images=128"]),
    }[request.param]

    def run(content=None):
        if content is not None:
            torch.save(content, "given.ckpt")
        monkeypatch.setattr(sys, "argv", [request.param, "ckpt_path=given.ckpt", *short, *QUICK])
        main()

    return run


class Code:
    """Pickled, a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def one_line(words):
    return pytest.raises(SystemExit, match=rf"^augmix-\w+: given.ckpt is not a checkpoint [^\n]*{words}[^\n]*$")


def read(content):
    torch.save(content, "given.ckpt")
    return read_checkpoint("given.ckpt")


def refusal(words):
    return pytest.raises(UsageError, match=rf"^given.ckpt is not a checkpoint [^\n]*({words})[^\n]*$")


def test_pickled_code_does_not_run(command, content, folder):
    content["optimizer_states"] = Code(os.mkdir, str(folder / "ran"))
    with one_line(r"it has code in it, \w+\.mkdir"):
        command(content)
    assert not (folder / "ran").exists()


def test_the_trainer_runs_no_pickled_code_either(content, folder, monkeypatch):
    content["optimizer_states"] = Code(os.mkdir, str(folder / "ran"))
    torch.save(content, "given.ckpt")
    unchecked = Checkpoint("given.ckpt", {}, {}, {}, None)
    monkeypatch.setattr("lightning_augmix.commands.checkpoints.read_checkpoint", lambda path: unchecked)
    monkeypatch.setattr(sys, "argv", ["augmix-train", "ckpt_path=given.ckpt", "data.train_images=128", *QUICK])
    with pytest.raises(UnpicklingError, match="mkdir"):
        train.main()
    assert not (folder / "ran").exists()


def test_pickled_code_in_the_old_format_does_not_run(folder):
    """torch and zipfile look for the format at different ends of a file."""
    torch.save(Code(os.mkdir, str(folder / "ran")), "given.ckpt", _use_new_zipfile_serialization=False)
    torch.save({}, "zipped.ckpt")
    with open("given.ckpt", "ab") as file:
        file.write((folder / "zipped.ckpt").read_bytes())
    with refusal("it has code in it"):
        read_checkpoint("given.ckpt")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("part", ["hyper_parameters", "datamodule_hyper_parameters"])
def test_what_a_checkpoint_names_is_not_called(command, content, part, capfd):
    content[part]["_instantiator"] = "builtins.print"
    with one_line(f"its {part} have '_instantiator'"):
        command(content)
    assert capfd.readouterr().out == ""


def test_nothing_is_downloaded_or_created_where_a_checkpoint_says(folder, content, monkeypatch):
    content["datamodule_hyper_parameters"].update(dataset="cifar10", root=str(folder / "new"), download=True)
    torch.save(content, "given.ckpt")
    for given, words in (
        ([], "data.root=.*new does not have"),
        (["~data.download"], "data.root=.*new does not have"),
        (["data.download=true"], "Expected data.root with"),
    ):
        monkeypatch.setattr(sys, "argv", ["augmix-evaluate", "ckpt_path=given.ckpt", *given, *QUICK])
        with pytest.raises(SystemExit, match=words):
            evaluate.main()
    assert not (folder / "new").exists()


def checkpoint_state(content):
    states = content["callbacks"].items()
    [state] = [state for name, state in states if name.startswith("BestCheckpoint")]
    return state


def test_nothing_is_removed_that_a_checkpoint_names(command, content, folder):
    (folder / "kept").mkdir()
    checkpoint_state(content)["best_model_path"] = f"local://{folder / 'kept'}"
    with one_line("'best_model_path' of its callback"):
        command(content)
    assert (folder / "kept").exists()


@pytest.mark.parametrize("key", ["best_model_path", "kth_best_model_path", "last_model_path", "best_k_models"])
@pytest.mark.parametrize("path", ["local:///x", "file:///x", "/x/../y", "memory://x", "x", 3])
def test_paths_that_lightning_would_not_check(content, folder, key, path):
    checkpoint_state(content)[key] = {path: torch.tensor(0.0)} if key == "best_k_models" else path
    with refusal(f"'{key}' of its callback"):
        read(content)


def test_lightning_moves_nothing_into_a_callback_that_was_not_checked(content, folder):
    content["pytorch-lightning_version"] = "0.9.0"
    content["checkpoint_callback_best_model_path"] = f"local://{folder}"
    with refusal("it is not from Lightning 2"):
        read(content)


def test_a_truncated_file(command, content, folder):
    torch.save(content, "whole.ckpt")
    written = (folder / "whole.ckpt").read_bytes()
    (folder / "given.ckpt").write_bytes(written[: len(written) // 2])
    with pytest.raises(SystemExit, match=r"Expected ckpt_path to be a checkpoint file [^\n]*; got 'given.ckpt'\.$"):
        command()
    (folder / "given.ckpt").write_bytes(written[len(written) // 2 :])
    with one_line("it is damaged"):
        command()


@pytest.mark.parametrize("part", ["state_dict", "callbacks", "hyper_parameters", "datamodule_hyper_parameters"])
@pytest.mark.parametrize("value", [None, [], "text"])
def test_missing_parts(content, folder, part, value):
    content[part] = value
    with refusal(f"it has no {part}"):
        read(content)
    del content[part]
    with refusal(f"it has no {part}"):
        read(content)


@pytest.mark.parametrize("content", [torch.zeros(3), [1], "text"])
def test_what_is_no_dictionary(content, folder):
    with refusal("it has no state_dict"):
        read(content)


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("hyper_parameters", {"depth": 3}, "have 'depth', which is none of num_classes, architecture"),
        ("hyper_parameters", {"return": None}, "have 'return', which is none of"),
        ("hyper_parameters", {3: 3}, "have 3, which is none of"),
        ("hyper_parameters", {"num_classes": "10"}, "'num_classes' in its hyper_parameters is of type str, not int"),
        ("hyper_parameters", {"architecture": ["resnet18"]}, "'architecture' .* is of type list, not str"),
        ("hyper_parameters", {"momentum": "0.9"}, r"'momentum' .* is of type str, not float"),
        ("datamodule_hyper_parameters", {"url": "x"}, "have 'url', which is none of dataset, root"),
        ("datamodule_hyper_parameters", {"root": 3}, "'root' in its datamodule_hyper_parameters is of type int, not"),
        ("datamodule_hyper_parameters", {"train_images": 0.5}, r"is of type float, not int or None"),
        ("callbacks", {"Mine": 3}, "the state of its callback 'Mine' is of type int, not dict"),
        ("callbacks", {"AugMixCallback": {}}, "AugMixCallback has no valid augmentation_set"),
        ("callbacks", {"AugMixCallback": {"augmentation_set": "x"}}, "AugMixCallback has no valid augmentation_set"),
    ],
)
def test_values_of_others(content, folder, part, changes, words):
    content[part].update(changes)
    with refusal(words):
        read(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["hyper_parameters"].pop("num_classes"), "num_classes"),
        (lambda content: content["hyper_parameters"].update(architecture="resnet"), "got 'resnet'"),
        (lambda content: content["hyper_parameters"].update(architecture="resnet18"), "state_dict does not fit"),
        (lambda content: content["hyper_parameters"].update(num_classes=-1), "negative dimension|num_classes"),
        (lambda content: content["state_dict"].popitem(), "state_dict does not fit"),
        (lambda content: content["state_dict"].update(new=torch.zeros(1)), "state_dict does not fit"),
        (lambda content: content["state_dict"].update({3: "x"}), "state_dict does not fit"),
    ],
)
def test_another_module(content, folder, change, words):
    change(content)
    checkpoint = read(content)
    with refusal(words):
        checkpoint.classifier()


def test_a_checkpoint_of_a_run_is_read_whole(content, folder):
    checkpoint = read(content)
    assert checkpoint.data == content["datamodule_hyper_parameters"]
    assert checkpoint.augmentation_set == "all"
    model = checkpoint.classifier()
    assert dict(model.hparams) == content["hyper_parameters"]
    assert all(torch.equal(weight, content["state_dict"][name]) for name, weight in model.state_dict().items())


def test_the_folder_of_the_images_need_not_be_repeated(content, folder, monkeypatch):
    for name in content["datamodule_hyper_parameters"]["classes"]:
        for part in ("train", "test"):
            (folder / "images" / part / name).mkdir(parents=True)
            Image.new("L", (30, 20)).save(folder / "images" / part / name / "0.png")
    write_cifar_c(folder / "c")
    content["datamodule_hyper_parameters"].update(dataset="image_folder", root=str(folder / "images"))
    torch.save(content, "given.ckpt")
    monkeypatch.setattr(sys, "argv", ["augmix-evaluate", "ckpt_path=given.ckpt", "corruptions=c", *QUICK])
    evaluate.main()
