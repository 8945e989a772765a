"""The whole configuration: one frozen tree, a docstring under each field. Data only; `configuration` reads it and prints it."""

from __future__ import annotations

import pathlib
from typing import Annotated, Literal

import msgspec

from tes_server.settings_auth import AuthSettings, LimitSettings
from tes_server.settings_aws import AwsBatchSettings
from tes_server.settings_azure import AzureBatchSettings
from tes_server.settings_grants import GrantSettings
from tes_server.settings_kubernetes import KubernetesSettings
from tes_server.settings_parts import Amount, Count, Number, Part, Pause
from tes_server.settings_scan import ScanSettings
from tes_server.settings_server import ServerSettings


class StoreSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where tasks are kept."""

    url: str = "sqlite:"
    """`sqlite:` is a file in the data directory. `mongodb://…` and `mongodb+srv://…`, as a portal shows them, are a database that several
    servers share: MongoDB, Azure Cosmos DB for MongoDB, Azure DocumentDB. What it says of write concern (`w`, `journal`), read preference and
    retries is not used: each write is a majority's, each read the primary's."""
    url_file: str = ""
    """File that holds the url instead (a mounted secret); not beside `url`. A password is safe here or in `TES_SERVER__STORE__URL`, not on a command line."""
    database: str = ""
    """MongoDB: the name of the database. Empty = the one that the url names, else `tes`."""
    patience: Pause = 8.0
    """MongoDB: seconds that a request waits for a store that is throttled, elects a new primary or is away; then 503."""
    lease: Pause = 20.0
    """MongoDB: seconds after which the work of a reconciler that is not heard of any more is taken over by others."""


class PathSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One site path that engines name their files by, and where it is kept."""

    path: str
    """Absolute path prefix as clients send it, e.g. `/cromwell-executions`."""
    url: str
    """What stands for it: `file:///shared/cromwell` (its root must be allowed in `files.roots`) or an object store prefix."""


class FilesSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Files of this machine that tasks may name."""

    roots: tuple[str, ...] = ()
    """Directories under which `file://` URLs and absolute paths may be read and written. None by default."""
    live_mounts: tuple[str, ...] = ()
    """Directories below which a DIRECTORY input is mounted live and read-write instead of copied (Toil's file job store)."""
    http: bool = True
    """Allow http:// and https:// inputs."""
    ftp: bool = True
    """Allow ftp:// and ftps:// inputs."""
    uploads: tuple[Literal["ftp", "ftps", "http", "https"], ...] = ()
    """Schemes of the net that outputs may go to, to any host; none by default. http and https by PUT, as to a pre-signed url."""
    net_private: bool = True
    """http(s) and ftp(s) inputs and outputs may be in private networks (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7, …). With
    False only the public net and `net_allow` are left: right where users must not reach what only a firewall protects."""
    net_allow: tuple[str, ...] = ()
    """Where they may go though it is this machine (loopback) or, with `net_private = false`, private: addresses, networks and hosts, each with `:port`
    or without (`127.0.0.1:8080`, `10.1.0.0/16`, `data.example.org`). Without sign-in, on a loopback `server.host`, tasks of this machine reach its loopback
    anyway, as whoever can send them does. Link-local addresses and the metadata services of clouds are never opened."""


class StorageSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One object store, or a part of one, that tasks may use with this server's credentials. What none of these names is refused.

    Credentials are never settings: these name the environment variables and files that hold them.
    """

    url: str
    """What it holds for: `s3://bucket`, `s3://bucket/prefix`, `az://account`, `az://account/container`, `gs://bucket`; `s3://` is any
    bucket. Of several that fit, the longest. `az://` also stands for the same place as `https://account.blob.…` and `abfss://…`."""
    write: bool = False
    """Outputs may go there. Without it only inputs may come from there."""
    tasks: bool = True
    """Tasks may use it. False: only the server itself does (`retention.archive`)."""
    owners: tuple[str, ...] = ()
    """Only for the tasks of these owners (names or shell patterns), before a table of the same url that is for everybody: credentials of their own.
    Empty = everybody. What they may name there `grants` says."""
    endpoint: str = ""
    """Another server than the cloud's own, e.g. `http://127.0.0.1:9000` (MinIO). Empty = AWS_ENDPOINT_URL, else the cloud's."""
    region: str = ""
    """S3 region. Empty = AWS_REGION, AWS_DEFAULT_REGION, the profile's, else us-east-1."""
    path_style: bool = True
    """S3: the bucket is named in the path of requests, not in the host name."""
    requester_pays: bool = False
    """S3: agree to pay for what is read."""
    credentials: Literal["auto", "identity", "anonymous"] = "auto"
    """"auto": the variables, profile or file below; else the cloud's usual environment variables and the default AWS profile; else the
    identity of the machine. "identity": only that. "anonymous": none, for public data."""
    profile: str = ""
    """S3: a profile of `~/.aws/credentials` and `~/.aws/config` with keys of its own."""
    key_variable: str = ""
    """Name of the environment variable that holds the S3 access key id."""
    secret_variable: str = ""
    """Name of the environment variable that holds the S3 secret key, or the Azure account key."""
    token_variable: str = ""
    """Name of the environment variable that holds the S3 session token, an Azure shared access signature, or a Google token."""
    file: str = ""
    """Path of a Google service account file."""
    client_id: str = ""
    """Azure: client id of the managed identity, where the machine has several."""


class LocalSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Running tasks on this machine."""

    enabled: bool = True
    """Tasks may run on this machine. False leaves them to the other backends."""
    engine: Literal["auto", "docker", "podman", "sandbox"] = "auto"
    """What runs executors: Docker or Podman over their API, or the sandbox (bubblewrap). "auto" takes the first of them that answers."""
    cpus: Amount = 0.0
    """Cores that tasks may use together; 0 = all of this machine."""
    ram_gb: Amount = 0.0
    """Memory (10^9 bytes) that tasks may use together; 0 = this machine's less a reserve of a tenth."""
    disk_gb: Amount = 0.0
    """Disk (10^9 bytes) that tasks may ask for together; 0 = what is free in the data directory at start."""
    gpus: Count = 0
    """GPUs that one task may ask for (Docker engine with its GPU runtime)."""
    grace: Amount = 10.0
    """Seconds between TERM and KILL when a task is stopped."""
    secrets: dict[str, str] = {}
    """What tasks may name as `secret://NAME` in `executors[].env`, and where each is kept: `/path` of a file, or of a directory, whose files are its keys
    (`secret://NAME/FILE`), or `env:VARIABLE` of this server's environment."""
    scan_secrets: dict[str, str] = {}
    """The same for scans of images (`scan.env`), which tasks may not name. No name is in both."""
    lost_after: Pause = 900.0
    """Several servers on one store: seconds of silence after which a machine is given up. What ran there is tried again (`retries.lost`)."""


class DockerSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The Docker engine."""

    url: str = ""
    """Address of its API, e.g. `unix:///run/docker.sock`; empty = DOCKER_HOST or the usual socket."""
    network: Literal["bridge", "none", "host"] = "bridge"
    """Network of executors. "host" (clients.md row 29) gives tasks this machine's own network: opt-in."""


class PodmanSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The Podman engine: Podman's service, root's or a user's own."""

    url: str = ""
    """Address of its API, e.g. `unix:///run/podman/podman.sock`; empty = CONTAINER_HOST or the usual sockets."""
    network: Literal["bridge", "none", "host"] = "bridge"
    """Network of executors. "bridge" is a network of their own, whichever way Podman makes one here; "host" this machine's: opt-in."""


class MirrorSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One mirror of a registry."""

    prefix: str
    """Registry or repositories that it stands for: `docker.io`, `ghcr.io/team`."""
    url: str
    """Where the same repositories are found: `https://mirror.example`, or `https://harbor.example/dockerhub` for a project of it."""


class SandboxSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The sandbox engine (bubblewrap)."""

    allow_host: bool = False
    """Allow the image named `host`: this machine's own programs, read-only, without a container image."""
    network: bool = True
    """Tasks may use the network. The sandbox shares this machine's network; False leaves them only a loopback of their own."""
    processes: Number = 4096
    """Processes and threads that one executor may have: a fork bomb then ends its task and not this machine."""
    images_gb: Amount = 0.0
    """Disk (10^9 bytes) that unpacked images may take together, and one by itself; those used last stay. 0 = a third of the disk."""
    mirrors: tuple[MirrorSettings, ...] = ()
    """Mirrors in order, e.g. `[[sandbox.mirrors]]` tables with `prefix` and `url`; each that fits is asked before the registry itself."""
    plain_http: tuple[str, ...] = ()
    """Registries (`host` or `host:port`) that are asked without TLS, as those on this machine always are."""


class SpoolSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where reports of tasks on other machines wait for this server."""

    url: str = ""
    """`s3://…`, `az://…`, `gs://…` at or below a [[storage]] table with `write = true` and `tasks = false`. Empty = only short reports outlive
    their pod; AWS Batch needs one."""


class TaskSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Defaults and bounds of tasks."""

    default_cpus: Pause = 1.0
    """Cores of a task that names none."""
    default_ram_gb: Pause = 1.0
    """Memory (10^9 bytes) of a task that names none."""
    default_max_runtime: Amount = 0.0
    """Seconds after which an attempt without `max_runtime` is stopped; 0 = never."""
    tail_bytes: Number = 10240
    """Bytes of head, and as many of tail, kept of each executor's stdout and stderr."""
    max_inputs: Number = 100_000
    """Inputs, outputs and volumes together that one task may name."""
    max_executors: Number = 1000
    """Executors of one task."""
    max_tags: Number = 1000
    """Tags of one task."""
    max_content: Number = 16 * 1024 * 1024
    """Bytes of `content` of one task's inputs together. `server.body_limit` bounds them, too."""
    max_staged_files: Count = 1_000_000
    """Files, directories and links that the inputs of one task may come to when they are fetched, and likewise its outputs; 0 = any number."""
    max_staged_gb: Amount = 0.0
    """Bytes (10^9) that the inputs of one task may come to, and likewise its outputs, holes of sparse files included; 0 = what the disk holds."""


class RetrySettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often an attempt that failed for no fault of the task's is made again."""

    lost: Count = 3
    """New attempts after LOST (node or supervisor vanished)."""
    staging: Count = 3
    """New attempts after a transfer failed for a passing reason."""
    backend: Count = 5
    """New attempts after the engine, the platform or an image registry failed for a passing reason."""
    first_delay: Pause = 2.0
    """Seconds before the first repeat; doubled each time, with jitter."""
    longest_delay: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    """Bound of that delay, an hour at most."""


class RouteSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One routing rule. All conditions that are given must hold; the first rule that holds decides."""

    backend: str
    """Name of the backend that takes the task."""
    owner: str = ""
    """Shell pattern (`*`, `?`, `[...]`) that the owner must match."""
    tags: dict[str, str] = {}
    """Tags that the task must bear; values are shell patterns."""
    parameters: dict[str, str] = {}
    """backend_parameters that the task must name; values are shell patterns."""
    schemes: tuple[str, ...] = ()
    """Schemes of which at least one input must be (`s3`, `file`, `https`, ...), site paths replaced."""
    min_cpus: Amount = 0.0
    """The task asks for at least so many cores."""
    max_cpus: Amount = 0.0
    """The task asks for at most so many cores; 0 = any."""
    min_ram_gb: Amount = 0.0
    """The task asks for at least so much memory (10^9 bytes)."""
    max_ram_gb: Amount = 0.0
    """The task asks for at most so much memory; 0 = any."""
    gpus: bool | None = None
    """The task asks for GPUs (true) or for none (false)."""


class ControlSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The reconciler."""

    interval: Pause = 15.0
    """Seconds between two looks at a running attempt that sent no news. Shorter finds lost ones sooner and costs more."""
    batch: Number = 200
    """Records handled in one pass."""
    poll: Pause = 1.0
    """Longest sleep between two passes, in seconds."""
    metrics_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """`tes-server reconcile`: a port of `server.host` that answers its metrics, on any path. 0 = none; a server of the API on the same data
    directory shows them too."""


class RetentionSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long tasks are kept."""

    days: Annotated[float, msgspec.Meta(ge=0, le=36500)] = 0.0
    """Days after its end for which a task is kept, e.g. 90; then it is removed. 0 = for ever."""
    archive: str = ""
    """Where tasks are written to before they are removed: `file:///directory`, or at or below a [[storage]] table with `write`
    (`s3://bucket/prefix`, `az://…`, `gs://…`). What cannot be archived is not removed. Empty = nowhere."""


class LogSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The server's own log, JSON lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Events below this level are left out."""
    audit: str = ""
    """Where it is written who created and canceled tasks, changed users or verdicts, and who could not sign in: the absolute path of a file (JSON
    lines), "log" for this log, or "none". Empty = "log" with sign-in, "none" without."""


class Settings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of a server."""

    data: str = ""
    """Directory of the embedded store and of local tasks. Default: `$XDG_DATA_HOME/tes-server` (`~/.local/share/tes-server`)."""
    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    grants: tuple[GrantSettings, ...] = ()
    """What owners may name of files, object stores and secrets, e.g. `[[grants]]` tables. None by default; without sign-in everybody may name all."""
    store: StoreSettings = StoreSettings()
    paths: tuple[PathSettings, ...] = ()
    """Site paths, e.g. `[[paths]]` tables with `path` and `url`."""
    files: FilesSettings = FilesSettings()
    storage: tuple[StorageSettings, ...] = ()
    """Object stores that tasks may use, e.g. `[[storage]]` tables with `url` and `write`. None by default."""
    local: LocalSettings = LocalSettings()
    docker: DockerSettings = DockerSettings()
    podman: PodmanSettings = PodmanSettings()
    sandbox: SandboxSettings = SandboxSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    aws_batch: AwsBatchSettings = AwsBatchSettings()
    azure_batch: AzureBatchSettings = AzureBatchSettings()
    spool: SpoolSettings = SpoolSettings()
    scan: ScanSettings = ScanSettings()
    tasks: TaskSettings = TaskSettings()
    retries: RetrySettings = RetrySettings()
    routes: tuple[RouteSettings, ...] = ()
    """Routing rules in order, e.g. `[[routes]]` tables; where none holds, the first backend takes the task."""
    control: ControlSettings = ControlSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    log: LogSettings = LogSettings()

    def data_directory(self, home: pathlib.Path, xdg_data_home: str = "") -> pathlib.Path:
        """The data directory as an absolute path; `home` and `xdg_data_home` come from the environment."""
        if self.data:
            return pathlib.Path(self.data).expanduser().absolute()
        base = pathlib.Path(xdg_data_home) if xdg_data_home else home / ".local" / "share"
        return base / "tes-server"
