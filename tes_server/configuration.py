"""Where settings come from, and how they are told: files, environment and flags to one `settings.Settings`, and back to words.

Sources, later ones win: defaults, a TOML file, the environment (`TES_SERVER__STORE__URL=...`, values as TOML or plain
text), flags. Unknown keys are named and refused. `tes-server settings --markdown | --schema` prints what there is.
This module must never read anything but the file and the environment that it is given, and the source of `settings`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import pathlib
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from tes_server import errors, redaction
from tes_server.settings import Settings
from tes_server.settings_parts import Part

PREFIX = "TES_SERVER__"

_KINDS = {
    "array": "a list", "object": "a table", "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing",
    "date": "a date", "datetime": "a date with a time",
}  # fmt: skip
"""msgspec's names of types, as people say them."""

_BOUNDS = {">=": "must be {} or more", ">": "must be more than {}", "<=": "must be {} at most", "<": "must be less than {}"}

_ENTRY = "[...]"
"""How msgspec names an entry of a table whose keys are free."""


def load(file: pathlib.Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Settings from a TOML file (or None), the environment and flags (dotted keys: `{"server.port": 1}`).

    Raises `errors.SettingsError` that names the key at fault.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = tomllib.loads(file.read_text())
        except OSError as cause:
            raise errors.SettingsError(f"cannot be read: {cause.strerror}", str(file)) from cause
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
            raise errors.SettingsError(f"is not TOML: {cause}", str(file)) from cause
    for name, text in environment.items():
        if name.startswith(PREFIX.rstrip("_")) and (meant := _misspelt(name)):
            raise errors.SettingsError(f"is not looked at; the variable is {meant}", name)
        if name.startswith(PREFIX):
            path = [part.lower() for part in name.removeprefix(PREFIX).split("__")]
            _put(tree, path, _value(text, _kind(path)), name)
    for dotted, value in flags.items():
        _put(tree, dotted.split("."), value, dotted)
    try:
        return msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as cause:
        raise _worded(cause, tree) from cause


def _kind(path: list[str]) -> Any:
    """The type of the setting at `path`; None where there is none."""
    kind: Any = Settings
    for name in path:
        inner = _inner(kind)
        known = {field.name: field.type for field in msgspec.structs.fields(inner)} if isinstance(inner, type) and issubclass(inner, Part) else {}
        kind = known.get(name)
    return kind


def _inner(kind: Any) -> Any:
    """What a list, or a table whose keys are free, holds; any other kind as it is."""
    inner = get_args(kind)
    return inner[get_origin(kind) is dict] if inner else kind


def _misspelt(name: str) -> str:
    """The variable of a setting that `name` is but for its underscores, or "".

    Others that begin alike are left alone: Kubernetes makes TES_SERVER_PORT of a Service's name, for one.
    """
    known = {key.replace(".", "_").upper(): f"{PREFIX}{key.replace('.', '__').upper()}" for key in _keys(Settings)}
    meant = known.get(name.removeprefix(PREFIX.rstrip("_")).lstrip("_").replace("__", "_"), "")
    return "" if name == meant else meant


def _keys(part: type[Part], prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(part):
        if isinstance(field.type, type) and issubclass(field.type, Part):
            yield from _keys(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _value(text: str, kind: Any) -> Any:
    """An environment value: TOML where it is TOML (lists, tables, numbers, booleans), else the text itself.

    A setting that is a text gets the text: `1.1` and `2024` are numbers only where a number is wanted.
    """
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    wants_text = kind is str or get_origin(kind) is Literal
    return text if wants_text and not isinstance(value, str) else value


def _put(tree: dict[str, Any], path: list[str], value: Any, name: str) -> None:
    for key in path[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise errors.SettingsError("is a value, not a table", name)
        tree = branch
    tree[path[-1]] = value


def _worded(cause: msgspec.ValidationError, tree: Mapping[str, Any]) -> errors.SettingsError:
    """msgspec says "Object contains unknown field `x` - at `$.server`": put the key first."""
    message, _, at = str(cause).partition(" - at `$")
    where = at.rstrip("`").lstrip(".")
    shown = _shown(where, tree)
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message):
        return errors.SettingsError("is not a setting; `tes-server settings` lists them all", f"{shown}.{unknown[1]}".lstrip("."))
    if missing := re.fullmatch(r"Object missing required field `(.*)`", message):
        return errors.SettingsError("must be given", f"{shown}.{missing[1]}".lstrip("."))
    return errors.SettingsError(_plainly(message, where), shown)


def _shown(where: str, tree: Mapping[str, Any]) -> str:
    """`where` with the names of the entries that msgspec does not tell: the first that cannot be read."""
    first, *others = where.split(_ENTRY)
    keys, shown = _steps(first), first
    for part in others:
        table: Any = tree
        for key in keys:
            table = table[key]
        kind = _inner(_kind([key for key in keys if isinstance(key, str)]))
        name = next((name for name, value in table.items() if not _readable(value, kind)), None)
        if name is None:
            return where
        keys += [name, *_steps(part)]
        shown = f"{shown}.{name}{part}"
    return shown


def _steps(part: str) -> list[str | int]:
    """`a.b[0].c` as keys and places."""
    return [int(step[1:-1]) if step.startswith("[") else step for step in re.findall(r"[^.\[\]]+|\[\d+\]", part)]


def _readable(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _plainly(message: str, where: str) -> str:
    """What msgspec says of a value, in words for whoever wrote it."""
    if message.startswith("Invalid enum value"):
        return f"{message.removeprefix('Invalid enum value ')} is none of {', '.join(map(repr, _choices(where)))}"
    if message == "Invalid RFC3339 encoded date":
        return "must be a date, e.g. 2027-01-31"
    if bound := re.fullmatch(r"Expected `\w+` ([<>]=?) (\S+)", message):
        return _BOUNDS[bound[1]].format(f"{float(bound[2]):g}")
    found = re.fullmatch(r"Expected `(\w+)`, got `(\w+)`", message)
    if found is None:
        return message
    wanted, got = _KINDS.get(found[1], found[1]), _KINDS.get(found[2], found[2])
    hint = {("array", "object"): f": write [[{where}]], with two brackets", ("array", "str"): ': write ["...", "..."], also in an environment variable'}
    return f"must be {wanted}, not {got}{hint.get((found[1], found[2]), '')}"


def _choices(where: str) -> tuple[str, ...]:
    """The texts that the setting at `where`, or each of its list or table, may be."""
    kind = _kind(re.sub(r"\[(\d+|\.\.\.)\]", "", where).split("."))
    while kind is not None and get_origin(kind) is not Literal:
        kind = _inner(kind) if get_args(kind) else None
    return get_args(kind)


class Field(msgspec.Struct, frozen=True):
    """One setting, for the documentation."""

    key: str
    type: str
    default: Any
    text: str


def fields(part: type[Part] = Settings, prefix: str = "") -> Iterator[Field]:
    """Every setting with its docstring, depth first. Reads the source of `settings`."""
    texts = _docstrings(part)
    for field in msgspec.structs.fields(part):
        key = f"{prefix}{field.name}"
        if isinstance(field.type, type) and issubclass(field.type, Part):
            yield from fields(field.type, f"{key}.")
            continue
        default = None if field.default is msgspec.NODEFAULT else field.default
        yield Field(key, _type_name(field.type), default, texts.get(field.name, ""))
        for inner in get_args(field.type):
            if isinstance(inner, type) and issubclass(inner, Part):
                yield from fields(inner, f"{key}.NAME." if get_origin(field.type) is dict else f"{key}[].")


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        inner, meta = get_args(kind)
        bounds = {">=": meta.ge, ">": meta.gt, "<=": meta.le}
        return " ".join([_type_name(inner), *(f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None)])
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else re.sub(r"\b(typing|tes_server\.settings\w*)\.", "", str(kind))


def _docstrings(part: type[Part]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
    found: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for before, after in itertools.pairwise(statements):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[before.target.id] = after.value.value
    return found


_LOGIN = re.compile(r"(://[^:@/?]*:)(?:[^?]*@|(?!\d+[,/?]).*@)")
"""Up to the last @ before the options; where there is none, what comes before the ? may be no port, but half of a password."""

_SECRET_OPTION = re.compile(r"(AWS_SESSION_TOKEN(?::|%3A)|tlsCertificateKeyFilePassword=)[^&,]*", re.IGNORECASE)


def shown(settings: Settings) -> bytes:
    """The settings as JSON, for people: without the store's password, also where it is not written as the url wants it, and without those of other urls."""
    url = _LOGIN.sub(r"\1***@", settings.store.url)
    url = _SECRET_OPTION.sub(r"\1***", url)
    store = msgspec.structs.replace(settings.store, url=url)
    return redaction.json_bytes(msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(settings, store=store)), indent=2))


def markdown() -> str:
    """All settings as a Markdown table, for docs/settings.md."""
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for field in fields():
        default = "" if field.default is None else msgspec.json.encode(field.default).decode()
        rows.append(f"| `{field.key}` | {field.type.replace('|', 'or')} | `{default}` | {' '.join(field.text.split())} |")
    return "\n".join(rows) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of the configuration file (and of the chart's value `settings`), each setting with its meaning."""
    tree = msgspec.json.schema(Settings)
    for part in _parts(Settings):
        for name, text in _docstrings(part).items():
            tree["$defs"][part.__name__]["properties"][name]["description"] = " ".join(text.split())
    return tree


def _parts(part: type[Part]) -> Iterator[type[Part]]:
    """Each kind of table that there is below `part`, and itself."""
    yield part
    for field in msgspec.structs.fields(part):
        for kind in (field.type, *get_args(field.type)):
            if isinstance(kind, type) and issubclass(kind, Part):
                yield from _parts(kind)
