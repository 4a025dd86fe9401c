"""Names and structure of the package, as figures: bare words, import circles, private attributes, top-level files.

The counting is that of `tools/tree_figures.py`; `python tools/check.py --report` prints all of it.
"""

from typing import Final

import tree_figures

MAX_BARE_SHARE: Final = 0.3
MAX_TOP_LEVEL_FILES: Final = 12

BARE_WORDS: Final[dict[str, str]] = {
    "what runs, is started, and ends": (
        "abort cancel close drain end kill main pause release reload reset resume run serve start stop wait wake watch"
    ),
    "connections, streams and requests": "accept connect dial flush listen open read send write",
    "publish and subscribe, as every broker has them": (
        "channels publish subscribe subscribers subscriptions unsubscribe"
    ),
    "the public API": "http info register statistics take unregister",
    "what the standard library's logging calls": "critical debug emit error exception log warning",
    "what aiohttp, asyncio and coroutines call, by their names": "prepare send throw",
    "sans-I/O parsers, in the words of their models": "encode decode feed mask unmask",
    "requests and responses": "fields json text",
    "collections": "add clear discard pop push put remove",
    "constructors, executors": "of submit",
}
"""Bare words that may name a function, in groups; the key says why. Anything else has a verb and its object."""

PRIVATE_USES_ALLOWED: Final = {
    "front/aiohttp_private.py": "the one place that leans on private names of aiohttp, some of which are ours too",
}


def test_most_functions_are_named_with_a_verb_and_its_object_and_others_with_a_word_of_the_list() -> None:
    named = tree_figures.named_functions("wsbroker")
    assert tree_figures.bare_share(named) < MAX_BARE_SHARE
    allowed = {word for words in BARE_WORDS.values() for word in words.split()}
    strangers = [
        f"{function.path.relative_to(tree_figures.ROOT)}:{function.line} {function.name}"
        for function in named
        if function.is_bare and function.name.strip("_") not in allowed
    ]
    assert strangers == [], "name it with a verb and its object"


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    assert tree_figures.import_circles(with_deferred=False) == []
    assert tree_figures.import_circles(with_deferred=True) == [], "a deferred or type-only import closes a circle, too"


def test_no_module_uses_a_private_attribute_of_another() -> None:
    uses = [
        (path.relative_to(tree_figures.ROOT / "wsbroker").as_posix(), line, name)
        for path, line, name in tree_figures.foreign_private_uses("wsbroker")
    ]
    assert [use for use in uses if use[0] not in PRIVATE_USES_ALLOWED] == []


def test_the_top_level_of_the_package_is_short() -> None:
    assert len(list((tree_figures.ROOT / "wsbroker").glob("*.py"))) <= MAX_TOP_LEVEL_FILES
