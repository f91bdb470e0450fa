"""An extension of griffe, which reads docstrings for the site: of parameters that share a line, each has its own type and default.

Griffe itself gives all names of ``node_index, num_nodes`` what the signature says of the first.
"""

from __future__ import annotations

from typing import Any

import griffe


class SharedLines(griffe.Extension):
    """Goes through the functions of each package once it is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Correct what was read of the package's docstrings."""
        _correct(pkg)


def _correct(parent: griffe.Object) -> None:
    for member in parent.members.values():
        if isinstance(member, griffe.Alias):
            continue
        if isinstance(member, griffe.Function) and member.docstring is not None:
            for section in member.docstring.parsed:
                if isinstance(section, griffe.DocstringSectionParameters):
                    _take_from_signature(section.value, member)
        _correct(member)


def _take_from_signature(documented: list[griffe.DocstringParameter], function: griffe.Function) -> None:
    for number, parameter in enumerate(documented):
        # Those of one line follow one another, with one description.
        before = documented[number - 1] if number else None
        if before is None or before.description != parameter.description or parameter.name not in function.parameters:
            continue
        signature = function.parameters[parameter.name]
        parameter.annotation = signature.annotation
        parameter.value = signature.default
