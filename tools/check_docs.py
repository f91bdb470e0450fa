"""Checks the documentation: links lead somewhere; what it names (commands, options, attributes, tests) exists; Python compiles."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from ckpt_async.cli.app import app
from metaflow_extensions.ckpt_async.plugins.checkpoint.names import DEFAULTS

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?(?:::(\w+))?")
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")
#: At the beginning of a line, behind a prompt, a pipe or another program, or of inline code.
_COMMAND = re.compile(
    r"(?:^|[$`|&/ ])(?:ckpt-async|python -m ckpt_async\.cli|\w+\.py checkpoint) +((?:[^\n`|&\\]|\\\n)*)", re.MULTILINE
)
_WITH = re.compile(r"--with '?checkpoint:([^\s`'\"]+)")
_DECORATOR = re.compile(r"@checkpoint\(([^()`]*)\)")


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
    for target in sorted(set(_MAKE.findall(code_of(text)))):
        if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
            yield f"'make {target}' does not exist"


def code_of(text: str) -> str:
    """The code of a page: its blocks, the indented ones too, and what stands between backquotes."""
    prose = _FENCE.sub("", text)
    blocks = [match[2] for match in _FENCE.findall(text)]
    return "\n".join([*blocks, *re.findall(r"^ {4}.*$", prose, re.MULTILINE), *re.findall(r"`([^`\n]+)`", prose)])


def missing_commands(text: str, program: Any) -> Iterator[str]:
    """Commands of ``ckpt-async``, and options of them, that it does not have."""
    commands: Mapping[str, Any] = program.commands
    own = {name for parameter in program.params for name in parameter.opts}
    for line in _COMMAND.findall(code_of(text)):
        named = re.match(r"(?:--(?:store|access) \S+ +)*([a-z]+)\b", line)
        if named and named[1] not in commands:
            yield f"'ckpt-async {named[1]}' does not exist"
            continue
        known = own | {name for parameter in (commands[named[1]].params if named else ()) for name in parameter.opts}
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", line):
            if option not in known | {"--help", "-h"}:
                yield f"'ckpt-async {named[1] if named else ''} {option}' does not exist"


def missing_attributes(text: str) -> Iterator[str]:
    """Attributes that `@checkpoint` does not have, in the decorator and on the command line."""
    code = code_of(text)
    given = [attribute.partition("=")[0] for found in _WITH.findall(code) for attribute in re.split(r",(?=\w+=)", found)]
    given += [name for found in _DECORATOR.findall(code) for name in re.findall(r"(\w+)=", found)]
    for name in sorted(set(given) - set(DEFAULTS) - {"NAME"}):
        yield f"@checkpoint has no attribute {name!r}"


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
    program = typer.main.get_command(app)
    problems: list[str] = []
    checked = pages()
    for page in checked:
        text = page.read_text()
        for found in (
            broken_links(page, text),
            missing_targets(text, makefile),
            missing_commands(text, program),
            missing_attributes(text),
            missing_tests(text),
            broken_blocks(text),
        ):
            problems += [f"{page.relative_to(ROOT)}: {problem}" for problem in found]
    print("\n".join(problems) if problems else f"{len(checked)} pages, nothing wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
