"""The timer wheel against a plain dict of deadlines."""

from hypothesis import given
from hypothesis import strategies as st

from kits.broker_kit import RecordingSocket, a_broker, connect
from wsbroker.broker.socket import NO_INDEX
from wsbroker.broker.timer_wheel import SLOTS, TimerWheel

steps = st.lists(
    st.one_of(
        st.tuples(st.just("schedule"), st.integers(0, 9), st.integers(1, SLOTS - 1)),
        st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("advance"), st.just(0), st.integers(1, 40)),
    ),
    max_size=60,
)


@given(steps)
def test_each_deadline_comes_once_and_at_its_tick(program: list[tuple[str, int, int]]) -> None:
    broker = a_broker()
    wheel = TimerWheel()
    sockets = [connect(broker) for _ in range(10)]
    deadlines: dict[RecordingSocket, int] = {}
    for name, index, ticks in program:
        socket = sockets[index]
        if name == "schedule":
            wheel.set_deadline(socket, ticks)
            deadlines[socket] = wheel.current_tick + ticks
        elif name == "remove":
            wheel.cancel_deadline(socket)
            deadlines.pop(socket, None)
        else:
            for _ in range(ticks):
                due = wheel.advance_tick()
                expected = {socket for socket, tick in deadlines.items() if tick == wheel.current_tick}
                assert set(due) == expected and len(due) == len(expected)
                for socket in expected:
                    del deadlines[socket]
                    assert socket.timer_slot == NO_INDEX
        assert wheel.timer_count == len(deadlines)


def test_a_deadline_beyond_the_wheel_comes_early() -> None:
    wheel = TimerWheel()
    socket = connect(a_broker())
    wheel.set_deadline(socket, 10 * SLOTS)
    ticks = next(number for number in range(1, 2 * SLOTS) if wheel.advance_tick())
    assert ticks == SLOTS - 1


def test_a_deadline_in_the_past_is_the_next_tick() -> None:
    wheel = TimerWheel()
    socket = connect(a_broker())
    wheel.set_deadline(socket, -5)
    assert wheel.advance_tick() == [socket]
