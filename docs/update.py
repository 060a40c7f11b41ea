"""Brings up to date what the documentation takes from the code: `python docs/update.py`.

Tables of flags, columns, files and presets; the annotated tree in CONTRIBUTING.md; the notebook's outputs. Tests say when it is
due.
"""

from pathlib import Path

import from_code
import notebooks
import tree

if __name__ == "__main__":
    here = Path(__file__).parent
    for page in here.rglob("*.md"):
        page.write_text(from_code.with_tables(page.read_text()))
    contributing = here.parent / "CONTRIBUTING.md"
    contributing.write_text(tree.with_tree(contributing.read_text()))
    for notebook in here.rglob("*.ipynb"):
        notebooks.store(notebook)
