"""The `tes` command: run, create, list, get, wait, logs, cancel and info, against any TES server.

Wires options to `tes_server.client`; what people see is made in `client.screen`, which is imported only for them.
Must never import the server's own rooms.
"""

from __future__ import annotations

import json
import pathlib
import shlex
import sys
from typing import Any

import click

import tes_server
from tes_server import errors
from tes_server.client import answers, compose, follow, options, polling
from tes_server.client.answers import Task
from tes_server.client.connection import CONNECTIONS, Refused, Unreachable
from tes_server.client.options import Session

VIEW = click.Choice(["MINIMAL", "BASIC", "FULL"], case_sensitive=False)
STATES = ["UNKNOWN", "QUEUED", "INITIALIZING", "RUNNING", "PAUSED", "COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED", "CANCELING"]


class _Commands(click.Group):
    """Turns every error of this package into a line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.TesServerError as cause:
            options.notice(str(cause))
            match cause:
                case Unreachable():
                    ctx.exit(answers.EXIT_UNREACHABLE)
                case errors.Invalid():
                    ctx.exit(answers.EXIT_USAGE)
                case _:
                    ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(answers.EXIT_CANCELED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(tes_server.__version__, prog_name="tes")
def main() -> None:
    """Run tasks on a GA4GH TES server.

    The server is TES_URL or --url. A terminal gets tables; a pipe gets JSON, one object per line (--json gives it anywhere).

    Exit codes: 0 well; 1 the server refused, or a task failed without a usable exit code; 2 wrong usage; 69 no server;
    70 SYSTEM_ERROR; 124 --timeout is over; 130 CANCELED. `run` and `wait` exit with the code of the command that failed
    if it is 1 to 125; of many tasks, the worst counts.
    """


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("--image", envvar="TES_IMAGE", show_envvar=True, required=True, help="Container image.")
@click.option(
    "--in", "inputs", multiple=True, callback=options.parsed(compose.file_input), metavar=compose.IN_FORM, help="Input; lies at /in/NAME if no path is given."
)
@click.option(
    "--content",
    multiple=True,
    callback=options.parsed(compose.literal_input),
    metavar="FILE[:/container/path]",
    help="Small local text file, sent in the task itself.",
)
@click.option(
    "--out", "outputs", multiple=True, callback=options.parsed(compose.output), metavar=compose.OUT_FORM, help="Output; wildcards collect below the target."
)
@click.option("--cpu", type=click.FloatRange(min=0, min_open=True), help="Cores.")
@click.option("--ram", callback=options.parsed(compose.gigabytes), metavar="SIZE", help="Memory: 2 or 2G (10^9 bytes), 512M, 1.5Gi.")
@click.option("--disk", callback=options.parsed(compose.gigabytes), metavar="SIZE", help="Disk, as --ram.")
@click.option("--env", multiple=True, callback=options.parsed(compose.pair), metavar="KEY=VALUE", help="Environment of the command.")
@click.option("--tag", "tags", multiple=True, callback=options.parsed(compose.pair), metavar="KEY=VALUE", help="Tag of the task.")
@click.option(
    "--param", "parameters", multiple=True, callback=options.parsed(compose.pair), metavar="KEY=VALUE", help="backend_parameters, as max_runtime=10m."
)
@click.option("--name", help="Name of the task.")
@click.option("--workdir", metavar="PATH", help="Working directory in the container.")
@click.option("--stdin", metavar="PATH", help="Container path that the command reads from.")
@click.option("--stdout", metavar="PATH", help="Container path that the command's output goes to.")
@click.option("--stderr", metavar="PATH", help="Container path that the command's errors go to.")
@click.option("--preemptible", is_flag=True, help="May run on capacity that the platform can take back.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the end and show the output.")
@click.option("--dry-run", is_flag=True, help="Print the task and send nothing.")
@click.option("-q", "--quiet", is_flag=True, help="With --no-wait: print only the id.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@options.connected
def run(session: Session, command: tuple[str, ...], wait: bool, dry_run: bool, quiet: bool, **words: Any) -> None:
    """Run one command: `tes run --image IMAGE -- COMMAND...`

    All that follows `--`, or the first word that is no option, is the command, verbatim and without a shell: options
    for `tes` (a --no-wait, say) come before it. `run` waits for the end, passes the command's stdout and stderr on to its
    own, and exits with the command's exit code; with --json it prints the ended task instead.

    Ctrl-C cancels the task and waits until it has stopped; a second one leaves at once.

    --in takes a local path (relative paths are made absolute), a path of the server's machine or a URL, and splits at the
    last ":/". A directory has a trailing slash or is one on this machine. --out splits at the first ":"; a container path
    with a trailing slash is a directory. Files are read and written by the server, which must be allowed to.
    """
    task = compose.task(command, **words)
    if dry_run:
        click.echo(json.dumps(task, indent=2, ensure_ascii=False).encode(errors="replace"))
        return
    task_id = session.server.create(task)
    if not wait:
        session.created(task_id, quiet)
        return
    if sys.stderr.isatty():
        options.notice(f"task {task_id}")
    ended = _to_the_end(session, task_id)
    log = ended.last_log
    for line in log.system_logs or []:
        options.notice(line)
    if ended.state != "COMPLETE":
        # Another state's last exit code is not why it ended so.
        code = next((f", exit code {executor.exit_code}" for executor in (log.logs or [])[-1:] if ended.state == "EXECUTOR_ERROR"), "")
        options.notice(f"task {task_id} ended as {ended.state}{code}")
    sys.exit(ended.exit_code)


def _to_the_end(session: Session, task_id: str) -> Task:
    """Follow a task that we made. Interrupted, cancel it and go on following; interrupted again, leave."""
    last: dict[str, Any] = {}

    def look() -> Task:
        last.clear()
        last.update(session.server.get(task_id, "FULL"))
        return answers.read(last)

    follower = follow.Follower(look, _nothing if session.is_json else options.write, options.notice)
    try:
        ended = follower.run()
    except KeyboardInterrupt:
        options.notice(f"canceling {task_id}; Ctrl-C again leaves at once")
        try:
            session.server.cancel(task_id)
        except Refused as cause:  # some servers refuse it for a task that has just ended
            options.notice(cause.public)
        ended = follower.run()
    if session.is_json:
        session.emit(last)
    return ended


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True), metavar="FILE...")
@click.option("-q", "--quiet", is_flag=True, help="Print only the ids.")
@options.connected
def create(session: Session, files: tuple[str, ...], quiet: bool) -> None:
    """Create tasks from JSON files ("-" is standard input).

    A file holds a task, an array of tasks, or one task per line. All are read before the first is sent.
    `tes create *.json | tes wait -` waits for them all.
    """
    tasks = [task for file in files for task in compose.documents(_text(file), file)]
    for number, task in enumerate(tasks, 1):
        try:
            session.created(session.server.create(task), quiet)
        except errors.TesServerError as cause:
            if len(tasks) > 1:
                options.notice(f"task {number} of {len(tasks)} was not created; those before it were")
            raise cause


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else pathlib.Path(file).read_text(encoding="utf-8")
    except OSError as cause:
        raise errors.Invalid(f"{file} cannot be read: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise errors.Invalid(f"{file} is not UTF-8 text") from cause


@main.command("list")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only tasks in this state.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Only tasks with this tag; all that are given must hold.")
@click.option("--name-prefix", help="Only tasks whose name begins so.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@click.option("--all", "is_all", is_flag=True, help="Without a limit.")
@click.option("--view", type=VIEW, default="BASIC", show_default=True, help="How much of each task.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the ids.")
@options.connected
def list_(session: Session, state: str | None, tags: tuple[str, ...], name_prefix: str | None, limit: int, is_all: bool, view: str, quiet: bool) -> None:
    """List tasks, newest first."""
    filters = [(key, value) for key, value in (("state", state), ("name_prefix", name_prefix)) if value]
    for tag in tags:
        key, _, value = tag.partition("=")
        # The server zips the two lists, so that a tag without a value needs its empty one.
        filters += [("tag_key", key), ("tag_value", value)]
    found = session.server.tasks(filters, "MINIMAL" if quiet else view, None if is_all else limit)
    if quiet:
        for task in found:
            click.echo(answers.read(task).id)
    elif session.is_person:
        from tes_server.client import screen

        screen.tasks(answers.read(task) for task in found)
    else:
        for task in found:
            session.emit(task)


@main.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--view", type=VIEW, default="FULL", show_default=True, help="How much of each task.")
@options.connected
def get(session: Session, ids: tuple[str, ...], view: str) -> None:
    """Show tasks ("-" reads ids from standard input)."""
    for task_id in options.task_ids(ids):
        answer = session.server.get(task_id, view)
        if session.is_person:
            from tes_server.client import screen

            screen.details(answers.read(answer))
        else:
            session.emit(answer)


@main.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most; then exit 124.")
@options.connected
def wait(session: Session, ids: tuple[str, ...], timeout: float | None) -> None:
    """Wait until tasks have ended, and exit as the worst of them.

    "-" reads ids from standard input. The tasks go on if this command is stopped. Piped, each task is printed as it ends.
    """
    wanted = options.task_ids(ids)
    looks = polling.changes(lambda task_id: answers.read(session.server.get(task_id, "MINIMAL")), wanted, timeout, CONNECTIONS)
    states: dict[str, str] = {}
    if session.is_person:
        from tes_server.client import screen

        with screen.progress(len(wanted)) as update:
            for task_id, task in looks:
                states[task_id] = task.state or "UNKNOWN"
                update(states)
        screen.tasks(Task(id=task_id, state=states.get(task_id)) for task_id in wanted)
    else:
        for task_id, task in looks:
            states[task_id] = task.state or "UNKNOWN"
            if task.ended:
                session.emit({"id": task_id, "state": task.state})
    running = [task_id for task_id in wanted if states.get(task_id) not in answers.ENDS]
    if running:
        options.notice(f"{len(running)} of {len(wanted)} tasks have not ended after {timeout:g} s, as {running[0]}")
        sys.exit(answers.EXIT_TIMEOUT)
    worst = answers.worst(Task(id=task_id, state=states[task_id]) for task_id in wanted)
    if worst.state == "EXECUTOR_ERROR":  # the view MINIMAL has no exit codes
        worst = answers.read(session.server.get(worst.id, "BASIC"))
    sys.exit(worst.exit_code)


@main.command()
@click.argument("task_id", metavar="ID")
@click.option("-f", "--follow", "is_following", is_flag=True, help="Go on until the task has ended.")
@click.option("--executor", type=click.IntRange(min=0), help="Only this executor's, counted from 0.")
@options.connected
def logs(session: Session, task_id: str, is_following: bool, executor: int | None) -> None:
    """Print a task's stdout and stderr.

    Each goes to ours, as it is; with --json the logs are printed as an object. Lines of the system itself follow on stderr.

    Servers keep only the beginning and the end of long output. What was left out is said on stderr; to have all of it,
    give the task --stdout and an --out for that path.
    """
    last: dict[str, Any] = {}

    def look() -> Task:
        last.clear()
        last.update(session.server.get(task_id, "FULL"))
        return answers.read(last)

    follower = follow.Follower(look, _nothing if session.is_json else options.write, options.notice, executor=executor)
    task = follower.run() if is_following else look()
    if session.is_json:
        session.emit({"id": task_id, "logs": last.get("logs") or []})
        return
    if not is_following:
        follower.show(task)
    for line in task.last_log.system_logs or []:
        options.notice(line)


def _nothing(_stream: str, _text: str) -> None:
    """Output that --json replaces by the task itself."""


@main.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("-q", "--quiet", is_flag=True, help="Print only the ids.")
@options.connected
def cancel(session: Session, ids: tuple[str, ...], quiet: bool) -> None:
    """Ask the server to cancel tasks.

    "-" reads ids from standard input. `tes wait` tells when they have stopped."""
    refused = 0
    for task_id in options.task_ids(ids):
        try:
            session.server.cancel(task_id)
        except Refused as cause:
            refused += 1
            options.notice(f"{shlex.quote(task_id)}: {cause.public}")
        else:
            session.created(task_id, quiet)
    if refused:
        sys.exit(1)


@main.command()
@options.connected
def info(session: Session) -> None:
    """Show what the server says of itself (service-info)."""
    answer = session.server.service_info()
    if session.is_person:
        from tes_server.client import screen

        screen.document(answer)
    else:
        session.emit(answer)


if __name__ == "__main__":
    main()
