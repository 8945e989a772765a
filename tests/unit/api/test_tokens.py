"""Bearer tokens of a real issuer on loopback, and the attacks on them."""

from __future__ import annotations

import concurrent.futures
import hashlib
import hmac
import threading
import time
from typing import Any

import joserfc.jwk
import joserfc.jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tes_server import errors
from tes_server.api import issuers, signatures
from tes_server.api.tokens import KEPT, Tokens
from tes_server.model.principal import Principal, Role
from tes_server.settings_auth import ClaimRoleSettings, IssuerSettings
from tests.issuer import AUDIENCE, TokenIssuer, elliptic, part, rsa

ADMINS = ClaimRoleSettings(role="admin", claim="groups", value="admins")


@pytest.fixture
def issuer(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> TokenIssuer:
    monkeypatch.setenv("no_proxy", "*")
    return TokenIssuer(httpserver, "/realm")


def settings(issuer: TokenIssuer, **more: Any) -> IssuerSettings:
    return IssuerSettings(**{"issuer": issuer.url, "audience": (AUDIENCE,), "roles": (ADMINS,), "default_role": "user", **more})


def door(*known: IssuerSettings, ahead: float = 0.0) -> Tokens:
    return Tokens(known, clock=lambda: time.time() + ahead)


def refused(tokens: Tokens, token: str) -> str:
    with pytest.raises(errors.Unauthorized) as told:
        tokens.verify(token)
    assert not token or token[-20:] not in told.value.public
    assert '"' not in tokens.challenge(told.value).removeprefix('Bearer realm="tes-server", error="invalid_token", error_description="')[:-1]
    return told.value.reason


def test_a_good_token(issuer: TokenIssuer) -> None:
    tokens = door(settings(issuer))
    assert tokens.verify(issuer.token()).principal == Principal("alice")
    assert tokens.verify(issuer.token(sub="root", groups=["x", "admins"])).principal == Principal("root", Role.ADMIN)
    assert issuer.asked == ["/realm/.well-known/openid-configuration", "/realm/keys"]  # once for all tokens


@pytest.mark.parametrize(
    "header", [{"typ": "at+jwt"}, {"typ": "application/at+JWT"}, {"typ": "JWT"}, {"typ": None}, {"kid": None}, {"nonce": "x"}, {"x5t": "y" * 600}]
)
def test_headers_of_real_issuers(issuer: TokenIssuer, header: dict[str, Any]) -> None:
    issuer.keys.append(elliptic("two"))
    assert door(settings(issuer)).verify(issuer.token(header=header)).principal == Principal("alice")


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "RS512"])
def test_algorithms(issuer: TokenIssuer, algorithm: str) -> None:
    token = issuer.token(header={"alg": algorithm})
    assert door(settings(issuer, algorithms=(algorithm,))).verify(token).principal == Principal("alice")
    assert refused(door(settings(issuer, algorithms=("ES256",))), token) == "algorithm"


def test_elliptic_curves(issuer: TokenIssuer) -> None:
    issuer.keys = [elliptic("two")]
    assert door(settings(issuer)).verify(issuer.token()).principal == Principal("alice")


# -- attacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", "nOnE"])
def test_no_signature(issuer: TokenIssuer, name: str) -> None:
    unsigned = f"{part({'alg': name, 'kid': 'one'})}.{part(issuer.claims())}."
    assert refused(door(settings(issuer)), unsigned) == "algorithm"
    assert refused(door(settings(issuer)), unsigned + "x") == "algorithm"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_public_key_as_the_secret_of_an_hmac(issuer: TokenIssuer, algorithm: str) -> None:
    key = rsa("one")
    pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{part({'alg': algorithm, 'kid': 'one'})}.{part(issuer.claims())}"
    for secret in (pem, pem.strip(), key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)):
        forged = f"{signed}.{part(hmac.new(secret, signed.encode(), getattr(hashlib, algorithm.replace('HS', 'sha'))).digest())}"
        assert refused(door(settings(issuer)), forged) == "algorithm"


def test_no_symmetric_key_of_an_issuer_is_used(issuer: TokenIssuer) -> None:
    secret = joserfc.jwk.OctKey.import_key("k" * 32, {"kid": "shared", "use": "sig"})
    assert signatures.keys({"keys": [secret.as_dict(private=True), rsa("one").as_dict(private=True)]}) != []
    assert [key.kid for key in signatures.keys({"keys": [secret.as_dict(private=True), rsa("one").as_dict(private=True)]})] == ["one"]


def test_only_pinned_algorithms_can_be_set() -> None:
    """What the settings take has no HMAC and no "none"."""
    from typing import get_args

    from tes_server.settings_auth import Algorithm

    assert {name[:2] for name in get_args(Algorithm)} == {"RS", "PS", "ES"}


def test_a_key_of_another_kind_under_the_same_name(issuer: TokenIssuer) -> None:
    tokens = door(settings(issuer))
    assert refused(tokens, issuer.token(elliptic("one"))) == "key"
    assert refused(tokens, issuer.token(rsa("mallory"), header={"kid": "one"})) == "signature"
    assert refused(tokens, issuer.token(rsa("mallory"), header={"kid": None})) == "signature"


def test_keys_that_the_token_brings_along(issuer: TokenIssuer, httpserver: HTTPServer) -> None:
    mallory = rsa("mallory")
    jwk = mallory.as_dict(private=False)
    tokens = door(settings(issuer))
    for header in ({"jwk": jwk}, {"jku": httpserver.url_for("/evil")}, {"x5u": httpserver.url_for("/evil")}):
        assert refused(tokens, issuer.token(mallory, header={"kid": None, **header})) == "signature"
    assert not [request for request, _ in httpserver.log if request.path == "/evil"]


def test_a_token_of_another_issuer(issuer: TokenIssuer, httpserver: HTTPServer) -> None:
    other = TokenIssuer(httpserver, "/other")
    tokens = door(settings(issuer))
    assert refused(tokens, other.token()) == "issuer"
    assert other.asked == []  # nobody whom a token names is asked
    for name in (issuer.url + "/", issuer.url.upper(), issuer.url + "/../other", "", None):
        assert refused(tokens, issuer.token(iss=name)) == "issuer"


def test_issuers_do_not_vouch_for_each_other(issuer: TokenIssuer, httpserver: HTTPServer) -> None:
    other = TokenIssuer(httpserver, "/other")
    other.keys = [rsa("mallory")]
    tokens = door(settings(issuer, prefix="a:"), settings(other, prefix="b:"))
    assert tokens.verify(issuer.token()).principal == Principal("a:alice")
    assert tokens.verify(other.token()).principal == Principal("b:alice")
    assert refused(tokens, other.token(iss=issuer.url)) == "key"
    assert refused(tokens, other.token(iss=issuer.url, header={"kid": "one"})) == "signature"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"aud": "other"}, "audience"),
        ({"aud": None}, "audience"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "malformed"),
        ({"nbf": 2**33}, "early"),
    ],
)
def test_claims_that_will_not_do(issuer: TokenIssuer, more: dict[str, Any], reason: str) -> None:
    assert refused(door(settings(issuer)), issuer.token(**more)) == reason


def test_a_token_expires(issuer: TokenIssuer) -> None:
    token = issuer.token()
    assert door(settings(issuer), ahead=600 + 29 - 5).verify(token).until - time.monotonic() < 10
    assert refused(door(settings(issuer), ahead=600 + 31), token) == "expired"
    assert door(settings(issuer)).verify(token).until - time.monotonic() <= KEPT


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "secevent+jwt", "JWE", 7])
def test_tokens_of_another_type(issuer: TokenIssuer, kind: Any) -> None:
    token = issuer.token()
    changed = f"{part({'alg': 'RS256', 'kid': 'one', 'typ': kind})}.{token.split('.', 1)[1]}"
    assert refused(door(settings(issuer)), changed) == "type"


def test_what_is_critical_and_unknown(issuer: TokenIssuer) -> None:
    head = {"alg": "RS256", "kid": "one", "crit": ["b64"], "b64": False}
    assert refused(door(settings(issuer)), f"{part(head)}.{part(issuer.claims())}.AAAA") == "malformed"


def test_a_changed_token(issuer: TokenIssuer) -> None:
    tokens = door(settings(issuer))
    header, body, signature = issuer.token().split(".")
    other = issuer.token(sub="bob").split(".")
    for changed in (
        f"{header}.{part(issuer.claims(sub='root', groups=['admins']))}.{signature}",
        f"{header}.{body}.{other[2]}",
        f"{header}.{body}.{signature[:-10]}",
        f"{header}.{body}.",
        f"{part({'alg': 'PS256', 'kid': 'one'})}.{body}.{signature}",
    ):
        assert refused(tokens, changed) == "signature"


@pytest.mark.parametrize(
    "token", ["", "x", "a.b", "a.b.c", "a.b.c.d.e", "..", "ä", "a b", "x" * 20_000, f"{part([])}.{part({})}.x", f"{part(b'[' * 9000)}.{part({})}.x"]
)
def test_what_is_no_token(issuer: TokenIssuer, token: str) -> None:
    assert refused(door(settings(issuer)), token) == "malformed"
    assert issuer.asked == []


def test_a_claim_set_that_is_not_one(issuer: TokenIssuer) -> None:
    assert refused(door(settings(issuer)), f"{part({'alg': 'RS256'})}.{part({'iss': issuer.url})}.AAAA") == "signature"


# -- keys that change, issuers that are away ----------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watched(issuer: TokenIssuer) -> tuple[Tokens, Clock]:
    tokens, clock = door(settings(issuer)), Clock()
    tokens._issuers = {issuer.url: issuers.Issuer(settings(issuer), clock)}
    return tokens, clock


def test_a_new_key_is_found(issuer: TokenIssuer, watched: tuple[Tokens, Clock]) -> None:
    tokens, clock = watched
    tokens.verify(issuer.token())
    issuer.keys = [rsa("two"), rsa("one")]
    clock.now += issuers.BETWEEN
    assert tokens.verify(issuer.token()).principal == Principal("alice")
    assert tokens.verify(issuer.token(rsa("one"))).principal == Principal("alice")
    assert issuer.asked.count("/realm/keys") == 2


def test_a_withdrawn_key_holds_for_an_hour_at_most(issuer: TokenIssuer, watched: tuple[Tokens, Clock]) -> None:
    tokens, clock = watched
    tokens.verify(issuer.token())
    issuer.keys = [rsa("two")]
    clock.now += issuers.FRESH
    assert refused(tokens, issuer.token(rsa("one"))) == "key"
    assert tokens.verify(issuer.token()).principal == Principal("alice")


def test_made_up_keys_do_not_hammer_on_the_issuer(issuer: TokenIssuer, watched: tuple[Tokens, Clock]) -> None:
    tokens, clock = watched
    tokens.verify(issuer.token())
    for number in range(30):
        clock.now += 1
        assert refused(tokens, issuer.token(header={"kid": f"made up {number}"})) == "key"
    assert issuer.asked.count("/realm/keys") == 1 + 3


@pytest.mark.parametrize("status", [500, 404, 302, 429])
def test_an_issuer_that_is_away_is_no_bad_token(issuer: TokenIssuer, watched: tuple[Tokens, Clock], status: int) -> None:
    tokens, clock = watched
    issuer.status = status
    for _ in range(5):
        with pytest.raises(errors.Unavailable) as told:
            tokens.verify(issuer.token())
        assert told.value.retry_after > 0
        clock.now += 1
    assert len(issuer.asked) == 1
    issuer.status = 200
    clock.now += issuers.BETWEEN
    assert tokens.verify(issuer.token()).principal == Principal("alice")


def test_known_keys_do_while_the_issuer_is_away_for_a_day(issuer: TokenIssuer, watched: tuple[Tokens, Clock]) -> None:
    tokens, clock = watched
    tokens.verify(issuer.token())
    issuer.status = 503
    clock.now += issuers.FRESH
    assert tokens.verify(issuer.token()).principal == Principal("alice")
    clock.now += issuers.BETWEEN
    with pytest.raises(errors.Unavailable):  # it may be a new one
        tokens.verify(issuer.token(rsa("two")))
    assert refused(tokens, issuer.token(exp=1)) == "expired"
    clock.now += issuers.STALE
    with pytest.raises(errors.Unavailable):
        tokens.verify(issuer.token())


def test_known_keys_wait_for_no_issuer_that_hangs(issuer: TokenIssuer, watched: tuple[Tokens, Clock], httpserver: HTTPServer) -> None:
    tokens, clock = watched
    tokens.verify(issuer.token())
    clock.now += issuers.FRESH
    hangs, go_on = threading.Event(), threading.Event()

    def hang(_request: Request) -> Response:
        hangs.set()
        go_on.wait(30)
        clock.now += 3 * issuers.BETWEEN  # so long it took
        return Response("", 503)

    httpserver.clear_all_handlers()
    httpserver.expect_request("/realm/.well-known/openid-configuration").respond_with_handler(hang)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            first = pool.submit(tokens.verify, issuer.token())
            assert hangs.wait(30)
            assert tokens.verify(issuer.token()).principal == Principal("alice")
            assert not first.done()
            other = pool.submit(tokens.verify, issuer.token(rsa("two")))  # needs a new key: it waits
        finally:
            go_on.set()
        assert first.result(30).principal == Principal("alice")
        hangs.clear()
        with pytest.raises(errors.Unavailable):
            other.result(30)
        assert not hangs.is_set()  # and asks not once more, though the first question took long


def test_this_machine_is_asked_by_no_proxy(issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # it could answer with keys of its own, for there is no TLS
    assert door(settings(issuer)).verify(issuer.token()).principal == Principal("alice")


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://other.example"},
        {"issuer": None},
        {"jwks_uri": "http://192.0.2.1/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
    ],
)
def test_a_configuration_that_is_not_the_issuers(issuer: TokenIssuer, change: dict[str, Any]) -> None:
    issuer.configuration |= change
    with pytest.raises(errors.Unavailable):
        door(settings(issuer)).verify(issuer.token())
    assert "/realm/keys" not in issuer.asked


def test_nobody_listens(httpserver: HTTPServer, issuer: TokenIssuer) -> None:
    token, known = issuer.token(), settings(issuer, discovery="http://127.0.0.1:9/.well-known/openid-configuration")
    with pytest.raises(errors.Unavailable) as told:
        door(known).verify(token)
    assert "127.0.0.1:9" in told.value.why
    assert "127.0.0.1" not in told.value.public


def test_broken_and_foreign_keys_are_left_out() -> None:
    short = {"kty": "RSA", "kid": "short", "n": part(b"\xc3" + b"\x01" * 127), "e": "AQAB"}
    document = {
        "keys": [
            {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
            {"kty": "RSA", "kid": "no n"},
            {"kty": "AKP", "kid": "new kind", "alg": "ML-DSA-44", "pub": "x"},
            {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": "x"},
            {**rsa("two").as_dict(private=False), "use": "enc", "kid": "for encryption"},
            short,
            "nonsense",
            rsa("one").as_dict(private=True),
            elliptic("ec").as_dict(private=False),
        ]
    }
    found = signatures.keys(document)
    assert [key.kid for key in found] == ["one", "ec"]
    assert not any(key.is_private for key in found)
    nothing: Any
    for nothing in (None, [], {}, {"keys": []}):
        assert signatures.keys(nothing) == []


# -- tokens that only the issuer can read -------------------------------------------------------------------------------


@pytest.fixture
def opaque(issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch) -> IssuerSettings:
    monkeypatch.setenv("TES_INTROSPECTION_SECRET", issuer.secret)
    issuer.opaque = {
        "good": {"active": True, "sub": "alice", "aud": AUDIENCE, "exp": time.time() + 60},
        "endless": {"active": True, "sub": "alice", "aud": AUDIENCE},
        "other": {"active": True, "sub": "alice", "aud": "other"},
        "foreign": {"active": True, "sub": "alice", "aud": AUDIENCE, "iss": "https://other.example"},
        "old": {"active": True, "sub": "alice", "aud": AUDIENCE, "exp": 1},
        "text": {"active": "true", "sub": "alice", "aud": AUDIENCE},
    }
    return settings(issuer, introspection="discovery", client_id="tes-server", client_secret_variable="TES_INTROSPECTION_SECRET")


def test_opaque_tokens(issuer: TokenIssuer, opaque: IssuerSettings) -> None:
    tokens = door(opaque)
    for token in ("good", "endless"):
        assert tokens.verify(token).principal == Principal("alice")
    assert [refused(tokens, token) for token in ("other", "foreign", "old", "text", "unknown")] == ["audience", "issuer", "expired", "inactive", "inactive"]
    assert refused(door(settings(issuer)), "good") == "malformed"


def test_the_endpoint_may_be_named(issuer: TokenIssuer, opaque: IssuerSettings, tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{issuer.secret}\n")
    known = settings(issuer, introspection=f"{issuer.url}/introspect", client_id="tes-server", client_secret_file=str(secret))
    assert door(known).verify("good").principal == Principal("alice")
    assert issuer.asked == ["/realm/introspect"]
    secret.write_text("wrong")
    with pytest.raises(errors.Unavailable):
        door(known).verify("good")


def test_a_jwt_is_never_sent_anywhere(issuer: TokenIssuer, opaque: IssuerSettings) -> None:
    tokens = door(opaque)
    assert refused(tokens, issuer.token(iss="https://other.example")) == "issuer"
    assert refused(tokens, issuer.token(rsa("mallory"))) == "key"
    assert "/realm/introspect" not in issuer.asked


def test_an_issuer_that_cannot_be_asked(issuer: TokenIssuer, opaque: IssuerSettings) -> None:
    tokens = door(opaque)
    tokens.verify("good")
    issuer.status = 500
    with pytest.raises(errors.Unavailable):
        tokens.verify("endless")
    issuer.status = 200
    assert tokens.verify("endless").principal == Principal("alice")


def test_a_secret_that_is_gone_is_told_to_who_runs_the_server(issuer: TokenIssuer, opaque: IssuerSettings, tmp_path: Any, caplog: Any) -> None:
    gone = msgspec.structs.replace(opaque, client_secret_variable="", client_secret_file=str(tmp_path / "gone"))
    with pytest.raises(errors.Unavailable) as told:
        door(gone).verify("good")
    assert "gone" not in told.value.public
    (record,) = [record for record in caplog.records if record.name == issuers.__name__]
    assert str(tmp_path / "gone") in record.__dict__["fields"]["error"]


# -- what userinfo adds -------------------------------------------------------------------------------------------------


def test_userinfo_adds_claims_and_changes_none(issuer: TokenIssuer) -> None:
    token = issuer.token()
    issuer.users[token] = {"sub": "alice", "groups": ["admins"], "aud": "other", "exp": 1}
    assert door(settings(issuer)).verify(token).principal == Principal("alice")
    verified = door(settings(issuer, userinfo=True)).verify(token)
    assert verified.principal == Principal("alice", Role.ADMIN)
    assert verified.until > time.monotonic() + 10


def test_userinfo_of_somebody_else_is_refused(issuer: TokenIssuer) -> None:
    for said in ({"sub": "root", "groups": ["admins"]}, {"groups": ["admins"]}):
        token = issuer.token(jti=str(said))
        issuer.users[token] = said
        assert refused(door(settings(issuer, userinfo=True)), token) == "subject"
    nobody = issuer.token(sub=None)
    issuer.users[nobody] = {"groups": ["admins"]}
    assert refused(door(settings(issuer, userinfo=True)), nobody) == "subject"


@pytest.mark.parametrize("status", [302, 403, 500])
def test_userinfo_that_does_not_answer_is_no_bad_token(issuer: TokenIssuer, status: int) -> None:
    tokens, token = door(settings(issuer, userinfo=True)), issuer.token()
    issuer.users[token] = {"sub": "alice"}
    tokens.verify(token)
    issuer.status = status
    with pytest.raises(errors.Unavailable):
        tokens.verify(token)


def test_a_token_that_userinfo_does_not_take_is_a_bad_one(issuer: TokenIssuer) -> None:
    """One that was withdrawn: 503 would say that its client should try again, which asks the issuer again, without an end."""
    assert refused(door(settings(issuer, userinfo=True)), issuer.token()) == "inactive"


def test_only_good_tokens_are_shown_to_the_issuer(issuer: TokenIssuer) -> None:
    for token in (issuer.token(aud="other"), issuer.token(rsa("mallory"), header={"kid": "one"})):
        refused(door(settings(issuer, userinfo=True)), token)
    assert "/realm/userinfo" not in issuer.asked


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://idp.example/x", True),
        ("http://127.0.0.1:8080/x", True),
        ("http://[::1]/", True),
        ("http://localhost:1/", True),
        ("http://idp.example/", False),
        ("http://localhost.evil.example/", False),
        ("http://127.0.0.1.evil.example/", False),
        ("https://user:password@idp.example/", False),
        ("https:///x", False),
        ("https://idp.example:99999/", False),
        ("https://idp.example/\n", False),
        ("file:///etc/passwd", False),
        ("", False),
    ],
)
def test_where_issuers_may_be(url: str, safe: bool) -> None:
    assert issuers.is_safe(url) is safe
