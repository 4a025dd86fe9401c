"""Which kind of worker is chosen, and what is refused."""

import pytest

from wsbroker.config import WorkerKind
from wsbroker.errors import ConfigError
from wsbroker.pool.kinds import choose_kind


class Chat:
    """A live object."""


def test_auto_takes_thread() -> None:
    assert choose_kind("auto", "pkg.mod") == ("thread", "auto takes thread")


def test_auto_says_what_to_do_about_a_live_object() -> None:
    kind, reason = choose_kind("auto", Chat())
    assert kind == "thread"
    assert "register its name ('pkg.mod:obj') instead to use all cores" in reason


@pytest.mark.parametrize("kind", ["inline", "thread"])
@pytest.mark.parametrize("spec", ["pkg.mod", Chat()])
def test_inline_and_thread_take_anything(kind: WorkerKind, spec: object) -> None:
    assert choose_kind(kind, spec)[0] == kind


@pytest.mark.parametrize("kind", ["interpreter", "process"])
def test_kinds_that_do_not_exist_yet_are_a_clear_error(kind: WorkerKind) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_kind(kind, "pkg.mod")
    assert str(caught.value) == f"worker kind '{kind}' is not available in this version; use thread or inline"
