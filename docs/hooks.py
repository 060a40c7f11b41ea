"""What MkDocs does beyond its Markdown: tables, pages that lie elsewhere in the project, the notebook.

- The tables that `from_code.py` makes are made again, so that the site has them as the code has them.
- README's neighbours CONTRIBUTING.md and LOG.md, and the README of kept results, become pages; their links, and links to them,
  are turned to where they are in the site. Links to files that the site doesn't have become plain text.
- The notebook becomes a page, as it was run.
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import from_code
import notebooks
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

ELSEWHERE: Mapping[str, str] = {
    "CONTRIBUTING.md": "contributing.md",
    "LOG.md": "log.md",
    "results/cifar100-width16/README.md": "results/cifar100-width16.md",
    "results/cifar100-width16/pareto.png": "results/pareto.png",
    "results/cifar100-width16/fig1.png": "results/fig1.png",
    "results/cifar100-width16/fig2a.png": "results/fig2a.png",
    "results/cifar100-width16/fig2b.png": "results/fig2b.png",
    "results/h100-step/README.md": "results/h100-step.md",
    "README.md": "index.md",
}
"""Files outside docs/ by their place in the project, and where the site has them. README.md itself is not shown:
`index.md` stands for it."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```[ \t]*$)", re.M | re.S)
_MARK = re.compile(r"^<!-- (?:not run|needs): .*? -->\n", re.M)


def on_files(files: Files, *, config: Any) -> Files:
    """Add what lies elsewhere."""
    for source, target in ELSEWHERE.items():
        if source != "README.md":
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            text, pictures = notebooks.to_markdown(Path(str(file.abs_src_path)))
            page = File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=text)
            files.append(page)
            for name, content in pictures.items():
                place = posixpath.join(posixpath.dirname(file.src_uri), name)
                files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Bring tables up to date, and turn links."""
    place = page.file.src_uri
    elsewhere = {target: source for source, target in ELSEWHERE.items()}
    source = elsewhere[place] if place in elsewhere and place != "index.md" else f"docs/{place}"

    def link(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return found[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        in_site = wanted.removeprefix("docs/") if wanted.startswith("docs/") else ELSEWHERE.get(wanted)
        if in_site is None:
            if not (ROOT / wanted).exists():
                return found[0]  # MkDocs names it
            return text
        in_site = re.sub(r"\.ipynb$", ".md", in_site)
        if files.get_file_from_path(in_site) is None:
            return found[0]
        turned = posixpath.relpath(in_site, posixpath.dirname(place) or ".")
        return f"{mark}[{text}]({turned}{'#' if anchor else ''}{anchor})"

    parts = _FENCE.split(_MARK.sub("", from_code.with_tables(markdown)))
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)
