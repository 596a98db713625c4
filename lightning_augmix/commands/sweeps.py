"""The runs of a sweep: each leaves a record in its folder, and a table of them ends the command."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lightning_augmix._files import whole_file
from lightning_augmix._text import printable

__all__ = ["JobFailedError", "Sweep", "record", "table_at_the_end"]

_RECORD = "run.json"
_folders: list[Path] = []


class JobFailedError(Exception):
    """A job of a sweep failed, and its message was printed."""


class Sweep(Callback):
    """A Hydra callback that notes where the runs of a sweep are."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the folder."""
        _folders.append(Path(config.hydra.sweep.dir))


def record(measures: Mapping[str, float] | None = None, error: str | None = None) -> None:
    """Writes down how a run ended.

    Args:
        measures: What it reached, each in [0, 1].
        error: Why it failed.
    """
    config: Any = HydraConfig.get()
    run = {"number": OmegaConf.select(config, "job.num", default=0), "overrides": list(config.overrides.task)}
    with whole_file(Path(config.runtime.output_dir) / _RECORD) as path:
        path.write_text(json.dumps({**run, "measures": dict(measures or {}), "error": error}), encoding="utf-8")


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
    found = [json.loads(path.read_text(encoding="utf-8")) for path in _folders[0].rglob(_RECORD)]
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
