"""The load generator's inside: keep-alive connections that cost little, and two ways to drive them.

Everything runs in callbacks, without a future or a task per request: on two cores each microsecond of the
generator is one that the measured programs do not get.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable

import httptools

#: Only an answer that says this counts: the receiver has the message on disk.
ACKNOWLEDGED = b'"acknowledged":true'
#: A request of the fixed rate that leaves later than this after its scheduled time is counted as late.
LATE = 0.001

clock = time.perf_counter


def acknowledged(status: int, body: bytes) -> bool:
    """Tell whether an answer says that the message is on disk at the receiver."""
    return status == 200 and ACKNOWLEDGED in body


class Tally:
    """What came of the requests: latencies of those begun in the measured window, errors of all."""

    def __init__(self) -> None:
        self.begin = float("inf")
        self.end = float("inf")
        self.latencies = array("d")
        self.completed = 0
        self.late = 0
        self.errors: Counter[str] = Counter()
        self.sample = ""

    def success(self, started: float, now: float) -> None:
        self.completed += 1
        if self.begin <= started < self.end:
            self.latencies.append(now - started)

    def error(self, kind: str, body: bytes = b"") -> None:
        self.errors[kind] += 1
        if not self.sample and body:
            self.sample = body[:300].decode(errors="replace")


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.started = 0.0
        self.busy = False
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport
        self.driver.idle(self)

    def request(self, data: bytes, started: float) -> None:
        self.started = started
        self.busy = True
        self.body = b""
        self.transport.write(data)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.driver.tally.error("not http", str(error).encode())
            self.busy = False
            self.transport.abort()  # type: ignore[union-attr]

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        self.busy = False
        status = self.parser.get_status_code()
        tally = self.driver.tally
        if self.driver.good(status, self.body):
            tally.success(self.started, clock())
        else:
            tally.error("200 not acknowledged" if status == 200 else str(status), self.body)
        self.driver.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.busy:
            self.driver.tally.error("connection lost", str(exc or "closed").encode())
        self.driver.lost(self)


class Driver:
    """Opens connections, keeps their number, and says what an idle one does next."""

    def __init__(self, port: int, connections: int, make: Callable[[], bytes]) -> None:
        self.port = port
        self.make = make
        #: Tells whether an answer is the one expected.
        self.good: Callable[[int, bytes], bool] = acknowledged
        self.wanted = connections
        self.open: set[Connection] = set()
        self.tally = Tally()
        self.stopped = False
        self.reconnects: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Open all connections; each goes to work at once."""
        await asyncio.gather(*(self._open() for _ in range(self.wanted)))

    async def _open(self) -> None:
        connection = Connection(self)
        self.open.add(connection)
        await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", self.port)

    def idle(self, connection: Connection) -> None:
        """A connection can take a request."""
        raise NotImplementedError

    def lost(self, connection: Connection) -> None:
        """A connection was closed: replace it."""
        self.open.discard(connection)
        if not self.stopped:
            task = asyncio.get_running_loop().create_task(self._replace())
            self.reconnects.add(task)
            task.add_done_callback(self.reconnects.discard)

    async def _replace(self) -> None:
        await asyncio.sleep(0.05)
        while not self.stopped:
            try:
                await self._open()
            except OSError as error:
                self.tally.error("connection refused", str(error).encode())
                await asyncio.sleep(0.25)
            else:
                break

    async def finish(self, timeout: float) -> None:
        """Wait for the answers still out; those that do not come are errors."""
        self.stopped = True
        await until(lambda: not any(connection.busy for connection in self.open), timeout)
        for connection in list(self.open):
            if connection.busy:
                self.tally.error("unanswered")
                connection.busy = False
            if connection.transport is not None:
                connection.transport.abort()


class ClosedLoop(Driver):
    """Each connection sends the next request when it has the answer to the last."""

    def idle(self, connection: Connection) -> None:
        if not self.stopped and connection.transport is not None:
            connection.request(self.make(), clock())


class FixedRate(Driver):
    """Requests at scheduled times, whatever the answers do; latency counts from the scheduled time.

    A request that finds no connection free waits for one, and that waiting is part of its latency: a
    server that stalls cannot slow down the clock it is measured by.
    """

    def __init__(self, port: int, connections: int, make: Callable[[], bytes], rate: float) -> None:
        super().__init__(port, connections, make)
        self.interval = 1.0 / rate
        self.free: deque[Connection] = deque()
        self.backlog: deque[float] = deque()
        self.next = 0.0
        self.pacer: Pacer | None = None

    def start(self) -> None:
        self.next = clock() + self.interval
        self.pacer = Pacer(self.interval, self.tick)

    def tick(self) -> None:
        now = clock()
        while self.next <= now:
            self.backlog.append(self.next)
            self.next += self.interval
        while self.backlog and self.free:
            self._send(self.free.popleft())

    def idle(self, connection: Connection) -> None:
        if self.backlog:
            self._send(connection)
        else:
            self.free.append(connection)

    def lost(self, connection: Connection) -> None:
        if connection in self.free:
            self.free.remove(connection)
        super().lost(connection)

    def _send(self, connection: Connection) -> None:
        scheduled = self.backlog.popleft()
        if clock() - scheduled > LATE and self.tally.begin <= scheduled < self.tally.end:
            self.tally.late += 1
        connection.request(self.make(), scheduled)

    async def finish(self, timeout: float) -> None:
        if self.pacer is not None:
            self.pacer.close()
        await until(lambda: not self.backlog, timeout)
        for _ in range(len(self.backlog)):
            self.tally.error("unsent")
        self.backlog.clear()
        await super().finish(timeout)


async def until(condition: Callable[[], bool], timeout: float) -> None:
    """Wait for a condition, but not longer than a time.

    It is asked for now and then: nothing on the hot path shall have to announce it.
    """
    deadline = clock() + timeout
    while not condition() and clock() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class _Timer(ctypes.Structure):
    """``struct itimerspec``: interval, then first expiry, each as seconds and nanoseconds."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("interval_s", "interval_ns", "first_s", "first_ns"))


class Pacer:
    """Calls back at a fixed interval, to some microseconds.

    The event loop's own timers are whole milliseconds, as large as what is to be measured. On Linux a
    timerfd wakes the loop; elsewhere the loop's timers have to do.
    """

    def __init__(self, interval: float, callback: Callable[[], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.interval = interval
        self.callback = callback
        self.handle: asyncio.TimerHandle | None = None
        self.fd = _timerfd(interval) if sys.platform == "linux" else -1
        if self.fd >= 0:
            self.loop.add_reader(self.fd, self._expired)
        else:
            self._again()

    def _expired(self) -> None:
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
        self.callback()

    def _again(self) -> None:
        self.callback()
        self.handle = self.loop.call_later(self.interval / 2, self._again)

    def close(self) -> None:
        if self.fd >= 0:
            self.loop.remove_reader(self.fd)
            os.close(self.fd)
        if self.handle is not None:
            self.handle.cancel()


def _timerfd(interval: float) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    seconds, nanoseconds = divmod(round(interval * 1e9), 1_000_000_000)
    timer = _Timer(seconds, nanoseconds, seconds, nanoseconds)
    if fd < 0 or libc.timerfd_settime(fd, 0, ctypes.byref(timer), None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return fd
