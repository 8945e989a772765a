"""What each operation of the OpenAPI file does: one function an operationId, each a call or two of the service.

Requests arrive checked. Must never decide anything about tasks, nor wait on the event loop: what blocks runs in a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ParamSpec

import msgspec
from starlette.concurrency import run_in_threadpool

from tes_server import errors
from tes_server.api import answers
from tes_server.api.arrivals import Arrivals
from tes_server.api.body import SMALL
from tes_server.api.contract import Call, Handler
from tes_server.control.service import ListRequest, Service
from tes_server.model.record import View
from tes_server.model.task import Task
from tes_server.store import base

P = ParamSpec("P")

BODIES: dict[str, type] = {"CreateTask": Task}
"""operationId -> the struct that its body becomes."""

KEY_HEADER = b"idempotency-key"

LONGEST_KEY = 255
"""Characters of an Idempotency-Key: room for any id that a client makes, short enough for every store."""


class Handlers:
    """The operations of TES 1.1 on one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._arrivals = Arrivals()
        self._by_operation: dict[str, Handler] = {
            "GetServiceInfo": self.get_service_info,
            "ListTasks": self.list_tasks,
            "CreateTask": self.create_task,
            "GetTask": self.get_task,
            "CancelTask": self.cancel_task,
        }

    def find(self, operation_id: str) -> Handler:
        """The handler of an operationId. KeyError, at start-up, if the file names one that is not there."""
        handler = self._by_operation[operation_id]
        return _patient(handler) if self._service.blocking else handler

    async def get_service_info(self, call: Call) -> bytes:
        """TES 1.1, GetServiceInfo."""
        return msgspec.json.encode(self._service.service_info(call.principal))

    async def list_tasks(self, call: Call) -> bytes:
        """TES 1.1, ListTasks."""
        request = msgspec.convert(call.query, ListRequest)
        if request.view is not View.MINIMAL:  # whole tasks by the hundred, contents and all: milliseconds at best, seconds at worst
            return await run_in_threadpool(self._service.list_json, call.principal, request)
        return await self._read(self._service.list_json, call.principal, request)

    async def create_task(self, call: Call) -> bytes:
        """TES 1.1, CreateTask. The task is stored durably when this returns."""
        task: Task = call.body
        arguments = call.principal, task, idempotency_key(call.headers)
        # A limit may have to be looked up in the store first.
        if call.size > SMALL or self._service.limits is not None:  # whatever fills a large body (files, executors, one long argv), checking it takes its time
            stored = await run_in_threadpool(self._service.create, *arguments)
        else:
            stored = self._service.create(*arguments)
        return msgspec.json.encode({"id": await self._arrivals.of(stored)})

    async def get_task(self, call: Call) -> bytes:
        """TES 1.1, GetTask."""
        return await self._read(self._service.get_json, call.principal, call.path["id"], View(call.query["view"]))

    async def cancel_task(self, call: Call) -> bytes:
        """TES 1.1, CancelTask."""
        await run_in_threadpool(self._service.cancel, call.principal, call.path["id"])
        return b"{}"

    async def _read(self, function: Callable[P, bytes], *args: P.args, **kwargs: P.kwargs) -> bytes:
        # An embedded store answers in microseconds; the way to a thread and back would take three quarters of the rate.
        if self._service.blocking:
            return await run_in_threadpool(function, *args, **kwargs)
        return function(*args, **kwargs)


def _patient(handler: Handler) -> Handler:
    """Tell the store since when the client waits."""

    async def handle(call: Call) -> bytes:
        base.asked.set(time.monotonic())  # each request has a context of its own
        return await handler(call)

    return handle


def idempotency_key(headers: Sequence[answers.Header]) -> str | None:
    """The Idempotency-Key header, or None. Raises `errors.Invalid` if it cannot be one."""
    for name, value in headers:
        if name == KEY_HEADER:
            key = value.decode("latin-1")
            if not (1 <= len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
                raise errors.Invalid(f"expected 1 to {LONGEST_KEY} printable ASCII characters", "Idempotency-Key")
            return key
    return None
