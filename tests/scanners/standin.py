#!/usr/bin/env python3
"""Stands for trivy, twistcli and grype, by the name that it is called by: their command lines, exit codes and JSON, as their documentation has them.

What it finds in an image is what the image's label `tes-test.scan` says, and for that it fetches the image's manifest and config from its registry, or asks
the Docker engine, as the scanner would. The label is a query string: `critical=2&high=1&fixed=no&eol=yes`. `mode=...` there, or STANDIN_MODE in the
environment, brings a bad day: crash, hang, garbage, huge, greedy, fail, late, old, cut, none (see MODES). A Trivy server may know more of a repository than
its images say (`Findings` of its /version). Only the standard library: it is copied into small images.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import http.client
import json
import os
import pathlib
import signal
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NoReturn

LABEL = "tes-test.scan"
VERSION = "0.72.1"
SEVERITIES = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")
HUGE = 200_000_000
GREED = 8_000_000_000
"""Bytes after which nothing has stopped it, and the machine matters more."""
MODES = {
    "crash": "writes half of its report and dies of a signal",
    "hang": "never ends, and gives nothing for TERM",
    "garbage": "writes something else than JSON, and exits as if all were well",
    "huge": "writes a report of 200 MB",
    "greedy": "takes memory until it is killed for it",
    "fail": "exits with 1 and a word on stderr, as for any error of its own",
    "late": "takes STANDIN_SECONDS (5) for it",
    "old": "has a database of a month ago",
    "cut": "writes half of its report, and exits as if all were well",
    "none": "writes no report, and exits as if all were well",
}
MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json"


class Failed(Exception):
    """What the scanner ends for."""


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


# -- what is in an image ----------------------------------------------------------------------------------------------


class Image:
    """An image, its label, and by whom it was found."""

    def __init__(self, name: str, digest: str, config: dict[str, Any], image_id: str) -> None:
        self.name = name
        self.digest = digest
        self.id = image_id
        self.created = config.get("created") or config.get("Created") or "0001-01-01T00:00:00Z"
        labels = (config.get("config") or config.get("Config") or {}).get("Labels") or {}
        self.told: dict[str, str] = dict(urllib.parse.parse_qsl(labels.get(LABEL, "")))

    @property
    def mode(self) -> str:
        mode: str = os.environ.get("STANDIN_MODE") or self.told.get("mode", "")
        if mode and mode not in MODES:
            raise Failed(f"there is no mode {mode}")
        return mode

    @property
    def ended(self) -> bool:
        return self.told.get("eol") == "yes"

    def findings(self) -> list[dict[str, str]]:
        """One for each that the label counts: half of the packages have a fix, unless it says `fixed=yes` or `fixed=no`."""
        found = []
        for severity in SEVERITIES:
            for number in range(int(self.told.get(severity.lower(), "0"))):
                fixed = {"yes": True, "no": False}.get(self.told.get("fixed", ""), number % 2 == 0)
                name = f"CVE-2199-{SEVERITIES.index(severity)}{number:04}"
                found.append({"id": name, "severity": severity, "package": f"lib{severity.lower()}{number}", "fixed": "2.0-1" if fixed else ""})
        return found


def from_registry(name: str, *, plain: bool, login: tuple[str, str]) -> Image:
    """By the distribution API; basic authentication where there is a login."""
    host, slash, path = name.partition("/")
    if not slash or not set(".:") & set(host):
        raise Failed(f"no registry in reach has {name}")
    repository, at, reference = path.partition("@")
    if not at:
        repository, _, reference = path.partition(":")
        reference = reference or "latest"
    url = f"{'http' if plain else 'https'}://{host}/v2/{repository}"
    manifest = fetch(f"{url}/manifests/{reference}", login)
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    if reference.startswith("sha256:") and reference != digest:
        raise Failed(f"{name}: the registry sent {digest}")
    config = json.loads(manifest)["config"]["digest"]
    return Image(name, digest, json.loads(fetch(f"{url}/blobs/{config}", login)), config)


def fetch(url: str, login: tuple[str, str]) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": MANIFESTS})
    if login[0]:
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return bytes(answer.read())
    except (OSError, http.client.HTTPException) as cause:
        if "WRONG_VERSION_NUMBER" in str(cause):  # in Go's words
            raise Failed(f'Get "{url}": http: server gave HTTP response to HTTPS client') from cause
        raise Failed(f"GET {url}: {cause}") from cause


class Engine(http.client.HTTPConnection):
    """The Docker engine, over its socket."""

    def connect(self) -> None:
        address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(address.removeprefix("unix://"))


def from_engine(name: str) -> Image:
    """What the Docker engine has; it pulls nothing."""
    engine = Engine("localhost")
    try:
        engine.request("GET", f"/images/{name}/json")
        answer = engine.getresponse()
        found = json.loads(answer.read())
    except OSError as cause:
        raise Failed(f"cannot connect to the Docker daemon: {cause}") from cause
    if answer.status != 200:
        raise Failed(f"failed to find the image {name}: {found.get('message')}")
    digests = [one.rpartition("@")[2] for one in found.get("RepoDigests") or ()]
    return Image(name, digests[0] if digests else "", found, found["Id"])


# -- Trivy ------------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Complains as the programs do, and exits with 1."""

    def error(self, message: str) -> NoReturn:
        say(f"Error: {message}")
        raise SystemExit(1)


def trivy(arguments: list[str]) -> int:
    parser = Parser(prog="trivy", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    version = commands.add_parser("version", allow_abbrev=False)
    version.add_argument("-f", "--format", default="")
    image = commands.add_parser("image", allow_abbrev=False)
    for names in (
        ("--format", "-f"),
        ("--output", "-o"),
        ("--scanners",),
        ("--timeout",),
        ("--image-src",),
        ("--server",),
        ("--severity", "-s"),
        ("--pkg-types",),
    ):
        image.add_argument(*names, default="")
    image.add_argument("--exit-code", type=int, default=0)
    image.add_argument("--token", default=os.environ.get("TRIVY_TOKEN", ""))
    image.add_argument("--cache-dir", default=os.environ.get("TRIVY_CACHE_DIR", ""))
    image.add_argument("--ignore-unfixed", action="store_true")
    image.add_argument("--skip-db-update", action="store_true")
    image.add_argument("image")
    given = parser.parse_args(arguments)
    if given.command == "version":
        told: dict[str, Any] = {"Version": VERSION}
        if (metadata := database_file(os.environ.get("TRIVY_CACHE_DIR", ""))).exists():
            told["VulnerabilityDB"] = json.loads(metadata.read_text())
        sys.stdout.write(json.dumps(told, separators=(",", ":")) + "\n")
        return 0
    if given.format != "json" or not given.output:
        raise Failed("this stand-in knows --format json --output FILE only")
    found = trivy_image(given.image, given.image_src)
    database = fetched_database(given, found)  # before the findings: they are what it knows
    findings = [
        one for one in found.findings() if (not given.severity or one["severity"] in given.severity.split(",")) and (one["fixed"] or not given.ignore_unfixed)
    ]
    write(given.output, trivy_report(found, findings, database), found.mode, "Packages")
    return int(given.exit_code) if findings else 0


def trivy_image(name: str, sources: str) -> Image:
    failures = []
    for source in (sources or "docker,containerd,podman,remote").split(","):
        try:
            if source == "docker":
                return from_engine(name)
            if source == "remote":
                login = (os.environ.get("TRIVY_USERNAME", ""), os.environ.get("TRIVY_PASSWORD", ""))
                return from_registry(name, plain=os.environ.get("TRIVY_INSECURE") == "true", login=login)
        except Failed as cause:
            failures.append(f"* {source} error: {cause}")
    raise Failed(f'unable to find the specified image "{name}" in {sources}: {len(failures)} error occurred: {"; ".join(failures)}')


def fetched_database(given: argparse.Namespace, found: Image) -> dict[str, Any]:
    """The part `Trivy` of a report. Without a server the database is fetched into the cache, as a real one would be from its registry."""
    made = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30 if found.mode == "old" else 0)
    metadata = {"Version": 2, "NextUpdate": stamp(made + datetime.timedelta(days=1)), "UpdatedAt": stamp(made), "DownloadedAt": stamp(made)}
    if given.server:
        request = urllib.request.Request(f"{given.server.rstrip('/')}/version", headers={"Trivy-Token": given.token} if given.token else {})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                server = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as cause:
            raise Failed(f"image scan failed: failed to connect to the Trivy server {given.server}: {cause}") from cause
        found.told.update(urllib.parse.parse_qsl(server.pop("Findings", {}).get(found.name.partition("@")[0].partition("/")[2], "")))
        if found.mode == "old":
            server["VulnerabilityDB"] = metadata
        return {"Version": VERSION, "Server": server}
    if given.skip_db_update and not database_file(given.cache_dir).exists():
        raise Failed("--skip-db-update cannot be specified on the first run")
    database_file(given.cache_dir).parent.mkdir(parents=True, exist_ok=True)
    database_file(given.cache_dir).write_text(json.dumps(metadata))
    return {"Version": VERSION}


def database_file(cache: str) -> pathlib.Path:
    return pathlib.Path(cache or "~/.cache/trivy").expanduser() / "db" / "metadata.json"


def stamp(when: datetime.datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S.%f}123Z"  # nanoseconds, as Go has them


def trivy_report(found: Image, findings: list[dict[str, str]], program: dict[str, Any]) -> dict[str, Any]:
    vulnerabilities = []
    for one in findings:
        entry = {
            "VulnerabilityID": one["id"],
            "PkgName": one["package"],
            "InstalledVersion": "1.0-1",
            "Status": "fixed" if one["fixed"] else "affected",
            "PrimaryURL": f"https://avd.example/nvd/{one['id'].lower()}",
            "Title": f"{one['package']}: a made-up finding",
            "Severity": one["severity"],
        }
        if one["fixed"]:
            entry["FixedVersion"] = one["fixed"]
        vulnerabilities.append(entry)
    result: dict[str, Any] = {"Target": f"{found.name} (debian 12.5)", "Class": "os-pkgs", "Type": "debian", "Packages": []}
    if vulnerabilities:
        result["Vulnerabilities"] = vulnerabilities
    repository = found.name.partition("@")[0]
    return {
        "SchemaVersion": 2,
        "Trivy": program,
        "ArtifactName": found.name,
        "ArtifactType": "container_image",
        "Metadata": {
            "OS": {"Family": "debian", "Name": "12.5", **({"EOSL": True} if found.ended else {})},
            "ImageID": found.id,
            "RepoDigests": [f"{repository}@{found.digest}"] if found.digest and repository != found.name else [],
            "ImageConfig": {"architecture": "amd64", "created": found.created, "os": "linux"},
        },
        "Results": [result],
    }


# -- twistcli ---------------------------------------------------------------------------------------------------------


def twistcli(arguments: list[str]) -> int:
    """Exits with 1 for what the "Console" refuses (a critical finding), and for every failure."""
    if arguments[:2] != ["images", "scan"]:
        raise Failed("this stand-in knows images scan only")
    parser = Parser(prog="twistcli images scan", allow_abbrev=False)
    for name in ("--address", "--output-file", "--project", "--tlscacert"):
        parser.add_argument(name, default="")
    parser.add_argument("--user", "-u", default=os.environ.get("TWISTLOCK_USER", "admin"))
    parser.add_argument("--password", "-p", default=os.environ.get("TWISTLOCK_PASSWORD", ""))
    parser.add_argument("--token", default="")
    parser.add_argument("--publish", nargs="?", default="true")
    parser.add_argument("--details", action="store_true")
    parser.add_argument("image", nargs=argparse.REMAINDER)  # options after the image are not read
    given = parser.parse_args(arguments[2:])
    if not given.image:
        raise Failed("no image given")
    if not given.address.startswith("https://"):
        raise Failed("only the HTTPS protocol is supported")
    if not given.password and not given.token:
        raise Failed("password: inappropriate ioctl for device")  # it would ask for one
    found = from_engine(given.image[0])
    findings = found.findings()
    counts = {name.lower(): sum(one["severity"] == name for one in findings) for name in SEVERITIES[:4]}
    passed = not counts["critical"]
    result = {
        "id": found.id,
        "name": found.name,
        "distro": "Debian GNU/Linux 12 (bookworm)",
        "distroRelease": "bookworm",
        "digest": found.digest,
        "packages": [],
        "complianceDistribution": {"critical": 0, "high": 0, "medium": 0, "low": 0, "total": 0},
        "complianceScanPassed": True,
        "vulnerabilities": [
            {
                "id": one["id"],
                "status": f"fixed in {one['fixed']}" if one["fixed"] else "needed",
                "description": "A made-up finding.",
                "severity": one["severity"].lower(),
                "packageName": one["package"],
                "packageVersion": "1.0-1",
                "link": f"https://security-tracker.example/{one['id']}",
            }
            for one in findings
        ],
        "vulnerabilityDistribution": {**counts, "total": sum(counts.values())},
        "vulnerabilityScanPassed": passed,
        "history": [{"created": found.created, "instruction": 'CMD ["sh"]'}],
        "scanTime": stamp(datetime.datetime.now(datetime.UTC)),
    }
    write(given.output_file, {"results": [result], "consoleURL": f"{given.address}/#!/monitor/vulnerabilities/images/ci"}, found.mode, "packages")
    sys.stdout.write(f"Vulnerability threshold check results: {'PASS' if passed else 'FAIL'}\n")
    return 0 if passed else 1


# -- Grype ------------------------------------------------------------------------------------------------------------


def grype(arguments: list[str]) -> int:
    parser = Parser(prog="grype", allow_abbrev=False)
    for names in (("--output", "-o"), ("--file",), ("--scope", "-s"), ("--fail-on", "-f")):
        parser.add_argument(*names, default="")
    parser.add_argument("--only-fixed", action="store_true")
    parser.add_argument("image")
    given = parser.parse_args(arguments)
    if given.output != "json" or not given.file:
        raise Failed("this stand-in knows --output json --file FILE only")
    source, _, name = given.image.partition(":")
    login = (os.environ.get("GRYPE_REGISTRY_AUTH_USERNAME", ""), os.environ.get("GRYPE_REGISTRY_AUTH_PASSWORD", ""))
    plain = os.environ.get("GRYPE_REGISTRY_INSECURE_USE_HTTP") == "true"
    found = from_engine(name) if source == "docker" else from_registry(name, plain=plain, login=login)
    findings = [one for one in found.findings() if one["fixed"] or not given.only_fixed]
    made = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30 if found.mode == "old" else 0)
    report = {
        "matches": [
            {
                "vulnerability": {
                    "id": one["id"],
                    "severity": one["severity"].capitalize(),
                    "dataSource": f"https://security-tracker.example/{one['id']}",
                    "description": "A made-up finding.",
                    "fix": {"versions": [one["fixed"]], "state": "fixed"} if one["fixed"] else {"versions": [], "state": "not-fixed"},
                },
                "artifact": {"name": one["package"], "version": "1.0-1", "type": "deb"},
            }
            for one in findings
        ],
        "source": {"type": "image", "target": {"userInput": name, "imageID": found.id, "manifestDigest": found.digest, "tags": [], "repoDigests": []}},
        "distro": {"name": "debian", "version": "12", "idLike": []},
        "descriptor": {
            "name": "grype",
            "version": "0.104.0",
            "db": {"status": {"schemaVersion": "v6.1.3", "built": f"{made:%Y-%m-%dT%H:%M:%SZ}", "valid": True}},
        },
    }
    write(given.file, report, found.mode, "ignoredMatches")
    worst = SEVERITIES.index(given.fail_on.upper()) if given.fail_on else -1
    return 2 if any(SEVERITIES.index(one["severity"]) <= worst for one in findings) else 0


# -- what becomes of a report -----------------------------------------------------------------------------------------


def write(path: str, report: dict[str, Any], mode: str, bulk: str) -> None:
    """Write the report, or what the mode makes of it. `bulk` is a part of it that may be as large as it likes."""
    text = json.dumps(report, indent=2)
    if mode == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    if mode == "greedy":
        hoard = [os.urandom(1_000_000) for _ in range(GREED // 1_000_000)]
        raise Failed(f"took {len(hoard)} MB, and was not stopped")
    if mode == "fail":
        raise Failed("something went wrong inside")
    if mode == "none":
        return
    if mode == "late":
        time.sleep(float(os.environ.get("STANDIN_SECONDS", "5")))
    if mode == "garbage":
        text = "<html><body>502 Bad Gateway</body></html>\n"
    if mode in ("crash", "cut"):
        text = text[: len(text) // 2]
    with pathlib.Path(path).open("w") as file:
        if mode == "huge":
            file.write(f'{{"{bulk}": ["')
            for _ in range(HUGE // 1_000_000):
                file.write("x" * 1_000_000)
            text = f'"], {text[1:]}'
        file.write(text)
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)


def main() -> int:
    program = pathlib.Path(sys.argv[0]).name
    try:
        return {"trivy": trivy, "twistcli": twistcli, "grype": grype}[program](sys.argv[1:])
    except Failed as cause:
        say(f"{stamp(datetime.datetime.now(datetime.UTC))}\tFATAL\tFatal error\t{cause}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
