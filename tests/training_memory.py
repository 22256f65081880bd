"""Trains a small network for many epochs; prints the resident memory after each as JSON.

python training_memory.py EPOCHS
"""

import json
import sys
import tempfile
from pathlib import Path

import psutil

from edgecbam import api, recipe
from edgecbam.events import Event

SETTINGS = (
    *("data.train_images=64", "data.test_images=20", "data.height=16", "data.width=16", "data.channels=1"),
    *("model.widths=[4]", "model.blocks=[1]", "model.reduction_ratio=2", "train.batch_size=16"),
    *("train.precision=float32", "train.mixup=0.2", "train.decay_rate=0.99"),
)


def main() -> None:
    memory: list[int] = []

    def listen(event: Event) -> None:
        if event.message.startswith("epoch "):
            memory.append(psutil.Process().memory_info().rss)

    with tempfile.TemporaryDirectory() as folder:
        settings = recipe.load("fashion_cbam", (*SETTINGS, f"train.epochs={sys.argv[1]}"))
        api.train(settings, Path(folder) / "run", on_event=listen)
    sys.stdout.write(json.dumps(memory) + "\n")


if __name__ == "__main__":
    main()
