"""Checks the documentation: links lead somewhere, commands and tests that it names exist, Python blocks compile."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?(?:::(\w+))?")
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")


def pages() -> list[Path]:
    """The pages that are checked: those at the top, and all under docs, examples and benchmarks."""
    folders = (ROOT / name for name in ("docs", "examples", "benchmarks"))
    return sorted([*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))])


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings make, as the usual viewers name them."""
    headings = re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Links inside the repository whose page or anchor does not exist. Addresses of the web are not visited."""
    for target in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and linked.suffix == ".md" and anchor not in anchors(linked.read_text()):
            yield f"the link {target} names a heading that does not exist"


def missing_targets(text: str, makefile: str) -> Iterator[str]:
    """Commands `make X`, in code, that the Makefile does not have."""
    code = "\n".join([*(match[2] for match in _FENCE.findall(text)), *re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))])
    for target in sorted(set(_MAKE.findall(code))):
        if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
            yield f"'make {target}' does not exist"


def missing_tests(text: str) -> Iterator[str]:
    """Tests that a page names as its proof and that do not exist."""
    for path, *names in _TEST.findall(text):
        if not (ROOT / path).is_file():
            yield f"{path} does not exist"
            continue
        defined = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        }
        for name in filter(None, names):
            if name not in defined:
                yield f"{path} has no {name}"


def broken_blocks(text: str) -> Iterator[str]:
    """Python blocks that don't compile."""
    for _, language, body in _FENCE.findall(text):
        if language in ("python", "py"):
            try:
                compile(textwrap.dedent(body), "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            except SyntaxError as error:
                yield f"a Python block does not compile, line {error.lineno}: {error.msg}: {(error.text or '').strip()}"


def main() -> int:
    """Check all pages; print what is wrong. Returns the exit status."""
    makefile = (ROOT / "Makefile").read_text()
    problems: list[str] = []
    checked = pages()
    for page in checked:
        text = page.read_text()
        for found in (broken_links(page, text), missing_targets(text, makefile), missing_tests(text), broken_blocks(text)):
            problems += [f"{page.relative_to(ROOT)}: {problem}" for problem in found]
    print("\n".join(problems) if problems else f"{len(checked)} pages, nothing wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
