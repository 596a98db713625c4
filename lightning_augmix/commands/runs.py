"""The runs of ``augmix-train``: each has a folder of its own, with a record; a table of them ends a sweep."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from lightning_augmix._files import whole_file
from lightning_augmix._text import printable

__all__ = ["JobFailedError", "Runs", "is_sweep", "record", "table_at_the_end", "used_by_another"]

# What tells that a folder is that of a run.
_LEFT = ("checkpoints/*.ckpt", "logs/metrics.csv", "tensorboard")
_locks: list[IO[str]] = []
# The folder of the sweep, with the records that were there before.
_sweep: dict[Path, frozenset[tuple[Path, int]]] = {}


class JobFailedError(Exception):
    """A job of a sweep failed, and its message was printed."""


class Runs(Callback):
    """A Hydra callback that refuses used folders before Hydra writes there, and notes where the runs of a sweep are."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Takes the folder for the run.

        Raises:
            SystemExit: If it is that of another run.
        """
        with suppress(OmegaConfBaseException):  # what is wrong with the name, Hydra says
            folder = config.hydra.run.dir
            _exit(used_by_another(folder, config.ckpt_path))
            _take(folder, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Takes the folder for the sweep.

        Raises:
            SystemExit: If it has the runs of another.
        """
        folder = Path(config.hydra.sweep.dir)
        if any(any(folder.glob(f"*/{pattern}")) for pattern in (*_LEFT, "run-[0-9]*.json")):
            _exit(f"{folder} has the runs of another sweep: choose another hydra.sweep.dir.")
        _take(str(folder), "hydra.sweep.dir")
        _sweep[folder] = frozenset(_records(folder))


def _exit(message: str | None) -> None:
    if message is not None:
        sys.exit(f"augmix-train: {printable(message)}")


def _take(folder: str, key: str) -> None:
    """Locks the folder until the command ends, against others that have not written anything there yet."""
    if fcntl is None or _is_other_rank():
        return
    with suppress(OSError):  # Hydra says why a folder cannot be made; some file systems have no locks
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = Path(folder, ".lock").open("w")  # noqa: SIM115
        _locks.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _exit(f"{folder} is in use by another process: choose another {key}.")


def _is_other_rank() -> bool:
    """Whether another process of a distributed training has started this one, in the folder that it has taken."""
    from lightning.pytorch.utilities import rank_zero_only  # imported here, so that `--help` is quick

    return getattr(rank_zero_only, "rank", 0) > 0


def used_by_another(folder: str, ckpt_path: Any) -> str | None:
    """What to say if a folder is that of another run; a run that is resumed there is the same one.

    Args:
        folder: The folder.
        ckpt_path: The checkpoint that the run resumes from.
    """
    path = Path(folder)
    last = path / "checkpoints" / "last.ckpt"
    is_resumed = isinstance(ckpt_path, str) and last.resolve().parent == Path(ckpt_path).resolve().parent
    if is_resumed or _is_other_rank() or not any(any(path.glob(pattern)) for pattern in _LEFT):
        return None
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


def _records(sweep: Path) -> Iterator[tuple[Path, int]]:
    """The records of runs, and when they were written."""
    for path in sweep.rglob("run-*.json"):
        if re.fullmatch(r"run-\d+", path.stem):
            yield path, path.stat().st_mtime_ns


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
    finally:
        while _locks:
            _locks.pop().close()
    for folder, before in _sweep.items():
        _end(folder, before, failed)


def _end(folder: Path, before: frozenset[tuple[Path, int]], failed: JobFailedError | None) -> None:
    found = [json.loads(path.read_text(encoding="utf-8")) for path, _ in set(_records(folder)) - before]
    runs = sorted(found, key=lambda run: run["number"])
    _print(folder, runs)
    failures = sum(run["error"] is not None for run in runs)
    if failures or failed is not None:
        sys.exit(f"{failures} of {len(runs)} runs failed.")


def _print(folder: Path, runs: list[dict[str, Any]]) -> None:
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
    console.print(f"Runs: {printable(str(folder))}", soft_wrap=True, markup=False)
