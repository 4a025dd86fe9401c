"""The states of one worker at the other end of a wire, and the table of their changes.

| state     | STARTED | STOP_SENT | STOPPED | CLOSED | DECLARED_LOST |
| --------- | ------- | --------- | ------- | ------ | ------------- |
| STARTING  | RUNNING | –         | –       | ENDED  | ABANDONED     |
| RUNNING   | –       | STOPPING  | –       | ENDED  | ABANDONED     |
| STOPPING  | –       | –         | STOPPED | ENDED  | ABANDONED     |
| STOPPED   | –       | –         | –       | ENDED  | ABANDONED     |
| ENDED     | –       | –         | –       | –      | –             |
| ABANDONED | –       | –         | –       | –      | –             |

–: the event changes nothing in this state.

Whether the worker handles its slot's queue is not a state: a standby and a retiring worker have the same states.
"""

from enum import Enum
from typing import Final


class WorkerState(Enum):
    """The states of a worker, as the broker sees it; `TRANSITIONS` says how they change.

    The value is the name in `slot.WorkerStatistics`, followed by a note where two states have the same name there.
    """

    STARTING = "starting"
    """The handlers are imported, `handle_worker_start` runs."""
    RUNNING = "running"
    STOPPING = "stopping"
    """STOP was sent: the worker finishes earlier events and runs `handle_worker_stop`."""
    STOPPED = "stopping: answered STOP"
    """The worker has answered STOP and is about to end."""
    ENDED = "ended"
    """The streams are closed: the worker has stopped, failed to start, or ended by itself."""
    ABANDONED = "ended: killed or given up"
    """The streams are closed by the broker: the worker hangs or failed; `RemoteWorker.stop` kills it if it can."""

    @property
    def public_name(self) -> str:
        """Starting, running, stopping or ended: the `state` in `slot.WorkerStatistics`."""
        return self.value.partition(":")[0]


class WorkerEvent(Enum):
    """The events that change the state of a worker."""

    STARTED = "the worker has reported STARTED"
    STOP_SENT = "STOP is being sent"
    STOPPED = "the worker has answered STOP"
    CLOSED = "the streams are closed: by the worker's end, a failed start, or after a stop"
    DECLARED_LOST = "the worker hangs, sent what cannot be read or applied, refused a batch, or did not retire"


TRANSITIONS: Final[dict[WorkerState, dict[WorkerEvent, WorkerState]]] = {
    WorkerState.STARTING: {
        WorkerEvent.STARTED: WorkerState.RUNNING,
        WorkerEvent.CLOSED: WorkerState.ENDED,
        WorkerEvent.DECLARED_LOST: WorkerState.ABANDONED,
    },
    WorkerState.RUNNING: {
        WorkerEvent.STOP_SENT: WorkerState.STOPPING,
        WorkerEvent.CLOSED: WorkerState.ENDED,
        WorkerEvent.DECLARED_LOST: WorkerState.ABANDONED,
    },
    WorkerState.STOPPING: {
        WorkerEvent.STOPPED: WorkerState.STOPPED,
        WorkerEvent.CLOSED: WorkerState.ENDED,
        WorkerEvent.DECLARED_LOST: WorkerState.ABANDONED,
    },
    WorkerState.STOPPED: {
        WorkerEvent.CLOSED: WorkerState.ENDED,
        WorkerEvent.DECLARED_LOST: WorkerState.ABANDONED,
    },
    WorkerState.ENDED: {},
    WorkerState.ABANDONED: {},
}
"""State and event -> next state; an event that a state does not list leaves the state as it is."""
