"""What autoscale formulas calculate with: operators, functions, intervals, and samples of what the service has seen."""

from __future__ import annotations

import datetime
import math
import operator
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

SAMPLED = 30.0
"""seconds between two samples"""
LEVELS = (("||",), ("&&",), ("==", "!="), ("<", "<=", ">", ">="), ("+", "-"), ("*", "/"))
INTERVALS = {
    "TimeInterval_Zero": datetime.timedelta(0),
    "TimeInterval_100ns": datetime.timedelta(0),
    "TimeInterval_Microsecond": datetime.timedelta(microseconds=1),
    "TimeInterval_Millisecond": datetime.timedelta(milliseconds=1),
    "TimeInterval_Second": datetime.timedelta(seconds=1),
    "TimeInterval_Minute": datetime.timedelta(minutes=1),
    "TimeInterval_Hour": datetime.timedelta(hours=1),
    "TimeInterval_Day": datetime.timedelta(days=1),
    "TimeInterval_Week": datetime.timedelta(weeks=1),
    "TimeInterval_Year": datetime.timedelta(days=365),
}


class FormulaError(Exception):
    """A formula is wrong, or cannot be evaluated: the service's code and words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _failed(words: str) -> FormulaError:
    return FormulaError("AutoScalingFormulaEvaluationError", words)


class Sample(NamedTuple):
    """`at`: in the time of the formula's intervals."""

    at: datetime.datetime
    value: float


class Samples:
    """One metric's history, the oldest first. `now`: what the variable is where it is used without its history."""

    def __init__(self, history: Sequence[Sample], now: float | None = None) -> None:
        self._history = history
        self._now = now

    def last(self) -> float:
        if self._now is not None:
            return self._now
        if not self._history:
            raise _failed("There are no samples yet.")
        return self._history[-1].value

    def call(self, name: str, arguments: Sequence[Any], now: datetime.datetime) -> Any:
        if name == "Count":
            return float(len(self._history))
        if name == "GetSamplePeriod":
            return datetime.timedelta(seconds=SAMPLED)
        if name == "HistoryBeginTime":
            return self._history[0].at if self._history else now
        if name == "GetSamplePercent":
            begin, end = _window(arguments, now)
            wanted = max(1, int((end - begin).total_seconds() / SAMPLED))
            return min(100.0, 100.0 * len(self._between(begin, end)) / wanted)
        if name == "GetSample":
            return self._samples(arguments, now)
        raise _failed(f"There is no {name} of samples.")

    def _samples(self, arguments: Sequence[Any], now: datetime.datetime) -> list[float]:
        """A number of the newest ones, or those since then, if there are as many percent as the last argument wants."""
        if not arguments:
            raise _failed("GetSample needs an argument.")
        if isinstance(arguments[0], float):
            found = [sample.value for sample in self._history[-int(arguments[0]) :]]
        else:
            times = [one for one in arguments if isinstance(one, datetime.datetime | datetime.timedelta)]
            begin, end = _window(times, now)
            found = [sample.value for sample in self._between(begin, end)]
            least = next((one for one in arguments if isinstance(one, float)), 0.0)
            if self.call("GetSamplePercent", times, now) < least:
                raise _failed(f"There are not {least:g} % of the samples.")
        if not found:
            raise _failed("There are no samples of that time.")
        return found

    def _between(self, begin: datetime.datetime, end: datetime.datetime) -> list[Sample]:
        return [sample for sample in self._history if begin <= sample.at <= end]


def _window(arguments: Sequence[Any], now: datetime.datetime) -> tuple[datetime.datetime, datetime.datetime]:
    points = [now - one if isinstance(one, datetime.timedelta) else one for one in arguments]
    if not points or len(points) > 2 or not all(isinstance(one, datetime.datetime) for one in points):
        raise _failed("Samples are asked for by one or two times or intervals.")
    return (points[0], points[1]) if len(points) == 2 else (points[0], now)


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "&&": lambda one, other: bool(one) and bool(other),
    "||": lambda one, other: bool(one) or bool(other),
}


def operate(sign: str, left: Any, right: Any) -> Any:
    """A vector and a double: each element with it."""
    left, right = _plain(left), _plain(right)
    if isinstance(left, list) or isinstance(right, list):
        return [operate(sign, one, other) for one, other in _paired(left, right)]
    try:
        found = OPERATORS[sign](left, right)
    except (TypeError, ZeroDivisionError) as error:
        raise _failed(f"{left} {sign} {right}: {error}.") from error
    return float(found) if isinstance(found, bool) else found


def _paired(left: Any, right: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            raise _failed("Two vectors are of different length.")
        return zip(left, right, strict=True)
    return ((one, right) for one in left) if isinstance(left, list) else ((left, one) for one in right)


def negative(value: Any) -> Any:
    return operate("-", datetime.timedelta(0) if isinstance(value, datetime.timedelta) else 0.0, value)


def _plain(value: Any) -> Any:
    return value.last() if isinstance(value, Samples) else value


def _values(arguments: Iterable[Any]) -> list[Any]:
    """Doubles and vectors of them, as one vector."""
    found: list[Any] = []
    for one in map(_plain, arguments):
        found.extend(one if isinstance(one, list) else [one])
    if not found:
        raise _failed("A function of no values.")
    return found


def _of_all(calculate: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    return lambda _now, *arguments: calculate(_values(arguments))


def _of_each(calculate: Callable[[float], float]) -> Callable[..., Any]:
    def call(_now: datetime.datetime, argument: Any) -> Any:
        value = _plain(argument)
        return [calculate(one) for one in value] if isinstance(value, list) else calculate(value)

    return call


def _percentile(_now: datetime.datetime, vector: Any, percent: float) -> float:
    found = sorted(_values([vector]))
    place = (len(found) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(found) - 1)
    return float(found[low] + (found[high] - found[low]) * (place - low))


def _time(now: datetime.datetime, text: str = "") -> datetime.datetime:
    if not text:
        return now
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise _failed(f"{text} is no time.") from error
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "avg": _of_all(lambda values: sum(values) / len(values)),
    "len": _of_all(lambda values: float(len(values))),
    "lg": _of_each(math.log2),
    "ln": _of_each(math.log),
    "log": _of_each(math.log10),
    "max": _of_all(max),
    "min": _of_all(min),
    "norm": _of_all(lambda values: math.sqrt(sum(value * value for value in values))),
    "percentile": _percentile,
    "rand": lambda _now: random.random(),
    "range": _of_all(lambda values: max(values) - min(values)),
    "ceil": _of_each(lambda value: float(math.ceil(value))),
    "floor": _of_each(lambda value: float(math.floor(value))),
    "round": _of_each(lambda value: float(math.floor(value + 0.5))),
    "std": _of_all(lambda values: statistics.stdev(values) if len(values) > 1 else 0.0),
    "sum": _of_all(sum),
    "time": _time,
    "val": lambda _now, vector, index: _values([vector])[int(index)],
}
