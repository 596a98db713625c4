"""Sweeps of ``augmix-train``: how far they are, how they go on after an interrupt, and the table at their end.

A sweep over all combinations has the same runs by the same numbers whenever it is started with the same overrides. So
runs that ended well are not run again, and others go on from their ``last.ckpt``.
"""

import json
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from lightning_augmix._figures import figure_of, save_figure
from lightning_augmix._text import printable

__all__ = [
    "JobFailedError",
    "expected_end",
    "has_runs",
    "how_to_go_on",
    "is_same_sweep",
    "is_sweep",
    "leave_launcher",
    "new_folder",
    "read_record",
    "record_path",
    "start",
    "sweep_folder",
    "table_at_the_end",
    "this_run",
]

# The folder of the sweep, with the records that were there before.
_sweep: dict[Path, frozenset[tuple[Path, int]]] = {}


class JobFailedError(Exception):
    """A job of a sweep failed, and its message was printed."""


def new_folder(path: str) -> str:
    """Makes a folder that was not there: of this name, or with -2, -3 and so on after it.

    Args:
        path: The name.

    Returns:
        The name that it has.
    """
    for number in count(1):
        name = path if number == 1 else f"{path}-{number}"
        try:
            os.makedirs(name)
        except FileExistsError:
            continue
        break
    return name


def sweep_folder(path: str, overrides: Sequence[str]) -> str:
    """Finds the folder of a sweep with the same overrides that has not come to its end, or makes a new one.

    Args:
        path: The name of a new folder, ``<folder>/<day>/<time>``; all sweeps in ``<folder>`` are looked at.
        overrides: The overrides.

    Returns:
        The name of the folder.
    """
    others = sorted((found.parent for found in Path(path).parents[1].glob("*/*/multirun.yaml")), reverse=True)
    unfinished = (each for each in others if is_same_sweep(each, overrides) and _is_unfinished(each))
    return str(next(unfinished, None) or new_folder(path))


def is_same_sweep(folder: Path, overrides: Sequence[str]) -> bool:
    """Whether a folder is of a sweep with these overrides, and so has the same runs by the same numbers.

    Args:
        folder: The folder.
        overrides: The overrides.
    """
    return _overrides(folder) == list(overrides)


def _overrides(sweep: Path) -> list[str] | None:
    """The overrides of a sweep over all combinations; ``None`` of others, which choose as they go."""
    try:
        config: Any = OmegaConf.load(sweep / "multirun.yaml")
        overrides = list(config.hydra.overrides.task)
        is_over_all = config.hydra.sweeper._target_.endswith(f".{BasicSweeper.__name__}")
        return overrides if is_over_all and not config.hydra.sweeper.params and _combinations(overrides) else None
    except (OSError, ValueError, AttributeError, YAMLError, OmegaConfBaseException):
        return None


def _combinations(overrides: list[str]) -> list[list[str]] | None:
    """The overrides of each run, by its number; ``None`` if the numbers are other ones the next time."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        if any(isinstance(each.value(), Glob) or getattr(each.value(), "shuffle", False) for each in parsed):
            return None
        [runs] = BasicSweeper.split_arguments(parsed, None)
    except HydraException:
        return None
    return runs


def _runs(sweep: Path) -> list[list[str]] | None:
    overrides = _overrides(sweep)
    return None if overrides is None else _combinations(overrides)


def _is_unfinished(sweep: Path) -> bool:
    return len(_ended(sweep)) < len(_runs(sweep) or [])


def is_sweep() -> bool:
    """Whether this job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def record_path(folder: str | Path) -> Path:
    """Where the record of this run is.

    Args:
        folder: The folder of the run. Two runs of a sweep may be given one folder; their records differ in name.
    """
    return Path(folder) / (f"run-{HydraConfig.get().job.num}.json" if is_sweep() else "run.json")


def read_record(path: Path) -> dict[str, Any] | None:
    """Reads the record of a run.

    Args:
        path: The file.

    Returns:
        The record; ``None`` if the file is not there, or is not one.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "objective" in record else None


def has_runs(sweep: Path) -> bool:
    """Whether there are records of runs in the folder of a sweep, or in those within.

    Args:
        sweep: The folder.
    """
    return bool(_records(sweep))


def _records(sweep: Path) -> dict[tuple[Path, int], dict[str, Any]]:
    """The records of runs, by their path and when they were written."""
    paths = (path for path in sweep.rglob("run-*.json") if re.fullmatch(r"run-\d+", path.stem))
    found = {(path, path.stat().st_mtime_ns): read_record(path) for path in paths}
    return {key: record for key, record in found.items() if record is not None}


def _ended(sweep: Path) -> list[dict[str, Any]]:
    return [record for record in _records(sweep).values() if record["error"] is None]


def start(sweep: Path, *, goes_on: bool) -> None:
    """Notes the folder of a sweep for the table at the end.

    Args:
        sweep: The folder.
        goes_on: Whether the runs that are there belong to it.
    """
    _sweep[sweep] = frozenset() if goes_on else frozenset(_records(sweep))


def this_run() -> str:
    """Which run of how many this is, in words, with the overrides that the others have not."""
    config: Any = HydraConfig.get()
    runs, number = _runs(Path(config.sweep.dir)), config.job.num
    if runs is None:
        return f"Run {number + 1} of the sweep"
    shared = set.intersection(*map(set, runs))
    own = ", ".join(each for each in config.overrides.task if each not in shared)
    return f"Run {number + 1} of {len(runs)}{own and f' ({own})'}"


def how_to_go_on() -> str:
    """What to do after an interrupt of a sweep, in words."""
    # By what was noted, because the process that launches others has no configuration of Hydra's.
    can = any(_runs(folder) is not None for folder in _sweep)
    return "; the same command goes on with the sweep" if can else ""


def leave_launcher() -> None:
    """Lets this process start others as usual: joblib's launcher starts its own in a way that loaders cannot use."""
    if multiprocessing.get_start_method() == "loky":
        multiprocessing.set_start_method(None, force=True)


def expected_end() -> str:
    """When the sweep is expected to end, in words, by the mean of the runs so far; nothing where there are none."""
    config: Any = HydraConfig.get()
    sweep = Path(config.sweep.dir)
    ended = _ended(sweep)
    left = len(_runs(sweep) or []) - len(ended)
    if not ended or left < 1:
        return ""
    at_once = config.launcher.get("n_jobs", 1)
    at_once = min(at_once if at_once > 0 else os.cpu_count() or 1, left)
    end = datetime.now() + timedelta(seconds=fmean(run["seconds"] for run in ended) * left / at_once)
    return f"; the sweep will end at about {end:%H:%M on %Y-%m-%d}, if runs take as long as so far"


@contextmanager
def table_at_the_end() -> Iterator[None]:
    """Prints a table of the runs after a sweep, named by the overrides in which they differ.

    Raises:
        SystemExit: If a run failed.
    """
    _sweep.clear()
    failed: JobFailedError | None = None
    try:
        yield
    except JobFailedError as error:
        failed = error
    for folder, before in _sweep.items():
        _end(folder, before, failed)


def _end(folder: Path, before: frozenset[tuple[Path, int]], failed: JobFailedError | None) -> None:
    runs = [record for key, record in _records(folder).items() if key not in before]
    runs.sort(key=lambda run: run["number"])
    overrides = _own_overrides(runs)
    _print(folder, runs, overrides)
    _draw(folder, runs, overrides)
    failures = sum(run["error"] is not None for run in runs)
    if failures or failed is not None:
        sys.exit(f"{failures} of {len(runs)} runs failed.")


def _print(folder: Path, runs: list[dict[str, Any]], overrides: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for run in runs for name in run["measures"]))
    table = Table("run", *names, title="Runs", title_justify="left")
    for run, own in zip(runs, overrides, strict=True):
        name = ", ".join(own) or str(run["number"])
        measures = [f"{run['measures'][name]:.2%}" if name in run["measures"] else "" for name in names]
        cells = ["failed", *measures[1:]] if run["error"] is not None else measures
        table.add_row(Text(printable(name)), *cells)
    console = Console()
    console.print(table)
    console.print(f"Runs: {printable(str(folder))}", soft_wrap=True, markup=False)


def _own_overrides(runs: list[dict[str, Any]]) -> list[list[str]]:
    """The overrides of each run that not all have."""
    shared = set.intersection(*(set(run["overrides"]) for run in runs)) if len(runs) > 1 else set()
    return [[each for each in run["overrides"] if each not in shared] for run in runs]


def _draw(folder: Path, runs: list[dict[str, Any]], overrides: list[list[str]]) -> None:
    """Draws the error on corrupted images against that on clean ones, where several runs measured both."""
    points = []
    for run, own in zip(runs, overrides, strict=True):
        clean = next((name for name in run["measures"] if name.endswith(" accuracy")), None)
        if run["error"] is None and clean is not None and "corrupted accuracy" in run["measures"]:
            values = ", ".join(each.partition("=")[2] for each in own) or str(run["number"])
            errors = [100 * (1 - run["measures"][name]) for name in (clean, "corrupted accuracy")]
            points.append((printable(values), *errors))
    if len(points) < 2:
        return
    names = dict.fromkeys(each.partition("=")[0] for own in overrides for each in own)
    figure = figure_of(7, 5)
    axes = figure.subplots()
    axes.scatter([x for _, x, _ in points], [y for _, _, y in points], color="C0", zorder=2)
    for label, x, y in points:
        axes.annotate(label.replace("$", r"\$"), (x, y), (5, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="error on clean images in %", ylabel="error on corrupted images in %")
    axes.set_title(", ".join(names).replace("$", r"\$"), fontsize=9, loc="left")
    axes.margins(0.12)
    axes.grid(color="0.9", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, folder / "sweep.png")
    print(f"Clean against corrupted error: {printable(str(folder / 'sweep.png'))}")
