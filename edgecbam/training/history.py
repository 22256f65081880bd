"""history.csv: one line for each epoch."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from edgecbam.artifacts import write_whole


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.csv.

    Attributes:
        epoch: from 1.
        learning_rate: at the end of the epoch.
        loss: mean over the epoch.
        raw: the metric on the validation images with the weights as trained; NaN without validation images.
        ema: the same with the averaged weights.
        metric: ``accuracy`` (top-1, 0…1) or ``rmse``; the columns are raw_accuracy and ema_accuracy, or raw_rmse and
            ema_rmse. An RMSE is in the target's unit; of several targets it is their quadratic mean, each in standard
            deviations of its training values.
    """

    epoch: int
    learning_rate: float
    loss: float
    raw: float
    ema: float
    metric: str = "accuracy"

    def row(self) -> dict[str, float]:
        """The columns of history.csv."""
        return {
            "epoch": self.epoch,
            "learning_rate": self.learning_rate,
            "loss": self.loss,
            f"raw_{self.metric}": self.raw,
            f"ema_{self.metric}": self.ema,
        }


class History:
    """history.csv, rewritten whole after each epoch, so that a resumed training finds it."""

    def __init__(self, path: Path, metric: str) -> None:
        self.path = path
        self.metric = metric
        self.records: list[EpochRecord] = []
        if path.is_file():
            for row in csv.DictReader(io.StringIO(path.read_text("utf-8"))):
                rate, loss, raw, ema = (float(row[name]) for name in list(row)[1:])
                self.records.append(EpochRecord(int(row["epoch"]), rate, loss, raw, ema, metric))

    def keep(self, epochs: int) -> None:
        self.records = self.records[:epochs]

    def append(self, record: EpochRecord) -> None:
        self.records.append(record)
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(record.row()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(entry.row() for entry in self.records)
        write_whole(self.path, buffer.getvalue())
