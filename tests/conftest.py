"""A real, small run that the tests of several stages share: 600 images, two stages of 8 and 16 channels, one epoch."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SMALL = (
    "name='small'",
    "data.train_images=600",
    "data.test_images=300",
    "model.widths=[8,16]",
    "model.blocks=[1,1]",
    "model.reduction_ratio=4",
    "train.epochs=10",
    "train.decay_rate=0.8",
    "train.shift_pixels=0",
    "train.learning_rate=0.01",
    "train.batch_size=32",
    "train.ema_decay=0.9",
    "quantize.epochs=1",
    "quantize.ema_decay=0.9",
    "quantize.calibration_images=256",
    "export.samples_images=300",
    "verify.max_accuracy_drop=0.02",  # a network this small and this little trained is no match for the defaults
    "verify.min_qat_agreement=0.98",
)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder through train, quantize, export and verify. Do not change it: take ``small_run``."""
    from edgecbam import api, recipe

    run = tmp_path_factory.mktemp("shared") / "run"
    api.train(recipe.load("fashion_cbam", SMALL), run)
    api.quantize(run)
    api.export(run)
    api.verify(run)
    return run


@pytest.fixture
def small_run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the shared run to change at will."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.fixture
def resign() -> Callable[[Path, str], None]:
    """Make an altered file of an export folder look genuine, so that a gate behind the digests has to find it."""
    import dataclasses

    from edgecbam import artifacts

    def sign(folder: Path, name: str) -> None:
        manifest = artifacts.load_manifest(folder)
        if name in manifest.files:
            entry = dataclasses.replace(manifest.files[name], sha256=artifacts.sha256_file(folder / name))
            artifacts.write_manifest(folder, dataclasses.replace(manifest, files={**manifest.files, name: entry}))

    return sign


@pytest.fixture
def resign_stage() -> Callable[[Path, str], None]:
    """Make an altered file of a stage look whole: its digest goes into stage.json."""
    import json

    from edgecbam import artifacts

    def sign(folder: Path, name: str) -> None:
        record = json.loads((folder / artifacts.STAGE_FILE).read_text())
        record["files"][name] = artifacts.sha256_file(folder / name)
        (folder / artifacts.STAGE_FILE).write_text(json.dumps(record))

    return sign
