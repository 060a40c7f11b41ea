"""Every shell and Python block of README, CONTRIBUTING and docs/ is run, page by page, or says why not.

A mark right before a block: `<!-- not run: REASON -->`, or `<!-- needs: EXTRA -->` for one that is run only where an extra of
pyproject.toml is installed. Commands are run as they are written, but in quick size: a `python` and a `raysp` before all others
on the PATH put the smallest network and few epochs into sweeps (`quick_size.py`). `KEY` becomes the key of a trained model.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL, PYTHON, SHOWN = {"sh"}, {"python"}, {"text"}
NEEDS = {"pi": ("spu", "jax"), "export": ("onnx", "onnxruntime", "onnxscript"), "search": ("optuna",), "wandb": ("wandb",)}
"""Extras, and the packages that tell that they are installed."""

_BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```[ \t]*$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    mark: str
    language: str
    text: str
    line: int

    @property
    def reason(self):
        """Why it isn't run."""
        return self.mark.removeprefix("not run:").strip() if self.mark.startswith("not run:") else ""

    @property
    def extra(self):
        return self.mark.removeprefix("needs:").strip() if self.mark.startswith("needs:") else ""


def blocks(page):
    text = page.read_text()
    return [
        Block(found["mark"] or "", found["language"], found["text"], text[: found.start("language")].count("\n") + 1)
        for found in _BLOCK.finditer(text)
    ]


def to_run(page):
    """The blocks to run, in order; Python blocks that follow one another are one script, as they may use each other's names."""
    found = []
    for block in blocks(page):
        if block.language not in SHELL | PYTHON or block.reason:
            continue
        if found and found[-1].language == block.language and block.language in PYTHON:
            found[-1] = replace(found[-1], text=found[-1].text + block.text)
        else:
            found.append(block)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_is_run_or_says_why_not(page):
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        assert block.language in SHELL | PYTHON | SHOWN, f"{where}: a block of {block.language or 'no language'}"
        if block.mark and block.language in SHELL | PYTHON:
            assert block.reason or block.extra in NEEDS, f"{where}: {block.mark}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_work(page, tiny_sweep, tmp_path):
    clone = make_clone(tmp_path, tiny_sweep)
    key = None
    for block in to_run(page):
        if block.extra and not all(map(importlib.util.find_spec, NEEDS[block.extra])):
            continue
        text, key = with_key(block.text, key, clone)
        shell = ["bash", "-euo", "pipefail", "-c", text]
        command = shell if block.language in SHELL else [sys.executable, "-c", text]
        ran = subprocess.run(command, cwd=clone, env=environment(clone), capture_output=True, text=True, timeout=300)
        said = f"{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
        assert ran.returncode == 0, f"{page.relative_to(ROOT)}:{block.line}\n{text}\n{said}"


def with_key(text, key, clone):
    """A block's text with a model's key in place of `KEY`; of the results directory that it names, if it names one."""
    if named := re.search(r"([\w./-]+/stages/finetune-)KEY", text):
        found = sorted(clone.glob(f"{named[1]}*"))
        assert found, f"no model in {named[1]}*"
        key = found[0].name.removeprefix("finetune-")
    return (text.replace("KEY", key) if key else text), key


def make_clone(directory, tiny_sweep):
    """What a clone has that commands name, and the results of the main job."""
    clone = directory / "raysp-clone"
    clone.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in {"runs", "data", "raysp", "site"}:
            (clone / path.name).symlink_to(path)
    shutil.copytree(tiny_sweep, clone / "runs" / "quick")
    commands = clone / ".bin"
    commands.mkdir()
    for name in ("python", "raysp"):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/docs/quick_size.py" {name} "$@"\n')
        command.chmod(0o755)
    return clone


def environment(clone):
    return {
        **os.environ,
        "PATH": f"{clone / '.bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "COLUMNS": "160",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
