"""history.csv: one line for each epoch."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from edgecbam.artifacts import write_whole


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.csv. Accuracies are top-1 on the validation images, 0…1; loss is the mean over the epoch."""

    epoch: int
    learning_rate: float
    loss: float
    raw_accuracy: float
    ema_accuracy: float


class History:
    """history.csv, rewritten whole after each epoch, so that a resumed training finds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[EpochRecord] = []
        if path.is_file():
            for row in csv.DictReader(io.StringIO(path.read_text("utf-8"))):
                self.records.append(EpochRecord(int(row.pop("epoch")), **{k: float(v) for k, v in row.items()}))

    def keep(self, epochs: int) -> None:
        self.records = self.records[:epochs]

    def append(self, record: EpochRecord) -> None:
        self.records.append(record)
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(vars(record)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(entry) for entry in self.records)
        write_whole(self.path, buffer.getvalue())
