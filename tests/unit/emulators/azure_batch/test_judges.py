"""Shapes, filters, pages, formulas and options, by themselves."""

from __future__ import annotations

import datetime
import pathlib
from typing import Any

import pytest

from tests.emulators.azure_batch import formulas, odata, protocol, routes, run_options
from tests.emulators.azure_batch.formula_functions import FormulaError, Sample, Samples
from tests.emulators.azure_batch.protocol import BatchError
from tests.emulators.azure_batch.run_options import BadOptions

NOW = datetime.datetime(2026, 11, 22, 5, 0, tzinfo=datetime.UTC)
TASK = {"id": "a", "commandLine": "true"}


# -- shapes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ([], "InvalidRequestBody", "object"),
        ({"id": "a"}, "MissingRequiredProperty", "commandLine"),
        ({**TASK, "image": "x"}, "InvalidRequestBody", "image"),
        ({**TASK, "requiredSlots": "2"}, "InvalidPropertyValue", "requiredSlots"),
        ({**TASK, "requiredSlots": True}, "InvalidPropertyValue", "requiredSlots"),
        ({**TASK, "containerSettings": {"containerRunOptions": ""}}, "MissingRequiredProperty", "containerSettings.imageName"),
        ({**TASK, "containerSettings": {"imageName": "x", "workingDirectory": "here"}}, "InvalidPropertyValue", "workingDirectory"),
        ({**TASK, "constraints": {"maxWallClockTime": "5 minutes"}}, "InvalidPropertyValue", "maxWallClockTime"),
        ({**TASK, "environmentSettings": [{"value": "x"}]}, "MissingRequiredProperty", "environmentSettings[0].name"),
    ],
)
def test_a_body_that_the_model_does_not_describe_is_refused(given: Any, code: str, words: str) -> None:
    with pytest.raises(BatchError, match=code) as caught:
        protocol.read("BatchTaskCreateOptions", given)
    assert caught.value.status == 400
    assert words in str(caught.value)


def test_what_can_only_be_read_cannot_be_written() -> None:
    with pytest.raises(BatchError, match="state"):
        protocol.read("BatchTask", {"state": "completed"})


def test_an_answer_that_the_service_could_not_give_is_a_defect() -> None:
    good = {"active": 0, "running": 0, "completed": 1, "succeeded": 1, "failed": 0}
    protocol.check("BatchTaskCountsResult", {"taskCounts": good, "taskSlotCounts": good})
    for bad in (
        {"taskCounts": good},
        {"taskCounts": good, "taskSlotCounts": {**good, "more": 1}},
        {"taskCounts": good, "taskSlotCounts": {**good, "active": "0"}},
    ):
        with pytest.raises(AssertionError, match="BatchTaskCountsResult"):
            protocol.check("BatchTaskCountsResult", bad)
    protocol.check("BatchTask", {"id": "a"}, whole=False)
    with pytest.raises(AssertionError, match="commandLine"):
        protocol.check("BatchTask", {"id": "a"})


@pytest.mark.parametrize(("text", "seconds"), [("PT5M", 300.0), ("P1DT1H", 90000.0), ("PT0.5S", 0.5), ("P7D", 604800.0)])
def test_durations(text: str, seconds: float) -> None:
    assert protocol.duration(text) == seconds


def test_every_route_has_the_models_that_it_names() -> None:
    for route in routes.ROUTES:
        for name in filter(None, (route.takes, route.gives)):
            assert protocol.fields(protocol.model(name))


# -- filters and pages -------------------------------------------------------------------------------------------------

ITEMS: list[dict[str, Any]] = [
    {"id": "a", "state": "active", "stateTransitionTime": "2026-11-22T05:00:00.0000000Z"},
    {"id": "b", "state": "completed", "stateTransitionTime": "2026-11-22T05:00:01.5000000Z", "executionInfo": {"exitCode": 1}},
    {"id": "it's", "state": "running", "stateTransitionTime": "2026-11-22T05:00:02.0000000Z"},
]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("state eq 'active'", ["a"]),
        ("state ne 'active' and stateTransitionTime ge DateTime'2026-11-22T05:00:02Z'", ["it's"]),
        ("stateTransitionTime gt DateTime'2026-11-22T05:00:00.0000000Z'", ["b", "it's"]),
        ("executionInfo/exitCode eq 1 or id eq 'it''s'", ["b", "it's"]),
        ("executionInfo/exitCode ne 1", ["a", "it's"]),
        ("executionInfo/exitCode lt 1", []),
        ("not (state eq 'active') and startswith(id, 'it')", ["it's"]),
        ("", ["a", "b", "it's"]),
    ],
)
def test_filters(text: str, ids: list[str]) -> None:
    shown, token = odata.page(ITEMS, {"$filter": text}, "BatchTask")
    assert ([item["id"] for item in shown], token) == (ids, "")


@pytest.mark.parametrize(
    "text",
    [
        "state",
        "State eq 'active'",
        "state eq active",
        "state ge 'active'",
        "state eq 'active' and",
        "(state eq 'active'",
        "stateTransitionTime ge '2026'",
        "stateTransitionTime ge DateTime'yesterday'",
        "displayName eq 'x'",
        "executionInfo/exitCode ge 'x'",
        "state eq 'active' state",
        "#",
    ],
)
def test_filters_that_cannot_be_followed(text: str) -> None:
    with pytest.raises(BatchError, match="InvalidQueryParameterValue") as caught:
        odata.page(ITEMS, {"$filter": text}, "BatchTask")
    assert caught.value.status == 400


def test_pages_go_on_after_what_was_shown() -> None:
    first, token = odata.page(ITEMS, {"maxresults": "2", "$select": "id"}, "BatchTask")
    assert (first, token) == ([{"id": "a"}, {"id": "b"}], "b")
    assert odata.page(ITEMS[1:], {"maxresults": "2", "$skiptoken": token}, "BatchTask") == ([ITEMS[2]], "")
    for query in ({"maxresults": "0"}, {"maxresults": "1001"}, {"$select": "id,exit"}):
        with pytest.raises(BatchError, match="InvalidQueryParameterValue"):
            odata.page(ITEMS, query, "BatchTask")


# -- formulas ----------------------------------------------------------------------------------------------------------


def samples(*values: float) -> Samples:
    """One each 30 seconds, the last one now."""
    return Samples([Sample(NOW - datetime.timedelta(seconds=30 * back), value) for back, value in zip(range(len(values) - 1, -1, -1), values, strict=True)])


def evaluated(formula: str, **variables: Any) -> dict[str, Any]:
    return formulas.evaluate(formula, {f"${name}": value for name, value in variables.items()}, NOW)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * -3", -9.0),
        ("7 / 2", 3.5),
        ("1 < 2 ? 5 : 6", 5.0),
        ("1 > 2 ? 5 : 2 > 1 ? 7 : 8", 7.0),
        ("1 == 1 && !0 || 0", 1.0),
        ("max(1, min(5, 3))", 3.0),
        ("ceil(1.2) + floor(1.8) + round(2.5)", 6.0),
        ("avg($PendingTasks.GetSample(3))", 3.0),
        ("max($PendingTasks.GetSample(TimeInterval_Minute))", 4.0),
        ("sum($PendingTasks.GetSample(1 * TimeInterval_Minute + 30 * TimeInterval_Second))", 10.0),
        ("$PendingTasks.GetSamplePercent(TimeInterval_Hour) < 70 ? 1 : 2", 1.0),
        ("$PendingTasks.Count()", 4.0),
        ("val($PendingTasks.GetSample(2), 1)", 4.0),
        ("percentile($PendingTasks.GetSample(4), 50)", 2.5),
        ("sum($PendingTasks.GetSample(2) * 2)", 14.0),
        ("time() > time(\"2026-01-01\") ? 1 : 0", 1.0),
        ("len($PendingTasks.GetSample(4)) /* all */", 4.0),
        ("$PendingTasks / $TaskSlotsPerNode", 1.0),
    ],
)  # fmt: skip
def test_expressions(expression: str, value: float) -> None:
    assert evaluated(f"x = {expression};", PendingTasks=samples(1.0, 2.0, 3.0, 4.0), TaskSlotsPerNode=Samples([], 4.0))["x"] == pytest.approx(value)


def test_targets_are_whole_and_not_negative() -> None:
    own = evaluated("n = 3.9; $TargetDedicated = n; $TargetLowPriorityNodes = -2; $NodeDeallocationOption = taskcompletion;")
    assert formulas.results(own) == "n=3.9;$TargetDedicatedNodes=3;$TargetLowPriorityNodes=0;$NodeDeallocationOption=taskcompletion"


@pytest.mark.parametrize(
    ("formula", "code"),
    [
        ("", "AutoScalingFormulaSyntaxError"),
        ("$TargetDedicatedNodes = ;", "AutoScalingFormulaSyntaxError"),
        ("$TargetDedicatedNodes = 5 % 2;", "AutoScalingFormulaSyntaxError"),
        ("x = nothing(1);", "AutoScalingFormulaSyntaxError"),
        ("x = (1;", "AutoScalingFormulaSyntaxError"),
        ("x = 1;" * 101, "AutoScalingFormulaSyntaxError"),
        ("x = 1; // " + "y" * 9000, "AutoScalingFormulaTooLong"),
        ("x = y;", "AutoScalingFormulaEvaluationError"),
        ("$PendingTasks = 1;", "AutoScalingFormulaEvaluationError"),
        ("$NodeDeallocationOption = never;", "AutoScalingFormulaEvaluationError"),
        ("x = 1 / 0;", "AutoScalingFormulaEvaluationError"),
        ("x = ln(0);", "AutoScalingFormulaEvaluationError"),
        ("x = avg($PendingTasks.GetSample(TimeInterval_Hour, 70));", "AutoScalingFormulaEvaluationError"),
        ("x = $PendingTasks.GetSample(time(\"2020-01-01\"), time(\"2020-01-02\"));", "AutoScalingFormulaEvaluationError"),
    ],
)  # fmt: skip
def test_formulas_that_are_wrong(formula: str, code: str) -> None:
    with pytest.raises(FormulaError) as caught:
        evaluated(formula, PendingTasks=samples(1.0))
    assert caught.value.code == code


# -- container settings ------------------------------------------------------------------------------------------------


def config(options: str = "", command: str = "", **settings: Any) -> dict[str, Any]:
    return run_options.config(
        "image", command, {"containerRunOptions": options, **settings}, {"A": "1"}, {pathlib.Path("/mnt/t"): "rw"}, pathlib.Path("/mnt/t/wd")
    )


def test_options_of_docker_create() -> None:
    made = config("--rm --network host -v /run/docker.sock:/var/run/docker.sock --volume=/w:/w -e B=2 --user 0 -m 512m --cpus 1.5 -l x=y", "python -m 'a b'")
    host = made["HostConfig"]
    assert (host["NetworkMode"], host["Memory"], host["NanoCpus"]) == ("host", 512 * 1024**2, 1_500_000_000)
    assert host["Binds"] == ["/mnt/t:/mnt/t:rw", "/run/docker.sock:/var/run/docker.sock", "/w:/w"]
    assert (made["Cmd"], made["Env"], made["User"], made["Labels"]) == (["python", "-m", "a b"], ["A=1", "B=2"], "0", {"x": "y"})
    assert (made["WorkingDir"], "Entrypoint" in made) == ("/mnt/t/wd", False)


def test_an_empty_command_line_is_the_images_own_and_options_beat_settings() -> None:
    made = config("--entrypoint /bin/sh --workdir /x")
    assert (made["Cmd"], made["Entrypoint"], made["WorkingDir"]) == (None, ["/bin/sh"], "/x")
    assert "WorkingDir" not in config(workingDirectory="containerImageDefault")


@pytest.mark.parametrize("options", ["--nonsense", "--name x", "-m lots", "'unclosed"])
def test_options_that_cannot_be_followed(options: str) -> None:
    with pytest.raises(BadOptions):
        config(options)
