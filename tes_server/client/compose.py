"""Task documents (TES 1.1, tesTask) from what a user typed on the command line, or from files.

Looks at local files only to tell directories from files and to read `--content`; must never talk to a server.
Every mistake is an `errors.Invalid` that repeats the word at fault and shows the right form.
"""

from __future__ import annotations

import json
import pathlib
import posixpath
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

from tes_server.errors import Invalid
from tes_server.plan import wildcards

JsonObject = dict[str, Any]

IN_FORM = "PATH_OR_URL[:/container/path]"
OUT_FORM = "/container/path:PATH_OR_URL"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(?:([KMGT])(i)?)?B?", re.IGNORECASE | re.ASCII)


def task(
    command: Sequence[str],
    *,
    image: str,
    inputs: Sequence[JsonObject] = (),
    content: Sequence[JsonObject] = (),
    outputs: Sequence[JsonObject] = (),
    cpu: float | None = None,
    ram: float | None = None,
    disk: float | None = None,
    env: Sequence[tuple[str, str]] = (),
    tags: Sequence[tuple[str, str]] = (),
    parameters: Sequence[tuple[str, str]] = (),
    name: str | None = None,
    workdir: str | None = None,
    stdin: str | None = None,
    stdout: str | None = None,
    stderr: str | None = None,
    preemptible: bool = False,
) -> JsonObject:
    """A task of one executor; what was not given is left out. `ram` and `disk` in 10^9 bytes."""
    every_input = [*inputs, *content]
    _check_distinct(every_input)
    resources = {
        # TES 1.1 has whole cores; a fraction is sent only where one was asked for.
        "cpu_cores": int(cpu) if cpu and cpu.is_integer() else cpu,
        "ram_gb": ram,
        "disk_gb": disk,
        "preemptible": preemptible,
        "backend_parameters": dict(parameters),
    }
    executor = {"image": image, "command": list(command), "workdir": workdir, "stdin": stdin, "stdout": stdout, "stderr": stderr, "env": dict(env)}
    fields = {"name": name, "tags": dict(tags), "resources": _given(resources), "inputs": every_input, "outputs": list(outputs)}
    return _given({**fields, "executors": [_given(executor)]})


def gigabytes(text: str) -> float:
    """10^9 bytes of `2`, `2G`, `512M`, `1.5Ti`; a bare number is 10^9 bytes, as in TES."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise Invalid(f"{text!r} is not a size; write 2, 2G, 512M or 1.5Gi")
    unit = "KMGT".index((match[2] or "G").upper()) + 1
    amount = float(match[1]) * (1024.0**unit / 1e9 if match[3] else 1000.0 ** (unit - 3))
    return round(amount, 9)


def pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE`; the value may be empty and may hold more equals signs."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Invalid(f"{text!r} is not of the form KEY=VALUE")
    return key, value


def file_input(text: str) -> JsonObject:
    """tesInput of `PATH_OR_URL[:/container/path]`; without a container path the file lies at /in/<its name>.

    The container path begins at the last `:/` that is not the `://` of a URL. A trailing slash, or a local directory,
    makes a DIRECTORY.
    """
    source, path = _split_input(text)
    url, is_directory = _url(source, must_exist=True)
    path = _container_path(path or f"/in/{_name(source)}", text, IN_FORM, directory=is_directory)
    return {"url": url, "path": path, "type": "DIRECTORY" if is_directory else "FILE"}


def literal_input(text: str) -> JsonObject:
    """tesInput that carries a local text file in the task itself, from `FILE[:/container/path]`."""
    source, path = _split_input(text)
    try:
        content = pathlib.Path(source).read_text(encoding="utf-8")
    except OSError as cause:
        raise Invalid(f"{source!r} cannot be read: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise Invalid(f"{source!r} is not UTF-8 text; name it with --in instead") from cause
    if not content:
        # TES 1.1, tesInput.content: an empty one means that there is none, and then a url is required.
        raise Invalid(f"{source!r} is empty; TES cannot carry an empty file in the task, name it with --in instead")
    return {"content": content, "path": _container_path(path or f"/in/{_name(source)}", text, "FILE[:/container/path]"), "type": "FILE"}


def output(text: str) -> JsonObject:
    """tesOutput of `/container/path:PATH_OR_URL`, split at the first colon.

    A trailing slash on the container path makes a DIRECTORY. Wildcards collect below the target, their literal parent
    taken off. A file whose target ends with a slash, or is a local directory, keeps its name there.
    """
    path, colon, target = text.partition(":")
    if not colon or not target:
        raise Invalid(f"{text!r} is not of the form {OUT_FORM}")
    is_directory = path.endswith("/") and path.strip("/") != ""
    path = _container_path(path, text, OUT_FORM, directory=is_directory)
    url, into = _url(target, must_exist=False)
    document = {"path": path, "url": url, "type": "DIRECTORY" if is_directory else "FILE"}
    if wildcards.present(path):
        document["path_prefix"] = wildcards.literal_parent(path)
    elif into and not is_directory:
        document["url"] = url.rstrip("/") + "/" + urllib.parse.quote(posixpath.basename(path))
    return document


def documents(text: str, source: str) -> list[JsonObject]:
    """The tasks in a JSON text: one object, an array of objects, or one object a line. `source` names it in messages."""
    try:
        parsed = json.loads(text)
    except ValueError as cause:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0][1]):
            raise Invalid(f"{source} is not JSON: {cause}") from cause
        return [_line(line, f"{source}, line {number}") for number, line in lines]
    tasks = parsed if isinstance(parsed, list) else [parsed]
    if not tasks or not all(isinstance(task, dict) for task in tasks):
        raise Invalid(f"{source} must hold a task (a JSON object), an array of tasks, or a task on each line")
    return tasks


def ids(text: str) -> list[str]:
    """Task ids from the output of another `tes` command: an id, or an object with `id`, on each line."""
    found: list[str] = []
    for line in text.splitlines():
        word = line.strip()
        if word.startswith("{"):
            word = _line(word, "standard input").get("id", "")
            if not isinstance(word, str) or not word:
                raise Invalid(f"standard input holds a line without an id: {line[:60]!r}")
        if word:
            found.append(word)
    return found


def _given(fields: JsonObject) -> JsonObject:
    return {key: value for key, value in fields.items() if value}


def _check_distinct(inputs: Sequence[JsonObject]) -> None:
    """Two files of one name without a path given would be at one place."""
    seen: set[str] = set()
    for item in inputs:
        if item["path"] in seen:
            raise Invalid(f"two inputs would be at {item['path']}; name the container path: {IN_FORM}")
        seen.add(item["path"])


def _line(line: str, where: str) -> JsonObject:
    try:
        parsed = json.loads(line)
    except ValueError as cause:
        raise Invalid(f"{where} is not JSON: {cause}") from cause
    if not isinstance(parsed, dict):
        raise Invalid(f"{where} is not a JSON object")
    return parsed


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _split_input(text: str) -> tuple[str, str]:
    at = text.rfind(":/")
    if at >= 0 and text.startswith("://", at):
        at = -1  # the colon of the URL itself: no container path was given
    source, path = (text, "") if at < 0 else (text[:at], text[at + 1 :])
    if not source:
        raise Invalid(f"{text!r} is not of the form {IN_FORM}")
    return source, path


def _url(place: str, must_exist: bool) -> tuple[str, bool]:
    """The URL of a local path or URL, and whether it is a directory. Relative paths are of this machine, so that one may look."""
    if _SCHEME.match(place):
        return place, place.endswith("/")
    local = pathlib.Path(posixpath.normpath(pathlib.Path(place).absolute()))
    if must_exist and not place.startswith("/") and not local.exists():
        raise Invalid(f"there is no {place!r} here; a file of the server's machine needs an absolute path")
    return local.as_uri(), place.endswith("/") or _is_directory(local)


def _is_directory(path: pathlib.Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:  # what this user may not see, the server may; a trailing slash still tells
        return False


def _name(source: str) -> str:
    """The last part of a path or URL, for the default container path."""
    try:
        path = urllib.parse.unquote(urllib.parse.urlsplit(source).path) if _SCHEME.match(source) else str(pathlib.Path(source).absolute())
    except ValueError as cause:  # brackets that are no IPv6 address
        raise Invalid(f"{source!r} is no url: {cause}") from cause
    name = posixpath.basename(posixpath.normpath(path))
    if name in ("", "."):
        raise Invalid(f"{source!r} has no file name; name the container path: {IN_FORM}")
    return name


def _container_path(path: str, text: str, form: str, directory: bool = False) -> str:
    if not path.startswith("/") or path.strip("/") == "":
        raise Invalid(f"{text!r} is not of the form {form}; the container path must begin with / and name something below it")
    if path.endswith("/") and not directory:
        raise Invalid(f"{text!r}: the container path ends with / but its source is a file; name the file, as in {path}name")
    return path.rstrip("/")
