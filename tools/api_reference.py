"""Writes the generated parts of the documentation: the API reference, the tables of settings, the tree of modules.

    python tools/api_reference.py           writes them
    python tools/api_reference.py --check   changes nothing; exits with 1 and a diff if one of them is stale

`PARTS` lists them: each stands in one file, between ``<!-- name:start -->`` and ``<!-- name:end -->``. The reference
shows what `wsbroker.__all__` promises, with signatures and docstrings as they stand in the sources: griffe reads these
without importing anything, so the tool works whatever is built or installed. The settings come from the data that the
command line is made of too, `wsbroker.settings.config.SETTINGS`. The tree shows the first line of each docstring.
"""

import argparse
import ast
import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import griffe

if TYPE_CHECKING:
    from wsbroker.settings.checks import Setting

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "wsbroker"
MAX_SIGNATURE_WIDTH: Final = 100
"""Longer signatures get a line for each parameter."""

TEST_FOLDERS: Final = ("tests/kits", "tests/house")
"""The folders of tests whose modules are listed one by one: shared code, and the laws."""

SECTIONS: Final = ("Functions", "Classes", "Exceptions", "Types and constants")
PRIVATE_NAME: Final = r"\b_(?=[A-Z])"
"""The underscore before names that a module imports without exporting them; signatures are shown without it."""

SETTINGS_CLASSES: Final = ("Config", "Settings")
"""Classes whose fields are the settings: those stand in tables of their own."""


class Part(NamedTuple):
    """One generated part: the file that it stands in, the name in its two markers, the function that makes its text."""

    file: str
    name: str
    make: Callable[[], str]


def main() -> int:
    """Writes the stale files, or with ``--check`` prints what differs; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the generated parts of README.md and docs/.")
    parser.add_argument("--check", action="store_true", help="only say whether they are fresh")
    only_check: bool = parser.parse_args().check
    stale = 0
    for path in sorted({ROOT / part.file for part in PARTS}):
        before = path.read_text(encoding="utf-8")
        after = generate_parts(path, before)
        name = path.relative_to(ROOT).as_posix()
        if before == after:
            continue
        stale += 1
        if only_check:
            diff = difflib.unified_diff(before.splitlines(), after.splitlines(), name, "as generated", lineterm="")
            print("\n".join(diff))
            print(f"{name} is stale: run `python tools/api_reference.py`", file=sys.stderr)
        else:
            path.write_text(after, encoding="utf-8")
            print(f"{name} is written")
    return int(stale > 0 and only_check)


def generate_parts(path: Path, text: str) -> str:
    """Returns the text of a file with all its generated parts made anew."""
    for part in PARTS:
        if ROOT / part.file == path:
            text = replace_between_markers(text, part.name, part.make(), part.file)
    return text


def replace_between_markers(text: str, name: str, body: str, file: str) -> str:
    """Returns `text` with `body` between ``<!-- name:start -->`` and ``<!-- name:end -->``.

    Args:
        file: The name that an error shows.

    Raises:
        SystemExit: The markers are missing, repeated or in the wrong order.
    """
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise SystemExit(f"error: {file} must hold {start} and {end} once each, in this order")
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
        section, entry = _format_export(name, _resolve_export(package, name))
        sections[section].append((name, entry))
    used = {section: entries for section, entries in sections.items() if entries}
    parts = ["\n".join(f"- **{section}**: {_format_links(entries)}" for section, entries in used.items())]
    for section, entries in used.items():
        is_list = all(entry.startswith("- ") for _, entry in entries)
        parts += [f"## {section}", ("\n" if is_list else "\n\n").join(entry for _, entry in entries)]
    return "\n\n".join(parts)


def _format_links(entries: list[tuple[str, str]]) -> str:
    """Returns links to the anchors of (name, text) entries, separated by dots."""
    return " · ".join(f"[`{name}`](#{name.lower()})" for name, _ in entries)


def _resolve_export(package: griffe.Module, name: str) -> griffe.Object:
    """Returns the object that an exported name stands for; follows imports, those under TYPE_CHECKING too.

    Raises:
        SystemExit: Nothing defines the name.
    """
    found = package.members.get(name)
    if found is None:
        raise SystemExit(f"error: wsbroker.__all__ promises {name!r}, which nothing in wsbroker/__init__.py defines")
    try:
        return found.final_target if isinstance(found, griffe.Alias) else found
    except griffe.AliasResolutionError as problem:
        raise SystemExit(f"error: wsbroker.{name}: {problem}") from None


def _format_export(name: str, found: griffe.Object) -> tuple[str, str]:
    """Returns the section and the text of one public name: a list item; for functions and classes, paragraphs."""
    if isinstance(found, griffe.Function):
        return "Functions", _join_paragraphs(
            f"### `{name}`", _format_code_block(_format_signature(found, name)), *_format_docstring(found)
        )
    if isinstance(found, griffe.Class) and _is_exception(found):
        bases = ", ".join(f"`{base}`" for base in found.bases)
        return "Exceptions", _format_list_item(
            f"<a id='{name.lower()}'></a>`{_format_constructor(found) or name}` ({bases})", found
        )
    if isinstance(found, griffe.Class):
        if name in SETTINGS_CLASSES:
            settings = "Its fields are the [settings](settings.md)."
        else:
            settings = ""
        head = _format_code_block(_format_constructor(found) or f"class {name}")
        members = list(_format_members(found))
        if members:
            members.insert(0, "Members:\n")  # keeps two lists apart
        return "Classes", _join_paragraphs(
            f"### `{name}`", head, *_format_docstring(found), settings, "\n".join(members)
        )
    if isinstance(found, griffe.Attribute):
        head = f"<a id='{name.lower()}'></a>`{name} = {_format_expression(found.value)}`"
        return "Types and constants", _format_list_item(head, found)
    raise SystemExit(f"error: wsbroker.{name} is a {found.kind.value}: not something to promise")


def _format_constructor(found: griffe.Class) -> str:
    """Returns the signature of a class's constructor if a docstring explains its arguments, else ""."""
    made = found.members.get("__init__")
    if not isinstance(made, griffe.Function) or found.name in SETTINGS_CLASSES:
        return ""
    sections = [section for each in (found, made) if each.docstring for section in each.docstring.parsed]
    has_arguments = any(isinstance(section, griffe.DocstringSectionParameters) for section in sections)
    return _format_signature(made, found.name) if has_arguments else ""


def _is_exception(found: griffe.Class) -> bool:
    """Returns whether a base of the class is named as an exception."""
    bases = [str(base).rpartition(".")[2] for base in found.bases]
    return any(base.endswith(("Error", "Exception")) for base in bases)


def _format_members(found: griffe.Class) -> Iterator[str]:
    """Yields a list item for each public attribute that has a docstring and each public method of a class."""
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
    """Returns a list item: `head`, then the member's docstring, its further lines indented."""
    first, _, rest = "\n\n".join(_format_docstring(member)).partition("\n")
    return f"- {head}: {first}\n{textwrap.indent(rest, '  ')}".rstrip().rstrip(":")


def _format_signature(function: griffe.Function, name: str, is_folded: bool = True) -> str:
    """Returns a signature as callers see it, without `self`; folded, a long one has a line for each parameter."""
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
    """Returns one parameter with its stars, annotation and default, as in the source."""
    stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
    shown = stars.get(parameter.kind or griffe.ParameterKind.positional_or_keyword, "") + parameter.name
    if parameter.annotation is not None:
        shown += f": {parameter.annotation}"
    if parameter.default is None or shown.startswith("*"):
        return shown
    default = _format_expression(parameter.default)
    return f"{shown} = {default}" if parameter.annotation is not None else f"{shown}={default}"


def _format_expression(value: object) -> str:
    """Returns an expression with double quotes; griffe writes single quotes, as `ast.unparse` does."""
    text = str(value)
    return text if '"' in text else text.replace("'", '"')


def _format_docstring(found: griffe.Object) -> Iterator[str]:
    """Yields the paragraphs of a docstring; arguments, return value and exceptions form one list.

    Raises:
        SystemExit: The docstring has a section that this tool cannot show.
    """
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
    """Yields the list items of a section of arguments, attributes, return values or exceptions; nothing for others."""
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
    """Returns a text on one line, with Markdown's marks for code."""
    return _convert_code_marks(" ".join(text.split()))


def _convert_code_marks(text: str) -> str:
    """Returns a text with single backquotes around code, as Markdown has it; docstrings may have double ones."""
    return re.sub(r"(?<!`)``([^`]+)``(?!`)", r"`\1`", text)


def _format_code_block(text: str) -> str:
    """Returns a block of Python code in Markdown."""
    return f"```python\n{text}\n```"


def _join_paragraphs(*parts: str) -> str:
    """Returns the paragraphs that are not empty, with blank lines between them."""
    return "\n\n".join(part for part in parts if part)


# The settings


def make_settings_tables() -> str:
    """Returns a heading and a table of settings for each group."""
    sys.path.insert(0, str(ROOT))
    from wsbroker.settings.config import GROUPS, SETTINGS

    parts = []
    for group in GROUPS:
        rows = [
            f"## {group}",
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
    """Returns the choices of a setting or its smallest and largest value; "" if it has neither."""
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.minimum is None or setting.maximum is None:
        return ""
    low, high = (bound if setting.kind == "seconds" else int(bound) for bound in (setting.minimum, setting.maximum))
    return f"`{setting.format_value(low)}` to `{setting.format_value(high)}`"


# The tree


def make_tree() -> str:
    """Returns the modules of the package as a nested list, each with the first line of its docstring."""
    files = sorted(path for path in PACKAGE.glob("*.py"))
    lines = ["- **`wsbroker/`**", *(f"  - `{path.name}`: {read_caption(path)}" for path in files)]
    for room in room_folders(PACKAGE):
        lines += _format_room(room, "")
    return "\n".join(lines)


def make_test_list() -> str:
    """Returns the modules of the tests' kits and of the house tests, each with the first line of its docstring."""
    lines = []
    for folder in TEST_FOLDERS:
        paths = [path for path in sorted((ROOT / folder).glob("*.py")) if path.name != "__init__.py"]
        if paths:
            lines += [f"- **`{folder}/`**", *(f"  - `{path.name}`: {read_caption(path)}" for path in paths)]
    return "\n".join(lines)


def make_room_list() -> str:
    """Returns the rooms of the package as a list, each with the first line of its docstring."""
    return "\n".join(f"- `{room.name}/`: {read_caption(room / '__init__.py')}" for room in room_folders(PACKAGE))


def room_folders(folder: Path) -> list[Path]:
    """Returns the packages that stand directly in a folder, sorted."""
    return sorted(path.parent for path in folder.glob("*/__init__.py"))


def read_caption(path: Path) -> str:
    """Returns the first line of a module's docstring.

    Raises:
        SystemExit: The module has no docstring.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise SystemExit(f"error: {path.relative_to(ROOT)} has no docstring that could be its caption")
    return _convert_code_marks(docstring.splitlines()[0])


def _format_room(room: Path, indent: str) -> Iterator[str]:
    """Yields the lines of one room: its caption, its modules, then the rooms inside it."""
    yield f"{indent}- **`{room.relative_to(PACKAGE).as_posix()}/`**: {read_caption(room / '__init__.py')}"
    for path in sorted(room.glob("*.py")):
        if path.name != "__init__.py":
            yield f"{indent}  - `{path.name}`: {read_caption(path)}"
    for inner in room_folders(room):
        yield from _format_room(inner, f"{indent}  ")


PARTS: Final = (
    Part("docs/api.md", "api", make_api_reference),
    Part("docs/settings.md", "settings", make_settings_tables),
    Part("docs/contributing.md", "tree", make_tree),
    Part("docs/contributing.md", "tests", make_test_list),
    Part("README.md", "rooms", make_room_list),
)


if __name__ == "__main__":
    sys.exit(main())
