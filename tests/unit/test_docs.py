"""Documentation that can be checked is: codes, events, metrics, settings, commands, files and links."""

import pathlib
import re

import click
import prometheus_client.metrics
import pytest

from tes_server import cli, client_cli, configuration, telemetry

HOME = pathlib.Path(__file__).parents[2]
PAGES = [*sorted((HOME / "docs").rglob("*.md")), *(HOME / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
SOURCES = sorted((HOME / "tes_server").rglob("*.py"))
LOGGED = re.compile(r"""(?:telemetry\.log\([^"]*|logger\.(?:exception|error|warning|info)\()"([a-z_.]+)\"""")


def page(name: str) -> str:
    return (HOME / name).read_text()


def metrics() -> list[str]:
    """Names as Prometheus shows them: counters get a suffix."""
    found = [value for value in vars(telemetry).values() if isinstance(value, prometheus_client.metrics.MetricWrapperBase)]
    return [family.name + ("_total" if family.type == "counter" else "") for metric in found for family in metric.describe()]


@pytest.mark.parametrize("code", telemetry.Code)
def test_each_code_is_explained_once(code: telemetry.Code) -> None:
    assert page("docs/operations.md").count(f"\n| `{code}` |") == 1


def test_no_code_is_explained_that_there_is_not() -> None:
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page("docs/operations.md"), re.MULTILINE)) == set(telemetry.Code)


def test_each_metric_is_explained() -> None:
    assert metrics()
    assert sorted(re.findall(r"^\| `(tes_\w+)` \|", page("docs/operations.md"), re.MULTILINE)) == sorted(metrics())


def test_each_log_event_is_explained() -> None:
    events = {event for source in SOURCES for event in LOGGED.findall(source.read_text())}
    assert len(events) > 5
    table = page("docs/operations.md").partition("## Log events")[2].partition("## Metrics")[0]
    assert events == set(re.findall(r"`([a-z_]+\.[a-z_.]+)`", table))


def test_the_settings_page_is_what_the_command_prints() -> None:
    # Made by: tes-server settings --markdown > docs/settings.md
    assert page("docs/settings.md") == configuration.markdown()


@pytest.mark.parametrize(("group", "name"), [(client_cli.main, "docs/cli.md"), (cli.main, "docs/operations.md")])
def test_each_command_is_named(group: click.Group, name: str) -> None:
    for command in group.commands.values():
        program = "tes" if group is client_cli.main else "tes-server"
        assert f"{program} {command.name}" in page(name) or f"`{command.name}`" in page(name)


def test_each_option_of_tes_is_explained() -> None:
    options = {word for command in client_cli.main.commands.values() for parameter in command.params for word in parameter.opts if word.startswith("--")}
    assert {option for option in options if f"{option}" not in page("docs/cli.md")} == set()


def test_each_module_is_in_the_map() -> None:
    named = set(re.findall(r"^\| `(tes_server/[\w/]+\.py)` \|", page("CONTRIBUTING.md"), re.MULTILINE))
    assert named == {str(source.relative_to(HOME)) for source in SOURCES if source.name != "__init__.py"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: pathlib.Path) -> None:
    text = path.read_text()
    headings = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        assert not target or (path.parent / target).exists(), link
        assert target or anchor in headings, link
