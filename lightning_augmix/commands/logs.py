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
        written = Path(self.log_dir) / "metrics.csv"
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0 and written.exists():
            aside = written.rename(Path(self.save_dir) / "metrics.part")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*exists and is not empty")
                writer = super().experiment
            aside.rename(written)
            with written.open(newline="") as file:
                writer.metrics_keys = next(csv.reader(file), [])
        return super().experiment
