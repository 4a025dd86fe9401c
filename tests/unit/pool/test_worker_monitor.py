"""The watch over a worker: probes counted in intervals, and control messages, on a stream that is never connected."""

from wsbroker.pool.worker_monitor import WorkerMonitor
from wsbroker.wire import control
from wsbroker.worker.slowest import SlowestCalls


class Kit:
    """A monitor that gives up after three missed intervals, with the calls that it makes."""

    def __init__(self) -> None:
        self.hangs: list[str] = []
        self.unknown: list[tuple[str, object]] = []
        self.slowest = SlowestCalls()
        self.monitor = WorkerMonitor("worker-0", 2.5, self.slowest, self.hangs.append, self._note_unknown)

    def _note_unknown(self, subject: str, kind: object) -> None:
        """Keeps a report on an unknown control message."""
        self.unknown.append((subject, kind))

    def receive(self, *messages: tuple[object, ...]) -> None:
        """Delivers one batch of control messages from the worker."""
        self.monitor.stream.on_batch(list(messages))


def test_the_next_probe_follows_when_the_last_one_is_answered() -> None:
    kit = Kit()
    for number in range(1, 4):
        kit.monitor.check_liveness()
        assert kit.monitor.last_probe_number == number and kit.monitor.is_probe_unanswered
        kit.receive((control.ALIVE, number))
        assert not kit.monitor.is_probe_unanswered
    assert kit.hangs == []


def test_a_worker_hangs_when_its_probe_is_unanswered_for_the_time_in_whole_intervals() -> None:
    kit = Kit()
    for _ in range(3):
        kit.monitor.check_liveness()
        assert kit.hangs == []
    kit.monitor.check_liveness()
    assert kit.hangs == ["it did not answer a probe for 2.5 s"]
    assert kit.monitor.last_probe_number == 1


def test_a_late_answer_starts_the_count_anew_and_an_old_one_does_not() -> None:
    kit = Kit()
    for _ in range(3):
        kit.monitor.check_liveness()
    kit.receive((control.ALIVE, 0))
    assert kit.monitor.is_probe_unanswered
    kit.receive((control.ALIVE, 1))
    for _ in range(3):
        kit.monitor.check_liveness()
    assert kit.hangs == [] and kit.monitor.last_probe_number == 2


def test_a_handler_that_hangs_is_reported_and_ends_the_batch() -> None:
    kit = Kit()
    kit.receive((control.HUNG, "handle_socket_message", 7, 1.25), (-1,))
    assert kit.hangs == ["handle_socket_message (socket 7) hangs: it has not ended 1.2 s after its start"]
    assert kit.unknown == []
    assert [call["handler"] for call in kit.slowest.to_dicts()] == ["handle_socket_message"]


def test_unknown_messages_of_both_sides_are_reported_and_skipped() -> None:
    kit = Kit()
    kit.monitor.check_liveness()
    kit.receive((-1,), (control.NOT_UNDERSTOOD, 99), (control.ALIVE, 1))
    assert kit.unknown == [("control message", -1), ("control message to the worker", 99)]
    assert not kit.monitor.is_probe_unanswered
