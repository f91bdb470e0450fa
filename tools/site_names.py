"""An extension of griffe, which reads docstrings for the site: names that share a line have types and defaults of their own.

Griffe gives all parameters of ``node_index, num_nodes`` what the signature says of the first, and takes such attributes for one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import griffe


class SharedLines(griffe.Extension):
    """Goes through each package once it is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Correct what was read of the package's docstrings."""
        _correct(pkg)


def _correct(parent: griffe.Object) -> None:
    for member in parent.members.values():
        if isinstance(member, griffe.Alias):
            continue
        for section in member.docstring.parsed if member.docstring is not None else ():
            if isinstance(section, griffe.DocstringSectionParameters) and isinstance(member, griffe.Function):
                _take_from_signature(section.value, member)
            elif isinstance(section, griffe.DocstringSectionAttributes):
                section.value = [one for documented in section.value for one in _apart(documented, member)]
        _correct(member)


def _take_from_signature(documented: list[griffe.DocstringParameter], function: griffe.Function) -> None:
    for before, parameter in pairwise(documented):
        # Those of one line follow one another, with one description.
        if before.description == parameter.description and parameter.name in function.parameters:
            signature = function.parameters[parameter.name]
            parameter.annotation = signature.annotation
            parameter.value = signature.default


def _apart(documented: griffe.DocstringAttribute, owner: griffe.Object) -> list[griffe.DocstringAttribute]:
    names = documented.name.split(", ")
    if len(names) == 1:
        # Of attributes, griffe takes ``str, optional`` for a tuple.
        if (text := str(documented.annotation)).endswith(", optional)"):
            documented.annotation = text[1 : -len(", optional)")]
        return [documented]
    return [
        griffe.DocstringAttribute(
            name,
            annotation=owner.members[name].annotation if name in owner.members else documented.annotation,
            description=documented.description,
        )
        for name in names
    ]
