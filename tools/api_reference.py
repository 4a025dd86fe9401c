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
    from wsbroker.settings.checks import Setting

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
MAX_SIGNATURE_WIDTH: Final = 100
"""Longer signatures get a line for each parameter."""

SECTIONS: Final = ("Functions", "Classes", "Exceptions", "Types and constants")
PRIVATE_NAME: Final = r"\b_(?=[A-Z])"
"""What a module writes before the names that it imports and does not promise."""

SETTINGS_CLASSES: Final = ("Config", "Settings")
"""Classes whose fields are the settings: those stand in a table of their own."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated parts of the README.")
    parser.add_argument("--check", action="store_true", help="only say whether they are fresh")
    only_check: bool = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = replace_between_markers(before, "api", make_api_reference())
    after = replace_between_markers(after, "settings", make_settings_tables())
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


def replace_between_markers(text: str, name: str, body: str) -> str:
    """Returns `text` with `body` between ``<!-- name:start -->`` and ``<!-- name:end -->``."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise SystemExit(f"error: README.md must hold {start} and {end} once each, in this order")
    head, _, rest = text.partition(start)
    return f"{head}{start}\n\n{body.strip()}\n\n{end}{rest.partition(end)[2]}"


# The API


def make_api_reference() -> str:
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
        section, entry = _format_export(name, _find_export(package, name))
        sections[section].append((name, entry))
    used = {section: entries for section, entries in sections.items() if entries}
    parts = ["\n".join(f"- **{section}**: {_format_links(entries)}" for section, entries in used.items())]
    for section, entries in used.items():
        is_list = all(entry.startswith("- ") for _, entry in entries)
        parts += [f"### {section}", ("\n" if is_list else "\n\n").join(entry for _, entry in entries)]
    return "\n\n".join(parts)


def _format_links(entries: list[tuple[str, str]]) -> str:
    return " · ".join(f"[`{name}`](#{name.lower()})" for name, _ in entries)


def _find_export(package: griffe.Module, name: str) -> griffe.Object:
    """Finds what an exported name stands for, through imports (those under TYPE_CHECKING too)."""
    found = package.members.get(name)
    if found is None:
        raise SystemExit(f"error: wsbroker.__all__ promises {name!r}, which nothing in wsbroker/__init__.py defines")
    try:
        return found.final_target if isinstance(found, griffe.Alias) else found
    except griffe.AliasResolutionError as problem:
        raise SystemExit(f"error: wsbroker.{name}: {problem}") from None


def _format_export(name: str, found: griffe.Object) -> tuple[str, str]:
    """Returns the section and the text of one public name: an item of a list if it is short, else under a heading."""
    if isinstance(found, griffe.Function):
        return "Functions", _join_paragraphs(
            f"#### `{name}`", _format_code_block(_format_signature(found, name)), *_format_docstring(found)
        )
    if isinstance(found, griffe.Class) and _is_exception(found):
        bases = ", ".join(f"`{base}`" for base in found.bases)
        return "Exceptions", _format_list_item(
            f"<a id='{name.lower()}'></a>`{_format_constructor(found) or name}` ({bases})", found
        )
    if isinstance(found, griffe.Class):
        if name in SETTINGS_CLASSES:
            settings = "Its fields are the settings, see [Configuration](#configuration)."
        else:
            settings = ""
        head = _format_code_block(_format_constructor(found) or f"class {name}")
        members = list(_format_members(found))
        if members:
            members.insert(0, "Members:\n")  # keeps two lists apart
        return "Classes", _join_paragraphs(
            f"#### `{name}`", head, *_format_docstring(found), settings, "\n".join(members)
        )
    if isinstance(found, griffe.Attribute):
        head = f"<a id='{name.lower()}'></a>`{name} = {_format_expression(found.value)}`"
        return "Types and constants", _format_list_item(head, found)
    raise SystemExit(f"error: wsbroker.{name} is a {found.kind.value}: not something to promise")


def _format_constructor(found: griffe.Class) -> str:
    """How to make one, if the class says what its arguments mean; "" if others make it."""
    made = found.members.get("__init__")
    if not isinstance(made, griffe.Function) or found.name in SETTINGS_CLASSES:
        return ""
    sections = [section for each in (found, made) if each.docstring for section in each.docstring.parsed]
    has_arguments = any(isinstance(section, griffe.DocstringSectionParameters) for section in sections)
    return _format_signature(made, found.name) if has_arguments else ""


def _is_exception(found: griffe.Class) -> bool:
    bases = [str(base).rpartition(".")[2] for base in found.bases]
    return any(base.endswith(("Error", "Exception")) for base in bases)


def _format_members(found: griffe.Class) -> Iterator[str]:
    """The public attributes and methods of a class, each an item of a list."""
    for name, member in found.members.items():
        if isinstance(member, griffe.Alias) or name.startswith("_"):
            continue
        if isinstance(member, griffe.Attribute):
            if not member.docstring or found.name in SETTINGS_CLASSES:
                continue
            yield _format_list_item(f"`{name}: {member.annotation}`" if member.annotation else f"`{name}`", member)
        elif isinstance(member, griffe.Function):
            labels = sorted({"classmethod", "staticmethod"} & member.labels)
            yield _format_list_item(
                " ".join((*labels, f"`{_format_signature(member, name, is_folded=False)}`")), member
            )


def _format_list_item(head: str, member: griffe.Object) -> str:
    first, _, rest = "\n\n".join(_format_docstring(member)).partition("\n")
    return f"- {head}: {first}\n{textwrap.indent(rest, '  ')}".rstrip().rstrip(":")


def _format_signature(function: griffe.Function, name: str, is_folded: bool = True) -> str:
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
        shown.append(_format_parameter(parameter))
        previous = parameter.kind
    if previous is positional:
        shown.append("/")
    head = ("async " if "async" in function.labels else "") + name
    returns = f" -> {function.returns}" if function.returns is not None and function.name != "__init__" else ""
    line = f"{head}({', '.join(shown)}){returns}"
    if len(line) <= MAX_SIGNATURE_WIDTH or not is_folded:
        return re.sub(PRIVATE_NAME, "", line)
    lines = "\n".join((f"{head}(", *(f"    {each}," for each in shown), f"){returns}"))
    return re.sub(PRIVATE_NAME, "", lines)


def _format_parameter(parameter: griffe.Parameter) -> str:
    stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
    shown = stars.get(parameter.kind or griffe.ParameterKind.positional_or_keyword, "") + parameter.name
    if parameter.annotation is not None:
        shown += f": {parameter.annotation}"
    if parameter.default is None or shown.startswith("*"):
        return shown
    default = _format_expression(parameter.default)
    return f"{shown} = {default}" if parameter.annotation is not None else f"{shown}={default}"


def _format_expression(value: object) -> str:
    """An expression with our quotes: griffe writes them as `ast.unparse` does."""
    text = str(value)
    return text if '"' in text else text.replace("'", '"')


def _format_docstring(found: griffe.Object) -> Iterator[str]:
    """The docstring in paragraphs; arguments, what is returned and what is raised are one list."""
    items: list[str] = []
    for section in found.docstring.parsed if found.docstring else ():
        added = list(_format_section_items(section))
        if items and not added:
            yield "\n".join(items)
            items = []
        items += added
        if isinstance(section, griffe.DocstringSectionText):
            yield _convert_code_marks(section.value.strip())
        elif isinstance(section, griffe.DocstringSectionExamples):
            for kind, text in section.value:
                yield (
                    _format_code_block(text)
                    if kind is griffe.DocstringSectionKind.examples
                    else _convert_code_marks(text)
                )
        elif isinstance(section, griffe.DocstringSectionAdmonition):
            text = section.value.description
            is_block = "\n" in text.strip()
            yield f"**{section.title}**" + (f"\n\n{text.strip()}" if is_block else f": {_format_inline_text(text)}")
        elif not added:
            raise SystemExit(f"error: {found.path}: a docstring section of kind {section.kind.value} has no rendering")
    if items:
        yield "\n".join(items)


def _format_section_items(section: griffe.DocstringSection) -> Iterator[str]:
    """The list items of a section, if it is one of those that list something."""
    if isinstance(section, griffe.DocstringSectionParameters | griffe.DocstringSectionAttributes):
        yield from (f"- `{each.name}`: {_format_inline_text(each.description)}" for each in section.value)
    elif isinstance(section, griffe.DocstringSectionReturns | griffe.DocstringSectionYields):
        yield f"- **Returns** {_format_inline_text(' '.join(each.description for each in section.value))}"
    elif isinstance(section, griffe.DocstringSectionRaises):
        raised = (
            f"`{str(each.annotation).strip('()')}`: {_format_inline_text(each.description)}" for each in section.value
        )
        yield f"- **Raises** {' '.join(raised)}"


def _format_inline_text(text: str) -> str:
    return _convert_code_marks(" ".join(text.split()))


def _convert_code_marks(text: str) -> str:
    """Docstrings mark code with two backquotes; Markdown needs one."""
    return re.sub(r"(?<!`)``([^`]+)``(?!`)", r"`\1`", text)


def _format_code_block(text: str) -> str:
    return f"```python\n{text}\n```"


def _join_paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


# The settings


def make_settings_tables() -> str:
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
                default = f"`{setting.format_value(setting.default)}`"
                text = f"{setting.help}.<br>*{setting.reason}*".replace("|", "\\|")
                rows.append(f"| {name} | {default} | {_format_bounds(setting)} | {text} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _format_bounds(setting: "Setting") -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.minimum is None or setting.maximum is None:
        return ""
    low, high = (bound if setting.kind == "seconds" else int(bound) for bound in (setting.minimum, setting.maximum))
    return f"`{setting.format_value(low)}` to `{setting.format_value(high)}`"


if __name__ == "__main__":
    sys.exit(main())
