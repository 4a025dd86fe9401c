"""Writes the generated parts of the README: the API reference and the table of settings.

    python tools/api_reference.py           writes them
    python tools/api_reference.py --check   changes nothing; exits with 1 and a diff if they are stale

The reference is what `wsbroker.__all__` promises, with signatures and docstrings as they stand in the sources: griffe
reads them without importing anything, so it works whatever is built or installed. The settings come from the data that
the command line is made of too, `wsbroker.settings.config.SETTINGS`.
"""

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import griffe

if TYPE_CHECKING:
    from wsbroker.settings.config import Setting

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
WIDTH: Final = 100
"""Longer signatures get a line for each parameter."""

SECTIONS: Final = ("Functions", "Classes", "Exceptions", "Types and constants")
PRIVATE_NAME: Final = r"\b_(?=[A-Z])"
"""What a module writes before the names that it imports and does not promise."""

HOLD_SETTINGS: Final = ("Config", "Settings")
"""Classes whose fields are the settings: those stand in a table of their own."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated parts of the README.")
    parser.add_argument("--check", action="store_true", help="only say whether they are fresh")
    only_check: bool = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = between_markers(before, "api", api_reference())
    after = between_markers(after, "settings", settings_tables())
    if before == after:
        return 0
    if only_check:
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "README.md", "as generated", lineterm="")
        print("\n".join(lines))
        print("README.md is stale: run `python tools/api_reference.py`", file=sys.stderr)
        return 1
    README.write_text(after, encoding="utf-8")
    print("README.md is written")
    return 0


def between_markers(text: str, name: str, body: str) -> str:
    """Returns `text` with `body` between ``<!-- name:start -->`` and ``<!-- name:end -->``."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise SystemExit(f"error: README.md must hold {start} and {end} once each, in this order")
    head, _, rest = text.partition(start)
    return f"{head}{start}\n\n{body.strip()}\n\n{end}{rest.partition(end)[2]}"


# The API


def api_reference() -> str:
    """Returns the reference as Markdown: a list of all names, then each with its signature and docstring."""
    package = griffe.load(
        "wsbroker",
        search_paths=[ROOT],
        allow_inspection=False,
        resolve_aliases=True,
        docstring_parser="google",
        docstring_options={"returns_multiple_items": False, "returns_named_value": False},
    )
    if not isinstance(package, griffe.Module) or not package.exports:
        raise SystemExit("error: wsbroker/__init__.py has no __all__ that can be read without running it")
    sections: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
    for export in package.exports:
        name = str(export)
        section, entry = _entry(name, _member(package, name))
        sections[section].append((name, entry))
    used = {section: entries for section, entries in sections.items() if entries}
    parts = ["\n".join(f"- **{section}**: {_links(entries)}" for section, entries in used.items())]
    for section, entries in used.items():
        is_list = all(entry.startswith("- ") for _, entry in entries)
        parts += [f"### {section}", ("\n" if is_list else "\n\n").join(entry for _, entry in entries)]
    return "\n\n".join(parts)


def _links(entries: list[tuple[str, str]]) -> str:
    return " · ".join(f"[`{name}`](#{name.lower()})" for name, _ in entries)


def _member(package: griffe.Module, name: str) -> griffe.Object:
    """Finds what an exported name stands for, through imports (those under TYPE_CHECKING too)."""
    found = package.members.get(name)
    if found is None:
        raise SystemExit(f"error: wsbroker.__all__ promises {name!r}, which nothing in wsbroker/__init__.py defines")
    try:
        return found.final_target if isinstance(found, griffe.Alias) else found
    except griffe.AliasResolutionError as problem:
        raise SystemExit(f"error: wsbroker.{name}: {problem}") from None


def _entry(name: str, found: griffe.Object) -> tuple[str, str]:
    """Returns the section and the text of one public name: an item of a list if it is short, else under a heading."""
    if isinstance(found, griffe.Function):
        return "Functions", _join(f"#### `{name}`", _code(_signature(found, name)), *_prose(found))
    if isinstance(found, griffe.Class) and _is_exception(found):
        bases = ", ".join(f"`{base}`" for base in found.bases)
        return "Exceptions", _item(f"<a id='{name.lower()}'></a>`{_constructor(found) or name}` ({bases})", found)
    if isinstance(found, griffe.Class):
        if name in HOLD_SETTINGS:
            settings = "Its fields are the settings, see [Configuration](#configuration)."
        else:
            settings = ""
        head = _code(_constructor(found) or f"class {name}")
        members = list(_members(found))
        if members:
            members.insert(0, "Members:\n")  # keeps two lists apart
        return "Classes", _join(f"#### `{name}`", head, *_prose(found), settings, "\n".join(members))
    if isinstance(found, griffe.Attribute):
        head = f"<a id='{name.lower()}'></a>`{name} = {_quoted(found.value)}`"
        return "Types and constants", _item(head, found)
    raise SystemExit(f"error: wsbroker.{name} is a {found.kind.value}: not something to promise")


def _constructor(found: griffe.Class) -> str:
    """How to make one, if the class says what its arguments mean; "" if others make it."""
    made = found.members.get("__init__")
    if not isinstance(made, griffe.Function) or found.name in HOLD_SETTINGS:
        return ""
    sections = [section for each in (found, made) if each.docstring for section in each.docstring.parsed]
    has_arguments = any(isinstance(section, griffe.DocstringSectionParameters) for section in sections)
    return _signature(made, found.name) if has_arguments else ""


def _is_exception(found: griffe.Class) -> bool:
    bases = [str(base).rpartition(".")[2] for base in found.bases]
    return any(base.endswith(("Error", "Exception")) for base in bases)


def _members(found: griffe.Class) -> Iterator[str]:
    """The public attributes and methods of a class, each an item of a list."""
    for name, member in found.members.items():
        if isinstance(member, griffe.Alias) or name.startswith("_"):
            continue
        if isinstance(member, griffe.Attribute):
            if not member.docstring or found.name in HOLD_SETTINGS:
                continue
            yield _item(f"`{name}: {member.annotation}`" if member.annotation else f"`{name}`", member)
        elif isinstance(member, griffe.Function):
            labels = sorted({"classmethod", "staticmethod"} & member.labels)
            yield _item(" ".join((*labels, f"`{_signature(member, name, is_folded=False)}`")), member)


def _item(head: str, member: griffe.Object) -> str:
    first, _, rest = "\n\n".join(_prose(member)).partition("\n")
    return f"- {head}: {first}\n{textwrap.indent(rest, '  ')}".rstrip().rstrip(":")


def _signature(function: griffe.Function, name: str, is_folded: bool = True) -> str:
    """Returns the call as one writes it, without `self`; folded, a long one has a line for each parameter."""
    shown: list[str] = []
    previous: griffe.ParameterKind | None = None
    positional, variadic, keyword = (
        griffe.ParameterKind.positional_only,
        griffe.ParameterKind.var_positional,
        griffe.ParameterKind.keyword_only,
    )
    parameters = list(function.parameters)
    if isinstance(function.parent, griffe.Class) and "staticmethod" not in function.labels:
        parameters = parameters[1:]
    for parameter in parameters:
        if previous is positional and parameter.kind is not positional:
            shown.append("/")
        if parameter.kind is keyword and previous not in (variadic, keyword):
            shown.append("*")
        shown.append(_parameter(parameter))
        previous = parameter.kind
    if previous is positional:
        shown.append("/")
    head = ("async " if "async" in function.labels else "") + name
    returns = f" -> {function.returns}" if function.returns is not None and function.name != "__init__" else ""
    line = f"{head}({', '.join(shown)}){returns}"
    if len(line) <= WIDTH or not is_folded:
        return re.sub(PRIVATE_NAME, "", line)
    lines = "\n".join((f"{head}(", *(f"    {each}," for each in shown), f"){returns}"))
    return re.sub(PRIVATE_NAME, "", lines)


def _parameter(parameter: griffe.Parameter) -> str:
    stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
    shown = stars.get(parameter.kind or griffe.ParameterKind.positional_or_keyword, "") + parameter.name
    if parameter.annotation is not None:
        shown += f": {parameter.annotation}"
    if parameter.default is None or shown.startswith("*"):
        return shown
    default = _quoted(parameter.default)
    return f"{shown} = {default}" if parameter.annotation is not None else f"{shown}={default}"


def _quoted(value: object) -> str:
    """An expression with our quotes: griffe writes them as `ast.unparse` does."""
    text = str(value)
    return text if '"' in text else text.replace("'", '"')


def _prose(found: griffe.Object) -> Iterator[str]:
    """The docstring in paragraphs; arguments, what is returned and what is raised are one list."""
    items: list[str] = []
    for section in found.docstring.parsed if found.docstring else ():
        added = list(_items(section))
        if items and not added:
            yield "\n".join(items)
            items = []
        items += added
        if isinstance(section, griffe.DocstringSectionText):
            yield _markdown(section.value.strip())
        elif isinstance(section, griffe.DocstringSectionExamples):
            for kind, text in section.value:
                yield _code(text) if kind is griffe.DocstringSectionKind.examples else _markdown(text)
        elif isinstance(section, griffe.DocstringSectionAdmonition):
            text = section.value.description
            is_block = "\n" in text.strip()
            yield f"**{section.title}**" + (f"\n\n{text.strip()}" if is_block else f": {_inline(text)}")
        elif not added:
            raise SystemExit(f"error: {found.path}: a docstring section of kind {section.kind.value} has no rendering")
    if items:
        yield "\n".join(items)


def _items(section: griffe.DocstringSection) -> Iterator[str]:
    """The list items of a section, if it is one of those that list something."""
    if isinstance(section, griffe.DocstringSectionParameters | griffe.DocstringSectionAttributes):
        yield from (f"- `{each.name}`: {_inline(each.description)}" for each in section.value)
    elif isinstance(section, griffe.DocstringSectionReturns | griffe.DocstringSectionYields):
        yield f"- **Returns** {_inline(' '.join(each.description for each in section.value))}"
    elif isinstance(section, griffe.DocstringSectionRaises):
        raised = (f"`{str(each.annotation).strip('()')}`: {_inline(each.description)}" for each in section.value)
        yield f"- **Raises** {' '.join(raised)}"


def _inline(text: str) -> str:
    return _markdown(" ".join(text.split()))


def _markdown(text: str) -> str:
    """Docstrings mark code with two backquotes; Markdown needs one."""
    return re.sub(r"(?<!`)``([^`]+)``(?!`)", r"`\1`", text)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _join(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


# The settings


def settings_tables() -> str:
    """Returns a table of settings for each group."""
    sys.path.insert(0, str(ROOT))
    from wsbroker.settings.config import GROUPS, SETTINGS

    parts = []
    for group in GROUPS:
        rows = [
            f"**{group}**",
            "",
            "| setting | default | bounds | what it does, and why |",
            "| --- | --- | --- | --- |",
        ]
        for setting in SETTINGS.values():
            if setting.group == group:
                name = f"`{setting.name}`"
                default = f"`{setting.show(setting.default)}`"
                text = f"{setting.help}.<br>*{setting.reason}*".replace("|", "\\|")
                rows.append(f"| {name} | {default} | {_bounds(setting)} | {text} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _bounds(setting: "Setting") -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.minimum is None or setting.maximum is None:
        return ""
    low, high = (bound if setting.kind == "seconds" else int(bound) for bound in (setting.minimum, setting.maximum))
    return f"`{setting.show(low)}` to `{setting.show(high)}`"


if __name__ == "__main__":
    sys.exit(main())
