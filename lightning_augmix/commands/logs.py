"""Where the figures of a training are logged."""

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["AppendingCSVLogger"]


class AppendingCSVLogger(CSVLogger):
    """Lightning's CSVLogger, which goes on with the file of an earlier part of the run, rather than delete it."""

    @property
    def experiment(self) -> Any:
        """The writer."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._continue(Path(self.log_dir) / "metrics.csv", Path(self.save_dir) / "metrics.part")
        return super().experiment

    def _continue(self, written: Path, aside: Path) -> None:
        """Opens the writer, which deletes what is written, while that lies aside."""
        if aside.exists():  # an earlier process was killed here
            aside.replace(written)
        if not written.exists():
            return
        written.rename(aside)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*exists and is not empty")
                writer = super().experiment
        finally:
            aside.rename(written)
        with written.open("r+", newline="") as file:
            writer.metrics_keys = next(csv.reader(file), [])
            if not file.read().endswith("\n"):  # a kill cut off the last line
                file.write("\n")
