"""The runs of ``augmix-train``: each has a folder of its own, with a record; a table of them ends a sweep."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_augmix._files import whole_file
from lightning_augmix._text import printable

__all__ = ["JobFailedError", "Runs", "is_sweep", "record", "table_at_the_end", "used_by_another"]

# What tells that a folder is that of a run.
_LEFT = ("checkpoints/*.ckpt", "logs/metrics.csv", "tensorboard")
_folders: list[Path] = []


class JobFailedError(Exception):
    """A job of a sweep failed, and its message was printed."""


class Runs(Callback):
    """A Hydra callback that refuses used folders before Hydra writes there, and notes where the runs of a sweep are."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuses the folder of another run.

        Raises:
            SystemExit: If it is one.
        """
        with suppress(OmegaConfBaseException):  # what is wrong with the name, Hydra says
            _exit(used_by_another(config.hydra.run.dir, config.ckpt_path))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the folder of the sweep, or refuses that of another.

        Raises:
            SystemExit: If it is one.
        """
        folder = Path(config.hydra.sweep.dir)
        if any(_records(folder)):
            _exit(f"{folder} has the runs of another sweep: choose another hydra.sweep.dir.")
        _folders.append(folder)


def _exit(message: str | None) -> None:
    if message is not None:
        sys.exit(f"augmix-train: {printable(message)}")


def used_by_another(folder: str, ckpt_path: Any) -> str | None:
    """What to say if a folder is that of another run; a run that is resumed there is the same one.

    Args:
        folder: The folder.
        ckpt_path: The checkpoint that the run resumes from.
    """
    from lightning.pytorch.utilities import rank_zero_only  # imported here, so that `--help` is quick

    path = Path(folder)
    is_resumed = isinstance(ckpt_path, str) and path.resolve() in Path(ckpt_path).resolve().parents
    is_other_rank = getattr(rank_zero_only, "rank", 0) > 0  # which comes into the folder after the first
    if is_resumed or is_other_rank or not any(any(path.glob(pattern)) for pattern in _LEFT):
        return None
    last = path / "checkpoints" / "last.ckpt"
    resume = f", or resume the run that is there with ckpt_path={last}" if last.is_file() else ""
    return f"{folder} is the folder of another run: choose another hydra.run.dir{resume}."


def is_sweep() -> bool:
    """Whether this job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def record(measures: Mapping[str, float] | None = None, error: str | None = None) -> None:
    """Writes down how a run ended.

    Args:
        measures: What it reached, each in [0, 1].
        error: Why it failed.
    """
    config: Any = HydraConfig.get()
    number = config.job.num if is_sweep() else 0
    run = {"number": number, "overrides": list(config.overrides.task), "measures": dict(measures or {}), "error": error}
    name = f"run-{number}.json" if is_sweep() else "run.json"  # two of a sweep may be given one folder
    with whole_file(Path(config.runtime.output_dir) / name) as path:
        path.write_text(json.dumps(run), encoding="utf-8")


def _records(sweep: Path) -> Iterator[Path]:
    return sweep.rglob("run-*.json")


@contextmanager
def table_at_the_end() -> Iterator[None]:
    """Prints a table of the runs after a sweep, named by the overrides in which they differ.

    Raises:
        SystemExit: If a run failed.
    """
    _folders.clear()
    failed: JobFailedError | None = None
    try:
        yield
    except JobFailedError as error:
        failed = error
    if not _folders:
        return
    found = [json.loads(path.read_text(encoding="utf-8")) for path in _records(_folders[0])]
    runs = sorted(found, key=lambda run: run["number"])
    _print(runs)
    failures = sum(run["error"] is not None for run in runs)
    if failures or failed is not None:
        sys.exit(f"{failures} of {len(runs)} runs failed.")


def _print(runs: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shared = set.intersection(*(set(run["overrides"]) for run in runs)) if len(runs) > 1 else set()
    names = list(dict.fromkeys(name for run in runs for name in run["measures"]))
    table = Table("run", *names, title="Runs", title_justify="left")
    for run in runs:
        name = ", ".join(each for each in run["overrides"] if each not in shared) or str(run["number"])
        measures = [f"{run['measures'][name]:.2%}" if name in run["measures"] else "" for name in names]
        cells = ["failed", *measures[1:]] if run["error"] is not None else measures
        table.add_row(Text(printable(name)), *cells)
    console = Console()
    console.print(table)
    console.print(f"Runs: {printable(str(_folders[0]))}", soft_wrap=True, markup=False)
