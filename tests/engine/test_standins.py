"""What stands in for a home that nobody knows, or that can't be written to."""

import os
import tempfile
from pathlib import Path

import pytest

from raysp.engine import surroundings
from raysp.engine.standins import stand_in_for_home
from raysp.store.home import NO_HOME, home_of
from raysp.store.location import locate
from raysp.store.paths import user_path

OURS = ("HOME", "MPLCONFIGDIR", NO_HOME)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Where what stands in is made; the user has no name, and nothing is set."""
    for name in OURS:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    monkeypatch.setattr(surroundings, "SHORT", (str(tmp_path),))
    return tmp_path / f"raysp-{os.getuid()}"


def test_a_process_without_a_home_gets_one_that_is_not_the_users(own):
    stand_in_for_home()
    assert {name: os.environ[name] for name in OURS} == {"HOME": str(own), "MPLCONFIGDIR": f"{own}/matplotlib", NO_HOME: str(own)}
    assert own.is_dir() and Path.home() == own and home_of() is None
    stand_in_for_home()  # as a process does that it starts
    assert os.environ["HOME"] == str(own)
    for read in (user_path, locate):
        with pytest.raises(ValueError, match=r"~/run: the system knows no such home; set HOME, or give the path without ~"):
            read("~/run")
    assert user_path("run") == Path("run").absolute()


def test_a_home_that_can_not_be_written_to_stays(own, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/none")
    stand_in_for_home()
    assert os.environ["HOME"] == "/proc/none" and os.environ["MPLCONFIGDIR"] == f"{own}/matplotlib" and NO_HOME not in os.environ
    assert locate("~/run") == Path("/proc/none/run")


def test_a_home_like_others_is_left_as_it_is(own, monkeypatch):
    with tempfile.TemporaryDirectory() as home:
        monkeypatch.setenv("HOME", home)
        stand_in_for_home()
        assert os.environ["HOME"] == home and "MPLCONFIGDIR" not in os.environ and not own.exists()


def test_without_a_place_nothing_is_changed(own, monkeypatch):
    monkeypatch.setattr(surroundings, "SHORT", ("/proc/none",))
    stand_in_for_home()
    assert not any(name in os.environ for name in OURS)
    with pytest.raises(ValueError, match="the system knows no such home"):
        user_path("~")
