"""The runs of ``augmix-train``: each has a folder of its own, with a record."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from lightning_augmix._files import whole_file
from lightning_augmix._text import printable
from lightning_augmix.commands import sweeps

__all__ = [
    "Runs",
    "UsedFolderError",
    "finished",
    "how_to_go_on",
    "record",
    "release_at_the_end",
    "resumed",
    "used_by_another",
]

# What tells that a folder is that of a run.
_LEFT = ("checkpoints/*.ckpt", "logs/metrics.csv", "tensorboard")
_locks: list[IO[str]] = []


class UsedFolderError(ValueError):
    """The folder of a run is that of another."""


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
        """Takes the folder for the sweep, or that of the same sweep, to go on.

        Raises:
            SystemExit: If it has the runs of another.
        """
        folder = Path(config.hydra.sweep.dir)
        has_runs = sweeps.has_runs(folder) or any(any(folder.glob(f"*/{pattern}")) for pattern in _LEFT)
        if has_runs and not sweeps.is_same_sweep(folder, config.hydra.overrides.task):
            _exit(f"{folder} has the runs of another sweep: choose another hydra.sweep.dir.")
        _take(str(folder), "hydra.sweep.dir")
        if has_runs:
            print(f"Going on with the sweep in {printable(str(folder))}; hydra.sweep.dir=DIR starts it anew in DIR.")
        sweeps.start(folder, goes_on=has_runs)


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
    last = _last_checkpoint(path)
    is_resumed = isinstance(ckpt_path, str) and last.resolve().parent == Path(ckpt_path).resolve().parent
    others: set[Path] = set()
    if sweeps.is_sweep():
        own = sweeps.record_path(path)
        others = set(path.glob("run-[0-9]*.json")) - {own}
        is_resumed = is_resumed or own.exists()
    is_used = not is_resumed and any(any(path.glob(pattern)) for pattern in _LEFT)
    if _is_other_rank() or not (others or is_used):
        return None
    resume = f", or resume the run that is there with ckpt_path={last}" if last.is_file() else ""
    return f"{folder} is the folder of another run: choose another hydra.run.dir{resume}."


def _last_checkpoint(folder: str | Path) -> Path:
    return Path(folder) / "checkpoints" / "last.ckpt"


def resumed(ckpt_path: str | None) -> str | None:
    """The checkpoint from which a run goes on: in a sweep its own, if it was interrupted.

    Args:
        ckpt_path: The checkpoint that was given.
    """
    last = _last_checkpoint(HydraConfig.get().runtime.output_dir)
    return str(last) if sweeps.is_sweep() and last.is_file() else ckpt_path


def how_to_go_on() -> str:
    """What to do after an interrupt of a run that kept a checkpoint, in words."""
    if sweeps.is_sweep():
        return ""
    last = _last_checkpoint(HydraConfig.get().runtime.output_dir)
    return f"; to go on, add ckpt_path={printable(str(last))} to the command" if last.is_file() else ""


def finished(settings: Mapping[str, Any]) -> float | None:
    """The objective of this run of a sweep, if it has come to its end before.

    Args:
        settings: What this run is about to do.

    Raises:
        UsedFolderError: If the run that is there had other overrides or settings.
    """
    if not sweeps.is_sweep():
        return None
    config: Any = HydraConfig.get()
    folder = config.runtime.output_dir
    found = sweeps.read_record(sweeps.record_path(folder))
    if found is None:
        return None
    changed = [key for key in settings.keys() | found["settings"] if settings.get(key) != found["settings"].get(key)]
    if found["overrides"] != list(config.overrides.task) or changed:
        of = f" with another {', '.join(sorted(changed))}" if changed else ""
        raise UsedFolderError(f"{folder} has a run{of}: choose another hydra.sweep.dir.")
    return float("nan" if found["objective"] is None else found["objective"]) if found["error"] is None else None


def record(
    measures: Mapping[str, float] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    objective: float | None = None,
    seconds: float = 0,
    error: str | None = None,
    in_its_folder: bool = True,
) -> None:
    """Writes down how a run ended, or that it has begun.

    Args:
        measures: What it reached, each in [0, 1].
        settings: What it was about to do; ``None`` for those of the record that is there.
        objective: That of the sweep, in [0, 1].
        seconds: How long it took, at least 0.
        error: Why it failed.
        in_its_folder: ``False`` for the folder of the sweep, if that of the run is another's.
    """
    config: Any = HydraConfig.get()
    path = sweeps.record_path(config.runtime.output_dir if in_its_folder else config.sweep.dir)
    before = sweeps.read_record(path) or {"settings": {}}
    run = {
        "number": config.job.num if sweeps.is_sweep() else 0,
        "overrides": list(config.overrides.task),
        "settings": dict(before["settings"] if settings is None else settings),
        "measures": dict(measures or {}),
        "objective": None if objective is None or math.isnan(objective) else objective,
        "seconds": seconds,
        "error": error,
    }
    with whole_file(path) as part:
        part.write_text(json.dumps(run), encoding="utf-8")


@contextmanager
def release_at_the_end() -> Iterator[None]:
    """Gives the folders back that were taken for runs and sweeps."""
    try:
        yield
    finally:
        while _locks:
            _locks.pop().close()
