"""Checkpoints of ``augmix-train``, read as data: nothing in them is executed, called, downloaded or written to."""

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

from lightning_augmix.commands.console import UsageError
from lightning_augmix.commands.data import ImageDataModule
from lightning_augmix.commands.model import Classifier
from lightning_augmix.operations import resolve_operations

__all__ = ["Checkpoint", "read_checkpoint"]

_CONSTRUCTORS = {"hyper_parameters": Classifier, "datamodule_hyper_parameters": ImageDataModule}

# What Lightning's ModelCheckpoint takes from a checkpoint, and removes when it has saved the next one.
_REMOVED = ("best_model_path", "kth_best_model_path", "last_model_path", "best_k_models")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint has for evaluation.

    Attributes:
        path: Where it was read.
        weights: The weights of the classifier.
        model: Arguments of ``Classifier``.
        data: Arguments of ``ImageDataModule``.
        augmentation_set: Of ``AugMixCallback``; ``None`` without AugMix.
    """

    path: str
    weights: dict[str, Tensor]
    model: dict[str, Any]
    data: dict[str, Any]
    augmentation_set: Any

    def classifier(self) -> Classifier:
        """Builds the trained classifier.

        Raises:
            UsageError: If there is none with these arguments and weights.
        """
        try:
            model = Classifier(**self.model)
        except Exception as error:  # torchvision's and torch's are of many kinds
            raise _refusal(self.path, " ".join(str(error).split()).rstrip(".")) from error
        try:
            model.load_state_dict(self.weights)
        except Exception as error:
            raise _refusal(self.path, "its state_dict does not fit the classifier of its hyper_parameters") from error
        return model


def read_checkpoint(path: Any) -> Checkpoint:
    """Reads a checkpoint and checks that it is one of ``augmix-train``.

    Args:
        path: The file's path.

    Returns:
        What it has for evaluation.

    Raises:
        UsageError: If it is no such checkpoint, is damaged, or has anything in it that is not data.
    """
    if not isinstance(path, str) or not zipfile.is_zipfile(path):
        there = "" if not isinstance(path, str) or os.path.exists(path) else ", which does not exist"
        raise UsageError(
            "Expected ckpt_path to be a checkpoint file of augmix-train, such as outputs/…/checkpoints/last.ckpt; got "
            f"{path!r}{there}."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or a forged file raises is of any kind
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _refusal(path, f"it has code in it, {code[1]}" if code else "it is damaged") from error
    for part in ("state_dict", "callbacks", *_CONSTRUCTORS):
        if not isinstance(content, dict) or not isinstance(content.get(part), dict):
            raise _refusal(path, f"it has no {part}")
    # Lightning rewrites older ones when it loads them, after these checks.
    if not str(content.get("pytorch-lightning_version")).startswith("2."):
        raise _refusal(path, "it is not from Lightning 2")
    for part, constructor in _CONSTRUCTORS.items():
        _check_arguments(path, part, content[part], constructor)
    _check_states(path, content["callbacks"])
    return Checkpoint(
        path,
        content["state_dict"],
        content["hyper_parameters"],
        content["datamodule_hyper_parameters"],
        _augmentation_set(path, content["callbacks"].get("AugMixCallback")),
    )


def _check_arguments(path: str, part: str, given: Mapping[Any, Any], constructor: type) -> None:
    types = {name: parameter.annotation for name, parameter in signature(constructor).parameters.items()}
    for name, value in given.items():
        if name not in types:
            raise _refusal(path, f"its {part} have {name!r}, which is none of {', '.join(types)}")
        permitted = tuple(get_origin(each) or each for each in get_args(types[name]) or (types[name],))
        if not isinstance(value, (*permitted, int) if float in permitted else permitted):
            expected = " or ".join(each.__name__.replace("NoneType", "None") for each in permitted)
            raise _refusal(path, f"{name!r} in its {part} is of type {type(value).__name__}, not {expected}")


def _check_states(path: str, states: Mapping[Any, Any]) -> None:
    for name, state in states.items():
        if not isinstance(state, dict):
            raise _refusal(path, f"the state of its callback {name!r} is of type {type(state).__name__}, not dict")
        for key in _REMOVED:
            value = state.get(key, "")
            for removed in value if isinstance(value, dict) else (value,):
                # Lightning checks that a plain path is in the run's own folder, and removes others, such as URLs.
                if not isinstance(removed, str) or (removed and os.path.abspath(removed) != removed):
                    raise _refusal(path, f"{key!r} of its callback {name!r} is no absolute path without `..`")


def _augmentation_set(path: str, state: Mapping[str, Any] | None) -> Any:
    if state is None:
        return None
    try:
        resolve_operations(state["augmentation_set"])
    except Exception as error:
        raise _refusal(path, "the state of its AugMixCallback has no valid augmentation_set") from error
    return state["augmentation_set"]


def _refusal(path: str, reason: str) -> UsageError:
    return UsageError(f"{path} is not a checkpoint of augmix-train that can be used: {reason}.")
