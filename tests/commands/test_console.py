import os

import pytest
from hydra import compose, initialize_config_module

from lightning_augmix.commands.console import UsageError, build, readable_errors
from lightning_augmix.commands.schemas import register
from lightning_augmix.commands.train import main


def compose_and_instantiate(override, node):
    register()
    with readable_errors("augmix-x"), initialize_config_module("lightning_augmix.commands.configs", version_base="1.3"):
        build(compose("train", [override])[node])


@pytest.mark.parametrize(
    ("override", "node", "words"),
    [
        ("augmix.severity=11", "augmix", "`severity` to be a real number in [0, 10]; got 11.0"),
        ("augmix.severity=abc", "augmix", "Value 'abc' of type 'str' could not be converted to Float"),
        ("augmix.sevrity=3", "augmix", "There is no key 'augmix.sevrity' (did you mean augmix.severity?)"),
        ("augmix.augmentation_set=rotat", "augmix", "got 'rotat'"),
        ("data=nope", "data", "cifar10, cifar100, digits, fashion_mnist, image_folder"),
        ("data.batch_size=0", "data", "`batch_size` to be an integer, at least 1; got 0"),
    ],
)
def test_bad_values_end_with_one_line(override, node, words):
    with pytest.raises(SystemExit) as stopped:
        compose_and_instantiate(override, node)
    message = stopped.value.code
    assert message.startswith("augmix-x: ")
    assert words in message
    assert "\n" not in message
    assert "full_key" not in message
    assert "pkg://" not in message


@pytest.mark.parametrize(
    ("word", "completions"),
    [
        ("augmix=", "augmix=default augmix=jsd augmix=off augmix=safe"),
        ("augmix.sev", "augmix.severity="),
        ("experiment=paper_c", "experiment=paper_cifar10 experiment=paper_cifar100"),
    ],
)
def test_shells_complete_overrides(word, completions, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["augmix-train", "--shell-completion", "query=bash"])
    monkeypatch.setenv("COMP_LINE", f"augmix-train {word}")
    main()
    assert capsys.readouterr().out.strip() == completions


def test_usage_errors_are_one_line_also_within_the_job():
    with pytest.raises(SystemExit, match=r"^augmix-x: no such thing$"), readable_errors("augmix-x"):  # noqa: SIM117
        with readable_errors("augmix-x"):
            raise UsageError("no such thing")
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_other_errors_keep_their_trace():
    with pytest.raises(ZeroDivisionError), readable_errors("augmix-x"):
        _ = 1 / 0


def test_an_interrupt_is_one_line_and_the_status_that_shells_expect(capsys):
    with pytest.raises(SystemExit) as stopped, readable_errors("augmix-x"), readable_errors("augmix-x"):
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "augmix-x: interrupted.\n"


def test_hydras_own_switch_brings_the_trace_back(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UsageError), readable_errors("augmix-x"):
        raise UsageError("no such thing")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_errors_are_printed_without_control_characters():
    with pytest.raises(SystemExit, match=r"^augmix-x: no \\x1b\[2Jsuch thing$"), readable_errors("augmix-x"):
        raise UsageError("no \x1b[2Jsuch thing")
