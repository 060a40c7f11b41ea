"""Fixtures that several test modules share."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from raysp.engine.context import Place
from raysp.store.records import Store

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # for all tests


@pytest.fixture
def console():
    """A console that keeps what it is told; read it with `console.file.getvalue()`."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def place(tmp_path):
    """A place whose store is owned by this test."""
    with Store(root=tmp_path / "results").lock() as store:
        yield Place(store=store)
