"""Fixtures that several test modules share."""

import io
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from raysp.engine.context import Place
from raysp.store.records import Store

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # for all tests
if {"PYTEST_XDIST_WORKER", "RAY_TMPDIR"} <= os.environ.keys():
    # Where several processes test, each one's Rays are apart from the others': they write down there which is the current one.
    own = Path(os.environ["RAY_TMPDIR"], os.environ["PYTEST_XDIST_WORKER"])
    own.mkdir(parents=True, exist_ok=True)
    os.environ["RAY_TMPDIR"] = str(own)


def pytest_collection_modifyitems(items):
    """Files with the most slow tests first, so that several processes, each of which takes whole files, end together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def console():
    """A console that keeps what it is told; read it with `console.file.getvalue()`."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def place(tmp_path):
    """A place whose store is owned by this test."""
    with Store(root=tmp_path / "results").lock() as store:
        yield Place(store=store)
