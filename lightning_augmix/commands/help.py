"""The help of the commands: what can be chosen, and what each value means and permits."""

import ast
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lightning_augmix import _MODULES

__all__ = ["described", "text_of"]

_FOLDERS = ("lightning_augmix.commands.configs", "lightning_augmix.configs")
_FLAGS = """\
Flags: --cfg job prints the configuration; --multirun (-m) makes a run of each combination of comma-separated values;
--version; --hydra-help lists the rest, among them tab completion (--shell-completion)."""


def described(config: str, overrides: Sequence[str], config_dir: str | None = None) -> str:
    """The help of a command.

    Args:
        config: The name of its configuration in ``commands/configs/``.
        overrides: Those on the command line, whose choices are shown.
        config_dir: A folder of further configs, as given with ``--config-dir``.

    Returns:
        The text.

    Raises:
        NotADirectoryError: If there is no such folder.
    """
    folders: list[Any] = [files(folder) for folder in _FOLDERS]
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise NotADirectoryError(f"Expected --config-dir to be a folder; got {config_dir!r}.")
        folders.append(Path(config_dir))
        quoted = str(Path(config_dir).absolute()).replace("'", "\\'")
        overrides = [f"hydra.searchpath=['file://{quoted}']", *overrides]
    with initialize_config_module(_FOLDERS[0], version_base="1.3"):
        composed = compose(config, list(overrides), return_hydra_config=True)
    values: Any = OmegaConf.to_container(composed)
    hydra = values.pop("hydra")
    text = hydra["help"]["template"].replace("${hydra.help.header}", hydra["help"]["header"])
    groups = [group for group in hydra["runtime"]["choices"] if "/" not in group]
    if groups:
        text += "\n\nGroups (group=option):\n\n" + _columns(_options(groups, folders)).rstrip()
    meanings = dict(_comments(text_of(config)))
    text += "\n\nValues (key=value), with those that hold now:\n\n" + _columns(_values("", values, meanings))
    return f"{text}\n{_FLAGS}"


def text_of(config: str) -> str:
    """The text of a command's configuration.

    Args:
        config: Its name in ``commands/configs/``.
    """
    return files(_FOLDERS[0]).joinpath(f"{config}.yaml").read_text(encoding="utf-8")


def _options(groups: Sequence[str], folders: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for group in sorted(groups):
        for folder in folders:
            directory = folder.joinpath(group)
            # The published callbacks are for other applications.
            if not directory.is_dir() or (group == "callbacks" and folder == folders[1]):
                continue
            for path in sorted(directory.iterdir(), key=lambda path: path.name):
                if path.name.endswith(".yaml"):
                    lines = path.read_text(encoding="utf-8").splitlines()
                    comment = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
                    yield f"{group}={path.name.removesuffix('.yaml')}", " ".join(comment)


def _values(prefix: str, values: Mapping[str, Any], meanings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    target = values.get("_target_", "")
    own = _arguments(target) if target.startswith("lightning_augmix") else {}
    has_meanings = own or prefix.partition(".")[0] in ("", "data", "trainer")
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            path = files(_FOLDERS[0]).joinpath(key, "default.yaml")
            inner = dict(_comments(path.read_text(encoding="utf-8"), f"{key}.")) if path.is_file() else {}
            yield from _values(f"{key}.", value, {**meanings, **inner})
        elif not name.startswith("_") and (has_meanings or key in meanings):
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            yield f"{key}={shown}", own.get(name, meanings.get(key, ""))


def _comments(text: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The keys of a YAML file, and the comments after them."""
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = re.match(r"( *)([\w.]+):[^#]*(?:# (.*))?$", line)
        if found:
            depth = len(found[1])
            parents = [(indent, name) for indent, name in parents if indent < depth] + [(depth, found[2])]
            if found[3]:
                yield prefix + ".".join(name for _, name in parents), found[3]


@cache
def _arguments(target: str) -> dict[str, str]:
    """What the docstring of a class says of its arguments; read, not imported, which takes seconds."""
    module, _, name = target.rpartition(".")
    spec = find_spec(f"{module}.{_MODULES[name]}" if module == "lightning_augmix" else module)
    if spec is None or spec.origin is None:
        return {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    [node] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    section = (ast.get_docstring(node) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, flags=re.MULTILINE)
    return {argument: _as_yaml(" ".join(text.split())) for argument, text in entries}


def _as_yaml(text: str) -> str:
    for python, yaml in (("None", "null"), ("True", "true"), ("False", "false"), (":class:", ""), ("`", "")):
        text = text.replace(python, yaml)
    return text


def _columns(rows: Iterator[tuple[str, str]]) -> str:
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    lines = []
    for key, meaning in rows:
        wrapped = textwrap.wrap(meaning, width - 34) or [""]
        first = [f"  {key:<30}  {wrapped[0]}".rstrip()]
        if len(key) > 30:
            first = [f"  {key}", f"{'':34}{wrapped[0]}".rstrip()]
        lines += [*first, *(f"{'':34}{line}" for line in wrapped[1:])]
    return "\n".join(lines) + "\n"
