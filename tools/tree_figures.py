"""Counts sizes, bare names, private attributes and import circles of the sources, for `tools/check.py --report`.

    python tools/check.py --report     prints the figures of this checkout
    python tools/check.py --draw 7     prints 70 private functions, drawn at random with seed 7: signature and docstring
        --draw-key FILE                and writes where each of them stands to a file

`tests/house/test_names.py` holds some of the figures. Only the standard library is needed; nothing is imported from the
package.
"""

import ast
import functools
import random
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = "wsbroker"
LONG_FUNCTION_LINES: Final = 30
LONG_FILE_LINES: Final = 500
DRAWN_FUNCTIONS: Final = 70
SHORT_FUNCTION_LINES: Final = 3
"""Functions of more lines than this have a docstring."""

UNCLEAR_BEGINNINGS: Final = (
    r"(What|Who|Whose|Whether|How|When|Where|Why|It|Its|One|Those|These|This|That|The same|All)\b"
)
"""First words of docstrings that do not say what a function does: no verb in the third person."""


class Function(NamedTuple):
    """One function or method: its file, line and name, its lines with decorators, whether it is a property."""

    path: Path
    line: int
    name: str
    lines: int
    is_property: bool

    @property
    def is_bare(self) -> bool:
        """Returns whether the name is one word; leading and trailing underscores do not count."""
        return "_" not in self.name.strip("_")

    @property
    def is_counted(self) -> bool:
        """Returns whether the name should be a verb: false for dunders and properties."""
        return not self.is_property and not (self.name.startswith("__") and self.name.endswith("__"))


class Import(NamedTuple):
    """One import between modules of the package; deferred: inside a function, or for type checkers only."""

    source: str
    target: str
    is_deferred: bool


def python_files(folder: str) -> list[Path]:
    """Returns the Python files below a folder of the checkout, sorted."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def count_lines(path: Path) -> int:
    """Returns the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


@functools.cache
def parse_file(path: Path) -> ast.Module:
    """Returns the syntax tree of a file; parses each file once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions_of(path: Path) -> list[Function]:
    """Returns every function of a file, methods and nested functions included; overloads count once."""
    found = []
    for node in ast.walk(parse_file(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            if "overload" not in decorators:
                is_property = bool(decorators & {"property", "cached_property", "setter"})
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                lines = (node.end_lineno or first) - first + 1
                found.append(Function(path, node.lineno, node.name, lines, is_property))
    return found


def named_functions(folder: str) -> list[Function]:
    """Returns the functions below a folder whose names should be verbs: no dunders, no properties."""
    return [function for path in python_files(folder) for function in functions_of(path) if function.is_counted]


def bare_share(functions: list[Function]) -> float:
    """Returns the share of functions that are named with one bare word, 0 to 1."""
    return sum(function.is_bare for function in functions) / max(1, len(functions))


def module_name(path: Path) -> str:
    """Returns the dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, modules: set[str]) -> Iterator[Import]:
    """Yields the imports of a file that load modules of the package.

    Args:
        path: The file.
        modules: The dotted names of all modules of the package.
    """
    source = module_name(path)

    def walk(node: ast.AST, is_deferred: bool) -> Iterator[Import]:
        """Yields the imports below a node of the syntax tree."""
        for child in ast.iter_child_nodes(node):
            for target in _imported_modules(child, modules):
                if target != source:
                    yield Import(source, target, is_deferred)
            is_for_types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, is_deferred or is_for_types or is_function)

    yield from walk(parse_file(path), False)


def _imported_modules(node: ast.AST, modules: set[str]) -> list[str]:
    """Returns the modules that one import statement loads: `from a.b import c` is `a.b.c` where that is a module."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names if name.name in modules]
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return []
    inner = [f"{node.module}.{name.name}" for name in node.names]
    loaded = [name for name in inner if name in modules]
    return loaded or ([node.module] if node.module in modules else [])


def import_circles(*, with_deferred: bool) -> list[list[str]]:
    """Returns the sets of modules that import each other, directly or through others; sorted, without single ones.

    Args:
        with_deferred: Count imports inside functions and those for type checkers too. The package's own
            `__init__` is left out then: it loads the server when an application starts one.
    """
    paths = python_files(PACKAGE)
    modules = {module_name(path) for path in paths}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for path in paths:
        for found in imports_of(path, modules):
            if with_deferred or not found.is_deferred:
                graph[found.source].add(found.target)
    if with_deferred:
        graph[PACKAGE] = set()
    reached = {module: _reachable_modules(graph, module) for module in modules}
    circles = {frozenset(other for other in reached[module] if module in reached[other]) for module in modules}
    return sorted(sorted(circle) for circle in circles if len(circle) > 1)


def _reachable_modules(graph: dict[str, set[str]], start: str) -> set[str]:
    """Returns the modules that `start` imports, directly or through others; `start` itself only in a circle."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += graph[module]
    return found


def foreign_private_uses(folder: str) -> list[tuple[Path, int, str]]:
    """Returns the uses of an attribute with a leading underscore that the same file does not define.

    Only names that a file of this package defines count; private names of other packages do not. Each use is
    (file, line, attribute).
    """
    ours = {name for path in python_files(PACKAGE) for name in _private_names(path)}
    uses = []
    for path in python_files(folder):
        foreign = ours - _private_names(path)
        for node in ast.walk(parse_file(path)):
            if isinstance(node, ast.Attribute) and node.attr in foreign:
                if ast.unparse(node.value) not in ("self", "cls", "super()"):
                    uses.append((path, node.lineno, node.attr))
    return uses


def _private_names(path: Path) -> set[str]:
    """Returns the private attributes and functions that a file defines: assigned, declared or written with `def`."""
    found = set()
    for node in ast.walk(parse_file(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


class DrawnFunction(NamedTuple):
    """One private function of a draw: its file, the name of its class and a dot (or ""), its syntax tree."""

    path: Path
    owner: str
    node: ast.FunctionDef | ast.AsyncFunctionDef


class Draw(NamedTuple):
    """Private functions of the package, drawn at random: the seed, the drawn functions, how many there are."""

    seed: int
    functions: list[DrawnFunction]
    population: int


def draw_private_functions(seed: int) -> Draw:
    """Draws private functions of the package at random; the same seed and sources give the same functions."""
    functions = [
        DrawnFunction(path, owner, node)
        for path in python_files(PACKAGE)
        for owner, node in _functions_with_owners(ast.parse(path.read_text(encoding="utf-8")), "")
        if node.name.startswith("_") and not node.name.startswith("__")
    ]
    drawn = random.Random(seed).sample(functions, min(DRAWN_FUNCTIONS, len(functions)))
    return Draw(seed, drawn, len(functions))


def draw_lines(draw: Draw) -> Iterator[str]:
    """Yields the signatures and docstrings of drawn functions as lines of text, and nothing else about them.

    A reader who is to say what the functions do must not see their files: those stand in `draw_key_lines`.
    """
    yield f"{len(draw.functions)} of {draw.population} private functions, seed {draw.seed}"
    for number, (_, owner, node) in enumerate(draw.functions, 1):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
        is_async = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
        yield f"\n{number}. {is_async}def {owner}{node.name}({ast.unparse(node.args)}){returns}"
        docstring = ast.get_docstring(node) or "(no docstring)"
        yield from (f"       {line}".rstrip() for line in docstring.splitlines())


def draw_key_lines(draw: Draw) -> Iterator[str]:
    """Yields the file and line of each drawn function, by its number in `draw_lines`, as lines of text."""
    yield f"seed {draw.seed}"
    for number, (path, owner, node) in enumerate(draw.functions, 1):
        yield f"{number}. {path.relative_to(ROOT)}:{node.lineno} {owner}{node.name}"


def _functions_with_owners(node: ast.AST, owner: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yields the functions below a node of the syntax tree, each with the name of its class and a dot, or ""."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield owner, child
        yield from _functions_with_owners(child, f"{child.name}." if isinstance(child, ast.ClassDef) else owner)


def report() -> Iterator[str]:
    """Yields the figures of this checkout as lines of text."""
    yield from _size_lines()
    for folder in (PACKAGE, "tests", "benchmarks", "tools"):
        named = named_functions(folder)
        bare = sum(function.is_bare for function in named)
        yield f"{folder}: functions named with one bare word: {bare} of {len(named)} ({bare_share(named):.0%})"
    yield from _docstring_lines(PACKAGE)
    for folder in (PACKAGE, "tests"):
        uses = foreign_private_uses(folder)
        files = len({path for path, _, _ in uses})
        yield f"{folder}: private attributes used outside their file: {len(uses)} in {files} files"
    for with_deferred, what in ((False, "at import time"), (True, "with deferred and type-only imports")):
        circles = import_circles(with_deferred=with_deferred)
        yield f"import circles, {what}: {len(circles)}"
        yield from (f"    {' '.join(circle)}" for circle in circles)


def _docstring_lines(folder: str) -> Iterator[str]:
    """Yields the lines about docstrings: missing ones, and those that do not begin with a verb; without dunders."""
    count = missing = unclear = 0
    for path in python_files(folder):
        for _, node in _functions_with_owners(ast.parse(path.read_text(encoding="utf-8")), ""):
            if node.name.startswith("__") and node.name.endswith("__"):
                continue
            count += 1
            docstring = ast.get_docstring(node)
            is_short = (node.end_lineno or node.lineno) - node.body[0].lineno < SHORT_FUNCTION_LINES
            missing += docstring is None and not is_short
            unclear += docstring is not None and re.match(UNCLEAR_BEGINNINGS, docstring) is not None
    yield f"{folder}: functions of more than {SHORT_FUNCTION_LINES} lines without a docstring: {missing} of {count}"
    yield f"{folder}: docstrings of functions that do not begin with a verb: {unclear}"


def _size_lines() -> Iterator[str]:
    """Yields the lines about files, functions and the top level of the package."""
    product = {path: count_lines(path) for path in python_files(PACKAGE)}
    total = sum(product.values())
    for folder in (PACKAGE, "tests", "benchmarks", "tools"):
        lines = [count_lines(path) for path in python_files(folder)]
        yield f"{folder}: {len(lines)} files, {sum(lines):,} lines, {sum(lines) / total:.2f} per product line"
    long = {path: lines for path, lines in product.items() if lines > LONG_FILE_LINES}
    yield f"file length: median {statistics.median(product.values()):.0f}, over {LONG_FILE_LINES}: {len(long)}"
    yield from (f"    {path.relative_to(ROOT)} {lines}" for path, lines in long.items())
    lengths = sorted(function.lines for path in product for function in functions_of(path))
    short = sum(length <= LONG_FUNCTION_LINES for length in lengths) / len(lengths)
    yield (
        f"function length: median {statistics.median(lengths):.0f}, p90 {lengths[len(lengths) * 9 // 10]}, "
        f"max {lengths[-1]}; at most {LONG_FUNCTION_LINES} lines: {short:.1%} of {len(lengths)}"
    )
    top = [path.name for path in sorted((ROOT / PACKAGE).glob("*.py"))]
    yield f"top-level files of the package: {len(top)}: {' '.join(top)}"
