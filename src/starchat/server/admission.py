"""Who may compute now: places, a queue, and a budget of memory for the KV cache.

A request takes a Ticket when it comes (503 at once where the queue is full), waits for its turn,
first come, first served, and gives the ticket back at its end. A deadline, or the end of the
server, ends a ticket from outside.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakSet, ref

from .errors import ApiError


class Ticket:
    """One request's right to be here; leave() at its end, in any case."""

    def __init__(self, admission: Admission) -> None:
        """Be counted as waiting."""
        self._admission = admission
        self._turn: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.kv_bytes = 0
        self.is_running = False
        self.has_left = False
        self.error: ApiError | None = None  # why it was ended from outside
        #: Ends the work, once there is some.
        self.on_end: Callable[[], object] | None = None
        self.came = time.monotonic()
        self.waited_s = 0.0

    async def admitted(self, kv_bytes: int) -> None:
        """Wait for a place and for so much of the budget; raise ApiError if there will be none."""
        self.check()
        self.kv_bytes = kv_bytes
        await self._admission.wait(self)
        self.waited_s = time.monotonic() - self.came

    def check(self) -> None:
        """Raise the error for which the request was ended, if it was."""
        if self.error is not None:
            raise self.error

    def deadline(self, seconds: float) -> None:
        """End the request in so many seconds from now; 0: never. The earliest deadline counts."""
        if seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, _expire, ref(self), seconds)

    def no_deadline(self) -> None:
        """Take the deadline back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self, error: ApiError) -> None:
        """End the request, waiting or running, with this error."""
        if self.has_left or self.error is not None:
            return
        self.error = error
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(error)
        if self.on_end is not None:
            self.on_end()

    def leave(self) -> None:
        """Give place and memory back; harmless when that was done."""
        if not self.has_left:
            self.has_left = True
            self.on_end = None
            self.no_deadline()
            self._admission.leave(self)

    def __enter__(self) -> Ticket:
        """Return the ticket."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave."""
        self.leave()

    def __del__(self) -> None:
        """Leave, where a handler was dropped before it could."""
        self.leave()


class Admission:
    """Places and memory, for the event loop's thread alone."""

    def __init__(self, max_running: int, max_queue: int, kv_budget: int | None = None) -> None:
        """Begin with nobody here; without a budget, memory is not counted."""
        self.max_running = max_running
        self.max_queue = max_queue
        self.kv_budget = kv_budget
        self.kv_bytes = 0  # of what runs
        self.is_draining = False
        self._here: WeakSet[Ticket] = WeakSet()  # weak, so that a dropped ticket leaves
        self._queue: deque[Ticket] = deque()
        self._n_running = 0

    @property
    def running(self) -> int:
        """Requests that compute."""
        return self._n_running

    @property
    def waiting(self) -> int:
        """Requests that are here and do not compute yet."""
        return len(self._here) - self._n_running

    def enter(self) -> Ticket:
        """Return a ticket; raise ApiError 503 where the queue is full, or the server ends."""
        if self.is_draining:
            raise shutting_down()
        if len(self._here) >= self.max_running + self.max_queue:
            problem = f"{self.running} requests run and {self.waiting} wait: come again later"
            raise ApiError.unavailable(problem, "overloaded")
        ticket = Ticket(self)
        self._here.add(ticket)
        return ticket

    async def wait(self, ticket: Ticket) -> None:
        """Give the ticket its place, once there is one."""
        budget = self.kv_budget
        if budget is not None and ticket.kv_bytes > budget:
            problem = f"prompt and reply may take {ticket.kv_bytes:,} bytes of the KV cache, the "
            problem += f"server has {budget:,}: ask for fewer max_tokens or replies, or shorten "
            problem += "the prompt"
            raise ApiError(400, problem, code="context_length_exceeded", param="max_tokens")
        if not self._queue and self._fits(ticket):
            self._start(ticket)
            return
        ticket._turn = asyncio.get_running_loop().create_future()
        self._queue.append(ticket)
        await ticket._turn  # whoever is cancelled here leaves

    def _fits(self, ticket: Ticket) -> bool:
        budget = self.kv_budget
        has_memory = budget is None or self.kv_bytes + ticket.kv_bytes <= budget
        return self._n_running < self.max_running and has_memory

    def _start(self, ticket: Ticket) -> None:
        ticket.is_running = True
        self._n_running += 1
        self.kv_bytes += ticket.kv_bytes

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket back, and start those whose turn it is."""
        self._here.discard(ticket)
        if ticket.is_running:
            ticket.is_running = False
            self._n_running -= 1
            self.kv_bytes -= ticket.kv_bytes
        elif ticket in self._queue:
            self._queue.remove(ticket)
        self._next()

    def _next(self) -> None:
        while self._queue and self._fits(self._queue[0]):
            ticket = self._queue.popleft()
            if ticket._turn is not None and not ticket._turn.done():
                self._start(ticket)
                ticket._turn.set_result(None)

    def drain(self) -> None:
        """Refuse who comes from now on, and who waits; who runs goes on."""
        self.is_draining = True
        for ticket in [*self._here]:
            if not ticket.is_running:
                ticket.end(shutting_down())

    def end_all(self) -> None:
        """End who runs, too."""
        self.is_draining = True
        for ticket in [*self._here]:
            ticket.end(shutting_down())


def _expire(ticket: ref[Ticket], seconds: float) -> None:
    problem = f"the request took more than {seconds:g} s: ask for less (max_tokens), or raise the "
    problem += "client's timeout and the server's --request-timeout"
    if here := ticket():  # the timer must not keep a ticket that nobody has any more
        here.end(ApiError(504, problem, code="deadline_exceeded"))


def shutting_down() -> ApiError:
    """Return the error of who asks a server that ends."""
    problem = "the server is shutting down: ask again, it may be back"
    return ApiError.unavailable(problem, "server_shutting_down")
