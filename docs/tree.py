"""Print the file tree of docs/architecture.md, a line for each file.

python docs/tree.py          prints it
python docs/tree.py --write  puts it between the marks in docs/architecture.md
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("core", "autointerp", "figures")
PAGE, START, END = ROOT / "docs" / "architecture.md", "<!-- tree -->", "<!-- end of tree -->"
COLUMN = 30


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.split("\n")[0]


def lines_of(folder: Path, depth: int = 0) -> list[str]:
    """One line for the folder, one for each of its files, then its sub-folders."""
    pad = "  " * depth
    out = [f"{pad}{folder.name + '/':{COLUMN - len(pad)}}{first_line(folder / '__init__.py')}"]
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            out.append(f"{pad}  {path.name:{COLUMN - 2 - len(pad)}}{first_line(path)}")
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").exists():
            out += lines_of(inner, depth + 1)
    return out


def tree() -> str:
    """The whole tree as text."""
    lines = [f"{'main.py':{COLUMN}}{first_line(ROOT / 'main.py')}"]
    for package in PACKAGES:
        lines += lines_of(ROOT / package)
    return "\n".join(lines)


def page_with(text: str) -> str:
    """docs/architecture.md with `text` between the marks."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(START)[0], page.split(END)[1]
    return f"{before}{START}\n```\n{text}\n```\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page_with(tree()), encoding="utf-8")
    else:
        print(tree())
