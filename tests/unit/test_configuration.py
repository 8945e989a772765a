"""Where settings come from, which source wins, and how a mistake is named."""

from __future__ import annotations

import pathlib
from typing import Any

import jsonschema_rs
import pytest

from tes_server import configuration, errors, settings, settings_server


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "tes-server.toml"


def from_environment(**environment: str) -> settings.Settings:
    return configuration.load(None, environment, {})


def test_without_any_source_all_is_default() -> None:
    assert (
        configuration.load(None, {"PATH": "/bin", "TES_SERVER_CONFIG": "x", "TES_URL": "y", "TES_SERVER_PORT": "tcp://10.0.0.1:80"}, {}) == settings.Settings()
    )


def test_later_sources_win_key_by_key(file: pathlib.Path) -> None:
    file.write_text('[server]\nport = 1\nworkers = 2\nname = "file"\n[files]\nroots = ["/a"]\n')
    made = configuration.load(file, {"TES_SERVER__SERVER__PORT": "3", "TES_SERVER__SERVER__NAME": "environment"}, {"server.port": 4})
    assert made.server == settings_server.ServerSettings(port=4, workers=2, name="environment")
    assert made.files == settings.FilesSettings(roots=("/a",))


def test_tables_of_a_file(file: pathlib.Path) -> None:
    file.write_text('[[paths]]\npath = "/p"\nurl = "file:///u"\n[[routes]]\nbackend = "local"\ngpus = false\ntags = {a = "b*"}\n')
    made = configuration.load(file, {}, {})
    assert made.paths == (settings.PathSettings(path="/p", url="file:///u"),)
    assert made.routes == (settings.RouteSettings(backend="local", gpus=False, tags={"a": "b*"}),)


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("SERVER__COMPAT", "1.1", "server.compat", "1.1"),
        ("SERVER__COMPAT", '"1.1"', "server.compat", "1.1"),
        ("SERVER__NAME", "2024", "server.name", "2024"),
        ("SERVER__NAME", "true", "server.name", "true"),
        ("SERVER__NAME", "", "server.name", ""),
        ("SERVER__NAME", "a = b", "server.name", "a = b"),
        ("SERVER__PORT", "80", "server.port", 80),
        ("server__port", "80", "server.port", 80),
        ("DATA", "/srv/1", "data", "/srv/1"),
        ("AUTH__ALLOW_OPEN", "true", "auth.allow_open", True),
        ("LOCAL__RAM_GB", "1.5", "local.ram_gb", 1.5),
        ("LOCAL__RAM_GB", "2", "local.ram_gb", 2.0),
        ("FILES__ROOTS", '["/a", "/b"]', "files.roots", ("/a", "/b")),
        ("PATHS", '[{path = "/p", url = "file:///u"}]', "paths", (settings.PathSettings(path="/p", url="file:///u"),)),
    ],
)
def test_the_environment(name: str, text: str, key: str, value: Any) -> None:
    found: Any = from_environment(**{f"{configuration.PREFIX}{name}": text})
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("environment", "where", "words"),
    [
        ({"TES_SERVER__SERVER__PROT": "1"}, "server.prot", "is not a setting"),
        ({"TES_SERVER__SERVRE__PORT": "1"}, "servre", "is not a setting"),
        ({"TES_SERVER__PORT": "1"}, "port", "is not a setting"),
        ({"TES_SERVER__SERVER__NAME__X": "1"}, "server.name", "must be text, not a table"),
        ({"TES_SERVER__SERVER__PORT": "many"}, "server.port", "must be a whole number, not text"),
        ({"TES_SERVER__SERVER": "1"}, "server", "must be a table, not a whole number"),
        ({"TES_SERVER__SERVER__COMPAT": "1.0"}, "server.compat", "'1.0' is none of 'clients', '1.1'"),
        ({"TES_SERVER__FILES__UPLOADS": '["ftp", "s3"]'}, "files.uploads[1]", "'s3' is none of 'ftp', "),
        ({"TES_SERVER__FILES__ROOTS": "/a"}, "files.roots", 'must be a list, not text: write ["...", "..."]'),
        ({"TES_SERVER__SCAN__BACKENDS": '{local = "on"}'}, "scan.backends.local", "'on' is none of 'off', 'warn', 'enforce'"),
        ({"TES_SERVER__SCAN__OWNERS": '{a = "off", "b*" = "enforced", c = "x"}'}, "scan.owners.b*", "'enforced' is none of 'off', 'warn', 'enforce'"),
        ({"TES_SERVER__SCAN__OWNERS": "{a = 3}"}, "scan.owners.a", "must be text, not a whole number"),
        ({"TES_SERVER__ROUTES": '[{backend = "local"}, {backend = "local", tags = {a = "b", c = 1}}]'}, "routes[1].tags.c", "must be text, not a whole number"),
        ({"TES_SERVER__SCAN__POLICY__IGNORE": '[{id = "CVE-1", expires = 2027-01-31}]'}, "scan.policy.ignore[0].reason", "must be given"),
        ({"TES_SERVER__SCAN__POLICY__IGNORE": '[{id = "CVE-1", reason = "r"}]'}, "scan.policy.ignore[0].expires", "must be given"),
        (
            {"TES_SERVER__SCAN__POLICY__IGNORE": '[{id = "CVE-1", reason = "r", expires = 2027-01-31T00:00:00Z}]'},
            "scan.policy.ignore[0].expires",
            "must be a date, not a date with a time",
        ),
        ({"TES_SERVER__SCAN__VERDICT_HOURS": "0"}, "scan.verdict_hours", "must be more than 0"),
        ({"TES_SERVER__SCAN__DATABASE_DAYS": "-1"}, "scan.database_days", "must be 0 or more"),
        ({"TES_SERVER__SCAN__POLICY__IGNORE": '[{id = "x", reason = "y", expires = "soon"}]'}, "scan.policy.ignore[0].expires", "must be a date, e.g. 2027"),
        ({"TES_SERVER__STORAGE": '{url = "s3://b"}'}, "storage", "[[storage]], with two brackets"),
        ({"TES_SERVER__STORAGE": '[{url = "s3://b", credentials = "x"}]'}, "storage[0].credentials", "'x' is none of 'auto'"),
        ({"TES_SERVER__PATHS": '[{path = "/p"}]'}, "paths[0].url", "must be given"),
        ({"TES_SERVER__ROUTES": '[{backend = "b", tag = 1}]'}, "routes[0].tag", "is not a setting"),
        ({"TES_SERVER_FILES_ROOTS": "[]"}, "TES_SERVER_FILES_ROOTS", "the variable is TES_SERVER__FILES__ROOTS"),
        ({"TES_SERVER__SERVER_PORT": "1"}, "TES_SERVER__SERVER_PORT", "the variable is TES_SERVER__SERVER__PORT"),
        ({"TES_SERVER__DATA": "/a", "TES_SERVER__DATA__X": "1"}, "TES_SERVER__DATA__X", "is a value"),
    ],
)
def test_a_mistake_is_named_by_its_key(environment: dict[str, str], where: str, words: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        configuration.load(None, environment, {})
    assert caught.value.where == where
    assert caught.value.public.startswith(f"{where}: ")
    assert words in caught.value.public


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"[server", "is not TOML"), (b"\xff", "is not TOML"), (b"a = 1\na = 2", "is not TOML"), (None, "cannot be read")],
)
def test_a_file_that_is_none(file: pathlib.Path, text: bytes | None, words: str) -> None:
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(errors.SettingsError, match=words) as caught:
        configuration.load(file, {}, {})
    assert caught.value.where == str(file)


def test_the_data_directory(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "home"
    assert settings.Settings().data_directory(home) == home / ".local" / "share" / "tes-server"
    assert settings.Settings().data_directory(home, "/xdg") == pathlib.Path("/xdg/tes-server")
    assert settings.Settings(data="/d").data_directory(home, "/xdg") == pathlib.Path("/d")
    assert settings.Settings(data="d").data_directory(home) == pathlib.Path.cwd() / "d"


def test_every_setting_is_explained() -> None:
    fields = list(configuration.fields())
    assert {"data", "server.compat", "paths[].url", "routes[].gpus"} <= {field.key for field in fields}
    assert [field.key for field in fields if not field.text.endswith(".")] == []
    table = configuration.markdown().splitlines()
    assert len(table) == 2 + len(fields)
    assert all(line.count("|") == 5 for line in table[2:])


def test_the_schema_takes_what_the_server_takes() -> None:
    schema = jsonschema_rs.Draft202012Validator(configuration.schema())
    assert schema.is_valid({"server": {"port": 1, "compat": "1.1"}, "paths": [{"path": "/p", "url": "file:///u"}]})
    for wrong in ({"server": {"prot": 1}}, {"server": {"compat": "1.0"}}, {"paths": [{"path": "/p"}]}, {"port": 1}):
        assert not schema.is_valid(wrong), wrong
