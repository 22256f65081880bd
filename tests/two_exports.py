"""Makes small runs in one process; prints the digests of what each exported, as JSON.

python two_exports.py FOLDER COUNT
"""

import json
import sys
from pathlib import Path

from edgecbam import api, artifacts, recipe

SETTINGS = (
    *("data.train_images=64", "data.test_images=20", "data.height=16", "data.width=16"),
    *("model.widths=[4]", "model.blocks=[1]", "model.reduction_ratio=2", "model.dropout=0.2"),
    *("train.epochs=1", "train.batch_size=16", "train.mixup=0.2", "quantize.epochs=1", "quantize.batch_size=16"),
    *("quantize.calibration_images=32", "export.samples_images=20"),
)


def main() -> None:
    folder, told = Path(sys.argv[1]), []
    for number in range(int(sys.argv[2])):
        run = folder / str(number)
        api.train(recipe.load("fashion_cbam", SETTINGS), run)
        api.quantize(run)
        api.export(run)
        files = [path for stage in ("export", "app") for path in sorted((run / stage).rglob("*")) if path.is_file()]
        told.append({str(path.relative_to(run)): artifacts.sha256_file(path) for path in files})
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
