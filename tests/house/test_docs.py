"""README.md and docs/: generated parts are fresh, links lead somewhere, examples compile and name what exists."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple
from xml.etree import ElementTree

import pytest

import wsbroker
from wsbroker.pool.slot import WorkerStatistics
from wsbroker.testing import TestBroker

ROOT: Final = Path(__file__).parents[2]
GENERATOR: Final = ROOT / "tools" / "api_reference.py"
README: Final = ROOT / "README.md"
PAGES: Final = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
README_LINES: Final = 350
"""How long the README may be: it is to be read in five minutes."""

FLAGS_OF_OTHER_COMMANDS: Final = {"--full", "--report"}
"""Flags of `.ci/run` and of tools, which pages name beside those of `wsbroker`."""

SVG_TAGS: Final = ("svg", "title", "style", "defs", "marker", "path", "rect", "text")
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class CodeBlock(NamedTuple):
    """One fenced block of a page: its language, its text, the line of the page before it."""

    page: Path
    language: str
    text: str
    line_before: str


def read_code_blocks(page: Path) -> Iterator[CodeBlock]:
    """Yields the fenced blocks of a page, those inside lists without their indentation."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        lines_before = text[: found.start()].rstrip().splitlines()
        yield CodeBlock(page, found[2], textwrap.dedent(found[3]), lines_before[-1] if lines_before else "")


def python_examples() -> list[CodeBlock]:
    """Returns the blocks of Python code of all pages; the signatures in the API reference are none."""
    blocks = [block for page in PAGES for block in read_code_blocks(page) if block.language == "python"]
    return [block for block in blocks if not (block.page.name == "api.md" and block.line_before.startswith("###"))]


def read_anchors(page: Path) -> set[str]:
    """Returns the anchors of a page: its headings as GitHub spells them, and its explicit ids."""
    text = page.read_text(encoding="utf-8")
    prose = FENCE.sub("", text)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"<a id='([^']+)'>", prose))


def test_the_generated_parts_are_fresh() -> None:
    pytest.importorskip("griffe")
    done = subprocess.run([sys.executable, GENERATOR, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_a_caption_that_is_a_whole_sentence() -> None:
    package = ROOT / "wsbroker"
    incomplete = []
    for path in sorted(package.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if not docstring.partition("\n")[0].endswith("."):
            incomplete.append(path.relative_to(ROOT).as_posix())
    assert incomplete == []


def test_every_module_stands_in_the_tree() -> None:
    tree = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8").partition("<!-- tree:start -->")[2]
    for path in (ROOT / "wsbroker").rglob("*.py"):
        name = f"{path.parent.relative_to(ROOT / 'wsbroker').as_posix()}/" if path.stem == "__init__" else path.name
        assert f"`{name.replace('./', 'wsbroker/')}`" in tree, path


def test_the_two_commands_of_the_readme_can_be_taken_out_of_it() -> None:
    text = README.read_text(encoding="utf-8")
    commands = dict(re.findall(r"<!-- command:(\w+) -->\n```sh\n(.+)\n```\n", text))
    assert set(commands) == {"serve", "test"}
    assert commands["serve"].endswith(".venv/bin/wsbroker --bind 127.0.0.1:3000")
    assert commands["test"].endswith(".venv/bin/pytest -n 3")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file_and_an_anchor_in_it(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in read_anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for path in (ROOT / "docs").iterdir():
        assert f"](docs/{path.name}" in text, path.name


def test_the_readme_is_read_in_five_minutes_and_ends_with_the_changelog() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[-1] == "Changelog"


@pytest.mark.parametrize(
    "block", python_examples(), ids=lambda block: f"{block.page.name}: {block.text.split(chr(10), 1)[0]}"
)
def test_every_python_example_compiles_and_names_what_exists(block: CodeBlock) -> None:
    tree = ast.parse(block.text)
    compile(tree, block.page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "wsbroker":
            assert hasattr(wsbroker, node.attr), node.attr
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.partition(".")[0] == "wsbroker":
                    importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "wsbroker":
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), name.name


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """The flags of the command ``wsbroker``."""
    command = [sys.executable, "-P", "-m", "wsbroker", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert shown.returncode == 0, shown.stderr
    return set(re.findall(r"--[a-z][a-z-]+", shown.stdout))


@pytest.mark.parametrize("page", PAGES[:-1], ids=lambda page: page.name)
def test_every_flag_of_the_command_line_that_a_page_names_exists(page: Path, flags: set[str]) -> None:
    code = re.findall(r"`(--[^`]+|wsbroker [^`]+)`", page.read_text(encoding="utf-8"))
    blocks = "\n".join(block.text for block in read_code_blocks(page))
    code += re.findall(r"^\S*wsbroker .*$", blocks, re.MULTILINE)
    named = {flag for text in code for flag in re.findall(r"--[a-z][a-z-]+", text.partition("#")[0])}
    assert named - flags - FLAGS_OF_OTHER_COMMANDS == set()


def test_every_file_that_the_contributing_page_names_exists() -> None:
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    written = (
        text.partition("<!-- tree:start -->")[0] + text.partition("<!-- tree:end -->")[2].partition("<!-- tests")[0]
    )
    names = re.findall(r"`([\w./]+(?:\.py|\.md|\.html|/))`", written)
    assert len(names) > 30
    assert [name for name in names if not any((folder / name).exists() for folder in (ROOT, ROOT / "wsbroker"))] == []


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "handlers.md"], ids=lambda page: page.name)
def test_the_table_of_handlers_shows_those_of_worker(page: Path) -> None:
    rows = re.findall(r"^\| `(handle_\w+)\(([\w, ]*)\)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    methods = {name: method for name, method in vars(wsbroker.Worker).items() if name.startswith("handle_")}
    signatures = {name: ", ".join(list(inspect.signature(method).parameters)[1:]) for name, method in methods.items()}
    assert dict(rows) == signatures


def test_the_picture_needs_nothing_from_elsewhere_and_names_rooms_that_exist() -> None:
    picture = ElementTree.parse(ROOT / "docs" / "architecture.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert "prefers-color-scheme: dark" in "".join(style.text or "" for style in picture.iter(f"{svg}style"))
    assert {element.tag for element in picture.iter()} <= {f"{svg}{tag}" for tag in SVG_TAGS}
    names = [text.text or "" for text in picture.iter(f"{svg}text") if text.get("class") == "name"]
    kinds = {"thread", "interpreter", "process", "inline"}
    rooms = set(names) - kinds - {"WebSocket", "HTTP"}
    assert kinds <= set(names)
    assert rooms and all((ROOT / "wsbroker" / room / "__init__.py").exists() for room in rooms), rooms


def test_the_server_of_the_readme_does_what_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = next(block for block in read_code_blocks(README) if block.text.startswith("# live.py\n"))
    (tmp_path / "live.html").write_bytes(b"the page")
    monkeypatch.chdir(tmp_path)
    live = ModuleType("live")
    exec(compile(server.text, "live.py", "exec"), live.__dict__)
    with TestBroker(live) as broker:
        ann, bob = broker.connect(), broker.connect()
        ann.send("hello")
        assert ann.received == bob.received == ["hello"]
        assert broker.http("GET", "/").body == b"the page"


def test_the_readme_shows_the_browser_code_of_the_page_of_live() -> None:
    page = (ROOT / "wsbroker" / "examples" / "live.html").read_text(encoding="utf-8")
    script = page.partition("<script>\n")[2].partition("</script>")[0]
    shown = [block.text for block in read_code_blocks(README) if block.language == "js"]
    assert ['"use strict";\n' + text for text in shown] == [script]


def test_the_figures_of_the_first_screen_stand_in_the_measured_pages() -> None:
    text = README.read_text(encoding="utf-8")
    reasons = text.partition("Why WSBroker")[2].partition("\nPython 3")[0]
    measured = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("performance.md", "memory.md"))
    figures = re.findall(r"\d[\d.,]*\d|\d", FENCE.sub("", LINK.sub("", reasons)))
    assert len(figures) >= 10
    assert [figure for figure in figures if not re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d])", measured)] == []


def test_every_statistic_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")))
    nodes = [
        node
        for path in (ROOT / "wsbroker" / "server").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "collect_statistics"
    ]
    keys = {
        key.value
        for function in nodes
        for node in ast.walk(function)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert {"sockets", "waiting_bytes"} <= keys
    assert keys | set(WorkerStatistics.__annotations__) <= described
