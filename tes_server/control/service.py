"""The API's only door: create, look, list, cancel. Reads the store or writes one fact into it; never talks to a platform."""

from __future__ import annotations

import base64
import binascii
import collections
import concurrent.futures
import contextlib
import datetime
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec

from tes_server import errors, telemetry
from tes_server.control import decide
from tes_server.control import running as bounds
from tes_server.control.audit import Audit
from tes_server.control.limits import Limits
from tes_server.model import run, views
from tes_server.model.principal import ALL, Principal, Role, Scope
from tes_server.model.record import Brief, Detail, Lane, Query, Record, StateFilter, Status, View
from tes_server.model.states import ENDS, LIVE, State
from tes_server.model.task import Task
from tes_server.plan import placing
from tes_server.plan.policy import Target
from tes_server.plan.route import Rule
from tes_server.store.base import Store

MOST_TAGS = 100
"""Pairs of tag_key and tag_value in one list: every pair is a condition of one query, and stores bound how many one may have."""

WATCH = datetime.timedelta(seconds=15)
"""How long a FULL look keeps a task's live output fresh; longer than any client's polling interval is of no use."""

SAVE_TRIES = 20
"""A cancel that meets so many newer revisions in a row has met a fault, not a race."""


class ListRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The query of ListTasks, coerced and bounded by the contract."""

    view: View = View.MINIMAL
    page_size: int = 256
    page_token: str = ""
    name_prefix: str = ""
    state: State | None = None
    tag_key: tuple[str, ...] = ()
    tag_value: tuple[str, ...] = ()


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What service-info tells. `description` says in words which engine and limits hold."""

    id: str
    name: str
    organization: str
    organization_url: str
    version: str
    description: str
    storage: tuple[str, ...]
    parameters: tuple[str, ...]


class Service:
    """Operations of one server. `targets` by backend name, the first is the default. `clock` gives the time in UTC."""

    def __init__(
        self,
        store: Store,
        targets: Mapping[str, Target],
        rules: Sequence[Rule],
        about: About,
        compat: str,
        clock: Callable[[], datetime.datetime],
        limits: Limits | None = None,
        audit: Audit | None = None,
        running: int = 0,
    ) -> None:
        self.limits = limits
        self.audit = audit
        self.blocking = store.blocking
        self.compat = compat
        self._store = store
        self._targets = targets
        self._rules = rules
        self._about = about
        self._clock = clock
        queues = {name: "; ".join(filter(None, (f"in the queue of the backend {name}", bounds.words(running)))) for name in targets}
        self._waiting = {name: telemetry.line(telemetry.Code.WAITING_TURN, words) for name, words in queues.items()}
        self._watching: dict[str, datetime.datetime] = {}

    # -- create -----------------------------------------------------------------------------------------------------

    def create(self, principal: Principal, task: Task, idempotency_key: str | None = None) -> concurrent.futures.Future[str]:
        """Check, route and keep a task; the future gives its id once it is durable.

        Raises Invalid, TooMany, or Forbidden for those who may only look, at once. With a key the id follows from (owner, key): the
        same task again gives the same id, another task fails the future with Conflict.
        """
        _changing(principal)
        if self.limits is not None:
            self.limits.asks_for_create(principal.owner)
        now = self._clock()
        task_id = key_id(principal.owner, idempotency_key) if idempotency_key else new_id(now)
        placed = placing.place(views.with_types(task), task_id, principal.owner, self._rules, self._targets)
        backend, compiled = placed.route.backend, placed.compiled
        record = Record(
            id=task_id,
            owner=principal.owner,
            created=now,
            state=State.QUEUED,
            lane=Lane.WAITING,
            due=now,
            status=Status(
                backend=backend,
                rule=placed.route.rule,
                waiting=self._waiting[backend],
            ),
            task=compiled.task,
            detail=Detail(compiled.warnings) if compiled.warnings else None,
        )
        settled = self._admit(record, bool(idempotency_key))
        answer: concurrent.futures.Future[str] = concurrent.futures.Future()

        def settle(kept: concurrent.futures.Future[None]) -> None:
            settled()
            try:
                cause = kept.exception()
                if isinstance(cause, errors.Conflict) and idempotency_key:
                    self._same(record)
                elif cause is not None:
                    raise cause
                else:
                    telemetry.TASKS_CREATED.inc()
                    if self.audit is not None:
                        self.audit.did("task.create", principal, task=task_id)
                answer.set_result(task_id)
            except BaseException as cause:  # noqa: BLE001 - whatever it is, the caller waits for it
                answer.set_exception(cause)

        try:
            stored = self._store.insert([record], undo=None if idempotency_key else self._disown)
        except errors.TesServerError:
            settled()
            raise
        stored.add_done_callback(settle)
        return answer

    def _admit(self, record: Record, has_key: bool) -> Callable[[], None]:
        """Count a new task in. One whose key is there already is no new one, however many there are."""
        if self.limits is None or record.task is None:
            return lambda: None
        try:
            return self.limits.admit(record.owner, record.task)
        except errors.TooMany:
            if has_key and self._store.get(Scope(record.owner), record.id, View.MINIMAL) is not None:
                return lambda: None
            raise

    def _same(self, record: Record) -> None:
        """A repeated create is fine if it is the same task."""
        there = self._store.get(ALL, record.id, View.FULL)
        if not isinstance(there, Record) or there.owner != record.owner or there.task != record.task:
            raise errors.Conflict("this Idempotency-Key was used for another task")

    # -- look -------------------------------------------------------------------------------------------------------

    def get_json(self, principal: Principal, task_id: str, view: View) -> bytes:
        """One task as JSON. Raises NotFound."""
        task = self._find(principal, task_id, view)
        tails = None
        if view is View.FULL and task.state not in ENDS:
            tails = self._live(task_id)
        return views.task_json(task, view, self.compat, principal.owner, tails)

    def list_json(self, principal: Principal, request: ListRequest) -> bytes:
        """A page of tasks as JSON. Raises Invalid whose pointer is the parameter's name, TooMany (`limits`)."""
        if self.limits is not None:
            self.limits.asks_for_list(principal.owner)
        query = self._query(principal, request)
        page = self._store.page(query)
        token = _token(page.after, query) if page.after else None
        return views.list_json(page.tasks, token, request.view, self.compat, principal.owner)

    def _find(self, principal: Principal, task_id: str, view: View) -> Brief:
        task = self._store.get(principal.scope, task_id, view)
        if task is None:
            raise _not_found(task_id)
        return task

    def _live(self, task_id: str) -> run.Tails | None:
        """Live output, and the mark that keeps the reconciler fetching it; renewed at a third of its time, not at each look."""
        now = self._clock()
        if self._watching.get(task_id, now) <= now:
            if len(self._watching) > 10_000:
                self._watching.clear()
            self._watching[task_id] = now + WATCH / 3
            self._store.watch(task_id, now + WATCH)
        return self._store.tail(task_id)

    def _query(self, principal: Principal, request: ListRequest) -> Query:
        if len(request.tag_value) > len(request.tag_key):
            raise errors.Invalid("has more entries than tag_key; they are paired by position", "tag_value")
        if len(request.tag_key) > MOST_TAGS:
            raise errors.Invalid(f"is given {len(request.tag_key)} times, a list takes {MOST_TAGS}", "tag_key")
        values = (*request.tag_value, *("" for _ in range(len(request.tag_key) - len(request.tag_value))))
        query = Query(
            scope=principal.scope,
            view=request.view,
            size=request.page_size,
            name_prefix=request.name_prefix,
            state=state_filter(request.state, self.compat),
            tags=tuple(zip(request.tag_key, values, strict=True)),
        )
        if request.page_token:
            query = msgspec.structs.replace(query, after=_position(request.page_token, query))
        return query

    # -- cancel -----------------------------------------------------------------------------------------------------

    def cancel(self, principal: Principal, task_id: str) -> None:
        """Ask to cancel. Idempotent, also on ended tasks. Durable when it returns. Raises NotFound, and Forbidden for those who may only look."""
        _changing(principal)
        owner = self._cancel(principal.scope, task_id)
        if self.audit is not None:
            self.audit.did("task.cancel", principal, task=task_id, of="" if owner == principal.owner else owner)

    def _disown(self, task_id: str) -> None:
        """Its create was answered 503, and the store had it all the same: nobody knows its id, and the client may create another."""
        with contextlib.suppress(errors.NotFound):
            self._cancel(ALL, task_id)

    def _cancel(self, scope: Scope, task_id: str) -> str:
        """Returns whose task it is."""
        for _ in range(SAVE_TRIES):
            found = [record for record in self._store.load([task_id]) if scope.owner in (None, record.owner)]
            if not found:
                raise _not_found(task_id)
            change = decide.cancel(found[0], self._clock())
            if change is None or not self._store.save([change]):
                return found[0].owner
        raise errors.Unavailable("the task changes too fast to be canceled; try again")

    # -- about the server -------------------------------------------------------------------------------------------

    def service_info(self, principal: Principal) -> dict[str, object]:
        """service-info with the keys of TES 1.1 only (row 2). Guests see no name of a directory, bucket or backend."""
        about = _public(self._about) if principal.role is Role.GUEST else self._about
        return {
            "id": about.id,
            "name": about.name,
            "type": {"group": "org.ga4gh", "artifact": "tes", "version": "1.1.0"},
            "description": about.description,
            "organization": {"name": about.organization, "url": about.organization_url},
            "version": about.version,
            "storage": list(about.storage),
            "tesResources_backend_parameters": list(about.parameters),
        }

    def legacy_service_info(self, principal: Principal) -> dict[str, object]:
        """The 1.0-era answer: exactly name, doc, storage (row 3)."""
        about = _public(self._about) if principal.role is Role.GUEST else self._about
        return {"name": about.name, "doc": about.description, "storage": list(about.storage)}

    def ready(self) -> None:
        """Raise Unavailable where the store does not answer."""
        self._store.check()


def _public(about: About) -> About:
    return msgspec.structs.replace(about, description="GA4GH TES 1.1 server; wants a sign-in", storage=(), parameters=())


def _changing(principal: Principal) -> None:
    if not principal.may_change:
        raise errors.Forbidden("you may look at tasks here, not create or cancel them")


def state_filter(state: State | None, compat: str) -> StateFilter | None:
    """What a list by `state` means: the filter must agree with the states that this server shows."""
    if state is None:
        return None
    if compat != "1.1":
        return StateFilter(frozenset({state}) & (LIVE | ENDS))
    if state is State.CANCELING:
        return StateFilter(LIVE, canceling=True)
    return StateFilter(frozenset({state}) & (LIVE | ENDS), canceling=False if state in LIVE else None)


def _not_found(task_id: str) -> errors.NotFound:
    return errors.NotFound(f"there is no task {task_id[:64]!r}")


def new_id(now: datetime.datetime) -> str:
    """A fresh id, `[a-z0-9]{26}`: 48 bits of time, so that new ones lie together in every index, and 80 random bits."""
    return _base32((int(now.timestamp() * 1000) << 80) | int.from_bytes(_random(), "big"))


_unused: collections.deque[bytes] = collections.deque()
os.register_at_fork(after_in_child=_unused.clear)  # no two processes may make the same ids


def _random() -> bytes:
    """10 random bytes. The kernel is asked for many at once: each call gives Python's lock away, and the store's writer waits for it."""
    while True:
        try:
            return _unused.pop()
        except IndexError:
            block = os.urandom(10 * 256)
            _unused.extend(block[start : start + 10] for start in range(0, len(block), 10))


def key_id(owner: str, key: str) -> str:
    """The id that an Idempotency-Key gives: the store's primary key makes it unique."""
    digest = hashlib.sha256(msgspec.msgpack.encode((owner, key))).digest()
    return _base32(int.from_bytes(digest[:16], "big"))


_ALPHABET = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789abcdefghjkmnpqrstvwxyz")
"""From the digits of RFC 4648 to Crockford's, which sort as their values do."""


def _base32(number: int) -> str:
    """26 digits of 5 bits, highest first."""
    return base64.b32encode(number.to_bytes(20, "big"))[-26:].translate(_ALPHABET).decode()


def _binding(query: Query) -> bytes:
    """What a page token is bound to: every filter and the scope, but not size and view, which may change between pages."""
    states = sorted(query.state.states) if query.state else None
    bound = (query.scope.owner, query.name_prefix, states, query.state.canceling if query.state else None, query.tags)
    return hashlib.blake2b(msgspec.msgpack.encode(bound), digest_size=8).digest()


_tokens = msgspec.msgpack.Decoder(tuple[Annotated[datetime.datetime, msgspec.Meta(tz=True)], str, bytes])


def _token(after: tuple[datetime.datetime, str], query: Query) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((after[0], after[1], _binding(query)))).decode().rstrip("=")


def _position(token: str, query: Query) -> tuple[datetime.datetime, str]:
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        created, task_id, binding = _tokens.decode(packed)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as cause:
        raise errors.Invalid("is not a page_token of this server", "page_token") from cause
    if binding != _binding(query):
        raise errors.Invalid("belongs to a list with other filters; start again without it", "page_token")
    return created, task_id
