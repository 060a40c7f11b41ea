"""Names on the Hugging Face Hub: what is there, what is downloaded, and a Hub that doesn't answer."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parquet import opened, usual

from raysp.data.sources import DataError, load_splits

OPEN = """
import sys
from pathlib import Path

from raysp.data.sources import open_source

try:
    print(open_source("huggingface:me/pictures", 8, Path()).config.fingerprint)
except ValueError as error:
    sys.exit(str(error))
"""
"""A program of its own, since the Hub's package reads the environment once."""


def open_by_name(tmp_path, **environment):
    known = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    known |= {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path)} | environment
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", OPEN], capture_output=True, text=True, env=known, timeout=120)
    return ended, time.monotonic() - begun


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 can't be reached"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9/no address"}, "no address can't be reached"),
    ],
)
def test_a_name_on_a_hub_that_can_not_be_reached_is_refused_within_seconds(tmp_path, environment, said):
    pytest.importorskip("huggingface_hub", reason="the extra huggingface isn't installed")
    ended, took = open_by_name(tmp_path, **environment)
    assert ended.returncode == 1 and took < 30
    assert said in ended.stderr and "HF_HOME" in ended.stderr and "me/pictures" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "name",
    ["a--b/c", "me/pic..tures", "me/x.git", "me/-x", "me./x", "mé/x", "a b", "me/pic tures", "m" * 97, "me/" + "x" * 97, "a?b"],
)
def test_names_that_the_hub_can_not_have_are_refused_before_it_is_asked(monkeypatch, name):
    monkeypatch.setattr("raysp.data.hub._is_reached", lambda endpoint: pytest.fail("it is asked"))
    with pytest.raises(DataError, match="the Hub has no such names; expected a directory with a data set, or OWNER/NAME:"):
        opened(name)
    rules = pytest.importorskip("huggingface_hub.utils", reason="the extra huggingface isn't installed")
    with pytest.raises(ValueError, match="epo"):
        rules.validate_repo_id(name.replace("é", " "))  # older ones took é for a letter


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./x", "a/b/c/d", "a//b", "me/x/"])
def test_what_looks_like_a_path_is_no_name(name):
    with pytest.raises(DataError, match=r"no directory \S+; expected one with a data set, or a name on the Hub"):
        opened(name)


def test_a_download_that_ends_in_the_middle_is_refused_without_a_traceback(monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="the extra huggingface isn't installed")

    class ReadError(Exception):
        """As httpx's, which is neither an OSError nor a ValueError."""

    def end(*args, **options):
        raise ReadError("the peer closed the connection")

    monkeypatch.setattr("raysp.data.hub._is_reached", lambda endpoint: True)
    monkeypatch.setattr(hub, "list_repo_files", lambda *args, **options: ["train.parquet"])
    monkeypatch.setattr(hub, "snapshot_download", end)
    with pytest.raises(
        DataError, match=r"me/pictures can't be downloaded from \S+ \(the peer closed the connection\); the same command"
    ):
        opened("me/pictures")


def test_of_several_data_sets_on_the_hub_none_is_downloaded_before_one_is_named(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="the extra huggingface isn't installed")
    usual(tmp_path / "fine", form="{split}.parquet")
    files = ["README.md", *(f"{name}/{split}.parquet" for name in ("fine", "plain") for split in ("train", "test"))]
    asked = []
    monkeypatch.setattr("raysp.data.hub._is_reached", lambda endpoint: True)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "list_repo_files", lambda *args, **options: files)
    monkeypatch.setattr(hub, "snapshot_download", lambda *args, **options: asked.append(options["allow_patterns"]) or tmp_path)
    with pytest.raises(DataError, match="me/pictures on the Hub holds several data sets: fine, plain; name one"):
        opened("me/pictures")
    assert not asked
    assert load_splits(opened("me/pictures/fine")).classes == ("cat", "dog") and asked == [["fine/*.parquet"]]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("mnist", "no directory mnist; if it is a name on the Hub, its package is missing"),
        ("me/pictures", "no directory me/pictures; if it is a name on the Hub"),
        ("train.parquet", "train.parquet is a file; expected its directory, such as huggingface:{here}"),
        ("a--b", "a--b is a file; expected a directory with .parquet files, or a name on the Hub"),
        ("{here}/mnist", "{here}/mnist is a file; expected a directory"),
        ("one/two/three/four", "one/two/three/four is a file; expected a directory"),
    ],
)
def test_a_file_is_in_the_way_only_of_what_can_be_no_name_on_the_hub(file, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("raysp.data.hub.importlib.util.find_spec", lambda name: None)
    file = Path(file.format(here=tmp_path))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with pytest.raises(DataError) as refused:
        opened(str(file))
    assert said.format(here=tmp_path) in str(refused.value)


def test_a_hub_that_never_answers_is_refused_within_seconds(tmp_path):
    pytest.importorskip("huggingface_hub", reason="the extra huggingface isn't installed")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ended, took = open_by_name(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "can't be reached" in ended.stderr and took < 30


def test_a_name_that_is_in_the_cache_needs_no_network(tmp_path):
    pytest.importorskip("huggingface_hub", reason="the extra huggingface isn't installed")
    kept = tmp_path / "hf" / "hub" / "datasets--me--pictures"
    usual(kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    ended, _ = open_by_name(tmp_path, HF_HUB_OFFLINE="1")
    assert ended.stdout.strip() == opened(usual(tmp_path / "here")).config.fingerprint, ended.stderr


def test_a_name_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("raysp.data.hub.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"no directory me/pictures; .* pip install -e '\.\[huggingface\]'"):
        opened("me/pictures")
    with pytest.raises(DataError, match="no directory /nowhere/at/all"):
        opened("/nowhere/at/all")
