"""Which tests need which framework, and whether it is here."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import pytest

__all__ = ["FRAMEWORKS", "IN_PROCESSES_OF_THEIR_OWN", "PROCESSES", "Framework", "need"]


@dataclass(frozen=True)
class Framework:
    """The tests of one integration.

    Attributes
    ----------
    file : str
        In this folder.
    packages : tuple of str
        That they import.
    section : str
        Of docs/integrations.md, whose example is tried too; empty where that is a flow.
    """

    file: str
    packages: tuple[str, ...]
    section: str = ""


#: Those of a line share a process: to import PyTorch takes longer than most of these tests.
PROCESSES = {
    "pytorch": [
        Framework("test_pytorch.py", ("torch",)),
        Framework("test_distributed.py", ("torch",), "torch.distributed.checkpoint"),
    ],
    "huggingface": [Framework("test_huggingface.py", ("torch", "transformers", "accelerate"), "Hugging Face")],
    "keras": [Framework("test_keras.py", ("torch", "keras"), "Keras")],
    "lightning": [Framework("test_lightning.py", ("torch", "lightning"), "Lightning")],
    "without pytorch": [
        Framework("test_lightgbm.py", ("lightgbm",), "LightGBM"),
        Framework("test_sklearn.py", ("sklearn", "joblib"), "scikit-learn"),
        Framework("test_xgboost.py", ("xgboost",), "XGBoost"),
    ],
}

FRAMEWORKS = [framework for together in PROCESSES.values() for framework in together]

IN_PROCESSES_OF_THEIR_OWN = {"test_documentation.py", *(framework.file for framework in FRAMEWORKS)}


def need(*packages: str) -> None:
    """Skip the test where one of these packages is missing. CI has all of them: there the test fails by itself."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"not installed here: {', '.join(missing)}")
