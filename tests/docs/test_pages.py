"""Links and anchors of pages that MkDocs doesn't see as they are, the notebook, and the annotated tree."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import from_code  # noqa: E402 (docs/)
import notebooks  # noqa: E402 (docs/)
import tree  # noqa: E402 (docs/)

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "LOG.md", "results/cifar100-width16/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
NOTEBOOK = ROOT / "docs/how-to/own-front.ipynb"

_FENCE = re.compile(r"^```.*?^```[ \t]*$", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(path):
    """As forges make them of headings."""
    text = _FENCE.sub("", path.read_text())
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_in_a_clone(page):
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.relative_to(ROOT)}: {target}"
        assert found.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(found), f"{page.relative_to(ROOT)}: {target}"


@pytest.mark.parametrize("page", PAGES[:2] + PAGES[4:], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(page):
    for named in re.findall(r"`((?:raysp|analysis|sweeps|benchmarks|clusters|tests|docs)/[\w./-]*)`", page.read_text()):
        assert (ROOT / named).exists(), named


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tables_are_the_code_s(page):
    assert page.read_text() == from_code.with_tables(page.read_text()), "run: python docs/update.py"


def test_the_tree_is_the_code_s():
    page = ROOT / "CONTRIBUTING.md"
    assert page.read_text() == tree.with_tree(page.read_text()), "run: python docs/update.py"


def test_the_notebook_s_outputs_are_those_of_its_cells():
    stored = [cell["outputs"] for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    texts = [[_texts(output) for output in outputs] for outputs in stored]
    assert [[_texts(output) for output in outputs] for outputs in notebooks.run(NOTEBOOK)] == texts


def test_the_notebook_reads_any_finished_sweep(tiny_sweep):
    outputs = notebooks.run(NOTEBOOK, replace=("../../results/cifar100-width16", str(tiny_sweep)))
    assert any("image/png" in output.get("data", {}) for output in outputs[-1])


def _texts(output):
    """What doesn't depend on fonts and versions."""
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "a picture")))
