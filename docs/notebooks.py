"""Notebooks without Jupyter: run their cells, keep what came out, and show it.

Owns the little that our notebook needs: the last expression's value, what is printed, and matplotlib's figures.
"""

import ast
import base64
import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

_STYLE = re.compile(r"<style.*?</style>\n?", re.S)


def run(path: Path, *, directory: Path | None = None, replace: tuple[str, str] | None = None) -> list[list[dict[str, Any]]]:
    """Run a notebook's code cells, one after the other.

    Args:
        path: the notebook.
        directory: to run it in; its own by default, as Jupyter does.
        replace: text in the cells, and what takes its place.

    Returns:
        The outputs of each code cell, as notebooks keep them.
    """
    import matplotlib

    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(directory or path.parent)
    try:
        return [
            _run_cell("".join(cell["source"]).replace(*(replace or ("", ""))), names)
            for cell in json.loads(path.read_text())["cells"]
            if cell["cell_type"] == "code"
        ]
    finally:
        os.chdir(before)


def _run_cell(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    import matplotlib.pyplot as plt

    tree = ast.parse(source)
    last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if last is not None:
        tree.body.pop()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)  # noqa: S102 (that is what a notebook is)
        value = None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
        plt.close(number)
        content = base64.b64encode(picture.getvalue()).decode()
        outputs.append({"output_type": "display_data", "metadata": {}, "data": {"image/png": content}})
    if value is not None and not (plt.__name__ in type(value).__module__ or type(value).__module__.startswith("matplotlib")):
        data = {"text/plain": str(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data})
    return outputs


def to_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its stored outputs as Markdown, and the pictures that it shows, by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell above draws]({name})")
            elif "text/html" in data:
                table = _STYLE.sub("", "".join(data["text/html"])).replace(' border="1"', "")
                parts.append(f'<div class="output" markdown="0">\n{table}\n</div>')
            else:
                text = "".join(data.get("text/plain", output.get("text", [])))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def store(path: Path) -> None:
    """Run a notebook and keep its outputs in it."""
    notebook, outputs = json.loads(path.read_text()), run(path.absolute())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, found) in enumerate(zip(code, outputs, strict=True), start=1):
        for output in found:
            if "execution_count" in output:
                output["execution_count"] = number
        cell["execution_count"], cell["outputs"] = number, found
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
