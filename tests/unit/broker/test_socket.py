"""What a socket object costs."""

import sys

from kits.broker_kit import a_broker
from wsbroker.broker.socket import Socket
from wsbroker.build import core_kind


def test_a_native_socket_has_no_dict_and_stays_small() -> None:
    socket = Socket(1, a_broker().worker_queues[0])
    if core_kind() == "compiled":
        assert not hasattr(socket, "__dict__")
        assert sys.getsizeof(socket) <= 256
