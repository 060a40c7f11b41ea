import os

import pytest


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
