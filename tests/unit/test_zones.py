"""Work in threads side by side, and how a signal ends the wait for them."""

import signal
import threading
import time

import pytest

from functions import zones


def test_a_ctrl_c_that_wakes_nobody_still_ends_the_wait() -> None:
    over = threading.Event()

    def work(_item: int) -> None:
        time.sleep(0.3)  # until the main thread waits
        # The handler runs in this thread, so the wait of the main one is not interrupted: as where the signal arrives
        # between Python's last look for one and the wait itself.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        over.wait(20)

    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            zones.side_by_side(work, [1], at_once=1)
        assert time.monotonic() - began < 10
    finally:
        over.set()


def test_results_come_in_order_and_the_first_error_is_raised() -> None:
    assert zones.side_by_side(lambda n: n * n, range(20), at_once=3) == [n * n for n in range(20)]

    def refuse(n: int) -> int:
        if n == 4:
            raise ValueError(f"not {n}")
        return n

    with pytest.raises(ValueError, match="not 4"):
        zones.side_by_side(refuse, range(20), at_once=1)
