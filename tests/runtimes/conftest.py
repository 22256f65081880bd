"""The model files of tests/fixtures and a NumPy reference of what they compute."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return FIXTURES


@pytest.fixture(scope="session")
def network() -> ModuleType:
    """tests/fixtures/make_models.py: weights and images."""
    spec = importlib.util.spec_from_file_location("make_models", FIXTURES / "make_models.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def images(network: ModuleType) -> np.ndarray:
    """[40, 8, 8, 1] float32."""
    made: np.ndarray = network.images(40)
    return made


@pytest.fixture(scope="session")
def expected(network: ModuleType, images: np.ndarray) -> np.ndarray:
    """[40, 3] logits by NumPy alone."""
    kernel, dense, bias = network.weights()
    padded = np.pad(images[..., 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    features = sum(padded[:, y : y + 8, x : x + 8, None] * kernel[y, x, 0] for y in range(3) for x in range(3))
    logits: np.ndarray = np.maximum(features, 0).mean(axis=(1, 2)) @ dense + bias
    return logits
