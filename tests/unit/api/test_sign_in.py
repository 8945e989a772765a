"""Sign-in over the whole stack: two users, a viewer and an admin on one real store."""

from __future__ import annotations

import asyncio
import pathlib
import threading
import types
from collections.abc import Iterator

import msgspec
import pytest
from starlette.types import ASGIApp

from tes_server import errors, settings
from tes_server.api import application, sign_in
from tes_server.api.methods import Verified
from tes_server.api.sign_in import WAITING, SignIn
from tes_server.control.audit import Audit, AuditFile
from tes_server.control.limits import Bounds, Limits
from tes_server.model.principal import SCANS, Principal, Role
from tes_server.settings_auth import AuthSettings
from tests.contract.store_contract import a_record
from tests.unit.api import asgi, users
from tests.unit.api.service import TASK
from tests.unit.control.conftest import World

ALICE, BOB, VIEWER, ADMIN = (users.basic(name) for name in ("alice", "bob", "vera", "root"))
MATE = users.basic("mate")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("site") / "tasks.sqlite")
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def app(world: World) -> ASGIApp:
    place = world.path.parent
    users.write(place / "users", ("alice", Role.USER), ("bob", Role.USER), ("vera", Role.VIEWER), ("root", Role.ADMIN), ("mate", Role.USER, "alice"))
    service = world.service()
    service._about = msgspec.structs.replace(service._about, description="of the hospital", storage=("s3://patients",), parameters=("backend",))
    return application.build(service, settings.Settings(auth=AuthSettings(modes=("basic",), users_file=str(place / "users"))))


def create(app: ASGIApp, headers: dict[str, str], body: bytes = TASK) -> str:
    answer = asgi.post(app, "/v1/tasks", body, headers=headers)
    assert answer.status == 200, answer
    return str(answer.json["id"])


def listed(app: ASGIApp, headers: dict[str, str]) -> set[str]:
    return {task["id"] for task in asgi.get(app, "/v1/tasks?page_size=2000", headers=headers).json["tasks"]}


@pytest.mark.parametrize(
    "path", ["/v1/tasks", "/ga4gh/tes/v1/tasks", "/v1/tasks/x", "/", "/ui", "/ui/static/style.css", "/nowhere", "/v1/service-info/x", "//service-info"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE", "OPTIONS"])
def test_nothing_is_answered_without_sign_in(app: ASGIApp, method: str, path: str) -> None:
    answer = asgi.request(app, method, path, TASK if method == "POST" else b"")
    assert answer is not None
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="tes-server", charset="UTF-8"'
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "value",
    ["", "Basic", "Basic ", "Basic None:None", "Basic !!", "Bearer x", "Negotiate x", "basic", f"{ALICE['authorization']}x", "\xff", f"Basic {'A' * 40_000}"],
)
def test_bad_credentials_are_401_also_where_none_are_needed(app: ASGIApp, value: str) -> None:
    for path in ("/v1/tasks", "/v1/service-info"):
        answer = asgi.get(app, path, headers={**asgi.LOOPBACK, "authorization": value})
        assert answer.status == 401
        assert "www-authenticate" in answer.headers
        assert "correct horse" not in repr(answer)


def test_wrong_passwords_and_unknown_names_are_answered_alike(app: ASGIApp) -> None:
    answers = [asgi.get(app, "/v1/tasks", headers=users.basic(name, "wrong")) for name in ("alice", "mallory") for _ in range(2)]
    assert answers.count(answers[0]) == 4
    assert answers[0].status == 401


def test_the_scheme_is_not_case_sensitive(app: ASGIApp) -> None:
    assert asgi.get(app, "/v1/tasks", headers={**ALICE, "authorization": ALICE["authorization"].replace("Basic", "bAsIC")}).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/service-info", "/v1/service-info", "/v1/tasks/service-info", "/openapi.json", "/docs"])
def test_what_is_open(app: ASGIApp, path: str) -> None:
    assert asgi.get(app, path).status == 200


def test_guests_see_what_server_this_is_and_nothing_of_the_site(app: ASGIApp) -> None:
    for path in ("/service-info", "/v1/service-info", "/ga4gh/tes/v1/service-info"):
        guest, user = asgi.get(app, path).json, asgi.get(app, path, headers=ALICE).json
        assert guest.keys() == user.keys()
        assert {key: guest[key] for key in ("id", "name", "type", "version")} == {key: user[key] for key in ("id", "name", "type", "version")}
        assert (guest["storage"], guest["tesResources_backend_parameters"]) == ([], [])
        assert (user["storage"], user["tesResources_backend_parameters"]) == (["s3://patients"], ["backend"])
        assert ("hospital" in user["description"], "hospital" in guest["description"]) == (True, False)


def test_users_see_only_their_own(app: ASGIApp) -> None:
    alices, bobs = create(app, ALICE), create(app, BOB)
    assert alices in listed(app, ALICE)
    assert bobs not in listed(app, ALICE)
    for view in ("MINIMAL", "BASIC", "FULL"):
        assert asgi.get(app, f"/v1/tasks/{alices}?view={view}", headers=ALICE).status == 200
        other, none = asgi.get(app, f"/v1/tasks/{bobs}?view={view}", headers=ALICE), asgi.get(app, f"/v1/tasks/{'x' * 26}?view={view}", headers=ALICE)
        assert (other.status, none.status) == (404, 404)
        assert other.body.replace(bobs.encode(), b"") == none.body.replace(b"x" * 26, b"")
    assert asgi.post(app, f"/v1/tasks/{bobs}:cancel", headers=ALICE).status == 404
    assert asgi.get(app, f"/v1/tasks/{bobs}", headers=BOB).json["state"] == "QUEUED"
    assert asgi.post(app, f"/v1/tasks/{bobs}:cancel", headers=BOB).status == 200


def test_users_of_one_owner_share(app: ASGIApp) -> None:
    alices, mates = create(app, ALICE), create(app, MATE)
    assert {alices, mates} <= listed(app, ALICE) & listed(app, MATE)
    assert asgi.post(app, f"/v1/tasks/{alices}:cancel", headers=MATE).status == 200


def test_a_viewer_sees_all_and_changes_nothing(app: ASGIApp) -> None:
    alices, bobs = create(app, ALICE), create(app, BOB)
    assert {alices, bobs} <= listed(app, VIEWER)
    assert asgi.get(app, f"/v1/tasks/{bobs}?view=FULL", headers=VIEWER).status == 200
    for path, body in (("/v1/tasks", TASK), (f"/v1/tasks/{bobs}:cancel", b""), (f"/ui/tasks/{bobs}/cancel", b"")):
        assert asgi.post(app, path, body, headers=VIEWER).status == 403
    assert asgi.get(app, f"/v1/tasks/{bobs}", headers=BOB).json["state"] == "QUEUED"


def test_an_admin_sees_and_cancels_all(app: ASGIApp) -> None:
    alices, admins = create(app, ALICE), create(app, ADMIN)
    assert {alices, admins} <= listed(app, ADMIN)
    assert asgi.post(app, f"/v1/tasks/{alices}:cancel", headers=ADMIN).status == 200
    assert asgi.get(app, f"/v1/tasks/{admins}", headers=ALICE).status == 404


def test_scans_of_images_are_for_those_who_see_all(app: ASGIApp, world: World) -> None:
    scan = "s" * 26
    world.store.insert([a_record(scan, owner=SCANS.owner, created=world.clock())]).result()
    mine = create(app, ALICE)
    assert scan not in listed(app, ALICE)
    assert scan.encode() not in asgi.get(app, "/ui", headers=ALICE).body
    for method, path in (("GET", f"/v1/tasks/{scan}?view=FULL"), ("GET", f"/ui/tasks/{scan}"), ("POST", f"/v1/tasks/{scan}:cancel")):
        answer = asgi.request(app, method, path, headers=ALICE)
        assert answer is not None
        assert answer.status == 404
    for who in (VIEWER, ADMIN):
        assert {scan, mine} <= listed(app, who)
        assert scan.encode() in asgi.get(app, "/ui", headers=who).body
        assert asgi.get(app, f"/v1/tasks/{scan}?view=FULL", headers=who).status == 200
    assert asgi.post(app, f"/v1/tasks/{scan}:cancel", headers=ADMIN).status == 200


def test_the_pages_show_what_the_api_shows(app: ASGIApp) -> None:
    alices, bobs = create(app, ALICE, TASK), create(app, BOB, TASK)
    page = asgi.get(app, "/ui", headers=ALICE).body
    assert alices.encode() in page
    assert bobs.encode() not in page
    assert asgi.get(app, f"/ui/tasks/{bobs}", headers=ALICE).status == 404
    assert asgi.post(app, f"/ui/tasks/{bobs}/cancel", headers=ALICE).status == 404


def test_a_key_is_each_owners_own(app: ASGIApp) -> None:
    key = {"idempotency-key": "run-1"}
    mine, mates, bobs = (create(app, {**who, **key}) for who in (ALICE, MATE, BOB))
    assert mine == mates != bobs
    other = msgspec.json.encode({**msgspec.json.decode(TASK), "name": "other"})
    assert asgi.post(app, "/v1/tasks", other, headers={**BOB, **key}).status == 409


def test_a_page_token_is_each_scopes_own(app: ASGIApp) -> None:
    for _ in range(3):
        create(app, ALICE)
    token = asgi.get(app, "/v1/tasks?page_size=1", headers=ALICE).json["next_page_token"]
    assert asgi.get(app, f"/v1/tasks?page_token={token}", headers=BOB).status == 400
    assert asgi.get(app, f"/v1/tasks?page_token={token}", headers=ADMIN).status == 400
    assert asgi.get(app, f"/v1/tasks?page_token={token}", headers=MATE).status == 200


@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}])
def test_another_sites_page_has_no_use_of_a_password_that_the_browser_remembers(app: ASGIApp, headers: dict[str, str]) -> None:
    assert asgi.post(app, "/v1/tasks", TASK, headers={**ALICE, **headers}).status == 403


def test_any_name_will_do(app: ASGIApp) -> None:
    assert asgi.get(app, "/v1/tasks", headers={**ALICE, "host": "tes.example.org"}).status == 200
    assert asgi.get(app, "/v1/tasks", headers={**ALICE, "host": "tes.example.org", "origin": "https://tes.example.org"}).status == 200


@pytest.mark.parametrize(("who", "status"), [({}, 401), (ALICE, 403), (VIEWER, 200), (ADMIN, 200)])
def test_metrics_behind_sign_in(tmp_path: pathlib.Path, who: dict[str, str], status: int) -> None:
    users.write(tmp_path / "users", ("alice", Role.USER), ("vera", Role.VIEWER), ("root", Role.ADMIN))
    world = World(tmp_path / "tasks.sqlite")
    auth = AuthSettings(modes=("basic",), users_file=str(tmp_path / "users"), open_metrics=False)
    closed = application.build(world.service(), settings.Settings(auth=auth))
    for path in ("/metrics", "/metrics/"):
        assert asgi.get(closed, path, headers={**asgi.LOOPBACK, **who}).status == status
    assert asgi.get(closed, "/healthz").status == 200
    world.store.close()


# -- how often credentials are looked at --------------------------------------------------------------------------------


class Scripted:
    """A way to sign in that knows "good", counts its work, and can be made to wait."""

    scheme = "test"
    threads = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.until = float("inf")
        self.renews = 0.0
        self.seen = 0

    def challenge(self, fault: errors.Unauthorized | None) -> str:
        return "Test" if fault is None else f'Test error="{fault.reason}"'

    def version(self, now: float) -> object:
        return self.seen

    def verify(self, credentials: str) -> Verified:
        self.asked.append(credentials)
        assert self.go.wait(10)
        if credentials == "away":
            raise errors.Unavailable("the issuer is away")
        if credentials == "barred":
            raise errors.Forbidden("not you")
        if credentials != "good":
            raise errors.Unauthorized("no", "guess")
        return Verified(Principal("alice"), self.until, self.renews)


def header(credentials: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Test " + credentials.encode())]


def test_credentials_are_looked_at_once_good_or_bad() -> None:
    async def ask() -> None:
        method = Scripted()
        door = SignIn([method])
        for _ in range(3):
            assert await door.principal(header("good")) == Principal("alice")
            for wrong, kind in (("guess", errors.Unauthorized), ("barred", errors.Forbidden)):
                with pytest.raises(kind):
                    await door.principal(header(wrong))
        assert sorted(method.asked) == ["barred", "good", "guess"]
        method.seen += 1
        assert await door.principal(header("good")) == Principal("alice")
        assert len(method.asked) == 4

    asyncio.run(ask())


def test_credentials_are_the_same_however_they_are_written() -> None:
    """Else one who is known could fill the table, and so crowd out all others."""

    async def ask() -> None:
        method = Scripted()
        door = SignIn([method])
        for value in (b"Test good", b"tEST good", b"test   good", b"test good  "):
            assert await door.principal([(b"authorization", value)]) == Principal("alice")
        assert method.asked == ["good"]

    asyncio.run(ask())


def test_what_could_not_be_found_out_is_asked_again() -> None:
    async def ask() -> None:
        method = Scripted()
        door = SignIn([method])
        for _ in range(2):
            with pytest.raises(errors.Unavailable):
                await door.principal(header("away"))
        assert method.asked == ["away", "away"]

    asyncio.run(ask())


def test_a_sign_in_lasts_no_longer_than_its_method_says() -> None:
    async def ask() -> None:
        method = Scripted()
        method.until = float("-inf")
        door = SignIn([method])
        await door.principal(header("good"))
        await door.principal(header("good"))
        assert method.asked == ["good", "good"]

    asyncio.run(ask())


def test_each_use_puts_off_the_next_look_where_its_method_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(sign_in, "time", types.SimpleNamespace(monotonic=lambda: now))

    async def ask(renews: float) -> int:
        nonlocal now
        method = Scripted()
        method.until, method.renews = now + 60, renews
        door = SignIn([method])
        for _ in range(4):
            await door.principal(header("good"))
            now += 40
        now += 60
        method.until = now + 60
        await door.principal(header("good"))
        method.seen += 1
        await door.principal(header("good"))
        return len(method.asked)

    assert asyncio.run(ask(60.0)) == 1 + 1 + 1  # a pause that was too long, another version
    assert asyncio.run(ask(0.0)) > 1 + 1 + 1


def test_many_at_once_are_looked_at_once_and_the_loop_goes_on() -> None:
    async def ask() -> None:
        method = Scripted()
        method.go.clear()
        door = SignIn([method])
        asking = [asyncio.create_task(door.principal(header("good"))) for _ in range(20)]
        while len(method.asked) < 2:  # its threads
            await asyncio.sleep(0)
        method.go.set()
        assert set(await asyncio.gather(*asking)) == {Principal("alice")}
        assert method.asked == ["good", "good"]

    asyncio.run(ask())


def test_a_crowd_of_guesses_is_turned_away() -> None:
    async def ask() -> None:
        method = Scripted()
        door = SignIn([method])
        assert await door.principal(header("good")) == Principal("alice")
        method.go.clear()
        guesses = [asyncio.create_task(door.principal(header(f"guess{number}"))) for number in range(method.threads + WAITING)]
        while len(method.asked) < 1 + method.threads:
            await asyncio.sleep(0)
        with pytest.raises(errors.Unavailable):
            await door.principal(header("one more"))
        assert await door.principal(header("good")) == Principal("alice")  # who is known does not wait
        method.go.set()
        refused = await asyncio.gather(*guesses, return_exceptions=True)
        assert {type(cause) for cause in refused} == {errors.Unauthorized}
        assert len(method.asked) == 1 + len(guesses)

    asyncio.run(ask())


def test_each_method_has_its_challenge_and_the_one_that_was_tried_says_why() -> None:
    class Other(Scripted):
        scheme = "other"

        def challenge(self, fault: errors.Unauthorized | None) -> str:
            return "Other"

    async def ask() -> None:
        door = SignIn([Scripted(), Other()])
        with pytest.raises(errors.Unauthorized) as refused:
            await door.principal(header("guess"))
        assert refused.value.challenges == ('Test error="guess"', "Other")
        assert door.refusal("sign in", "missing").challenges == ("Test", "Other")

    asyncio.run(ask())


# -- the audit log ------------------------------------------------------------------------------------------------------


def test_who_could_not_sign_in_is_told_without_what_was_typed(tmp_path: pathlib.Path) -> None:
    users.write(tmp_path / "users", ("alice", Role.USER))
    world = World(tmp_path / "tasks.sqlite")
    service = world.service()
    service.audit = Audit(AuditFile(tmp_path / "audit"), world.clock)
    app = application.build(service, settings.Settings(auth=AuthSettings(modes=("basic",), users_file=str(tmp_path / "users"))))
    for _ in range(3):
        asgi.get(app, "/v1/tasks", headers=users.basic("alice", "wr0ng-canary"))
        asgi.get(app, "/v1/tasks", headers=users.basic("my-canary-password", "x"))
        asgi.get(app, "/v1/tasks")
    create(app, ALICE)
    world.store.close()
    text = (tmp_path / "audit").read_text()
    assert "canary" not in text
    refused, unknown, created = (msgspec.json.decode(line) for line in text.splitlines())
    assert (refused["action"], refused["who"], refused["address"]) == ("sign_in.refused", "alice", "127.0.0.1")
    assert "who" not in unknown
    assert (created["action"], created["owner"], created["who"], created["address"]) == ("task.create", "alice", "alice", "127.0.0.1")


def test_too_much_is_429_with_a_time(tmp_path: pathlib.Path) -> None:
    users.write(tmp_path / "users", ("alice", Role.USER))
    world = World(tmp_path / "tasks.sqlite")
    service = world.service()
    service.limits = Limits(world.store, Bounds(tasks=1, lists_per_minute=1))
    app = application.build(service, settings.Settings(auth=AuthSettings(modes=("basic",), users_file=str(tmp_path / "users"))))
    task_id = create(app, ALICE)
    listed(app, ALICE)
    for answer in (asgi.post(app, "/v1/tasks", TASK, headers=ALICE), asgi.get(app, "/v1/tasks", headers=ALICE), asgi.get(app, "/ui", headers=ALICE)):
        assert answer.status == 429
    assert int(asgi.get(app, "/v1/tasks", headers=ALICE).headers["retry-after"]) in range(1, 61)
    for path in (f"/v1/tasks/{task_id}", "/v1/service-info", f"/ui/tasks/{task_id}"):
        assert asgi.get(app, path, headers=ALICE).status == 200
    assert asgi.post(app, f"/v1/tasks/{task_id}:cancel", headers=ALICE).status == 200
    world.store.close()
