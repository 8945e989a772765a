"""The language of autoscale formulas: statements `name = expression;` over doubles, vectors of doubles, strings, times and intervals."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.emulators.azure_batch import formula_functions
from tests.emulators.azure_batch.formula_functions import FormulaError, Samples

LONGEST = 8 * 1024
"""characters"""
MOST = 100
"""statements"""
TARGETS = {
    "$TargetDedicatedNodes": "$TargetDedicatedNodes",
    "$TargetDedicated": "$TargetDedicatedNodes",
    "$TargetLowPriorityNodes": "$TargetLowPriorityNodes",
    "$TargetLowPriority": "$TargetLowPriorityNodes",
}
OPTION = "$NodeDeallocationOption"
OPTIONS = ("requeue", "terminate", "taskcompletion", "retaineddata")
TOKEN = re.compile(
    r"(?P<space>\s+|/\*.*?\*/|//[^\n]*)|(?P<number>\d+(?:\.\d+)?)|(?P<name>\$?[A-Za-z_]\w*)|\"(?P<text>[^\"]*)\"|(?P<sign>&&|\|\||[<>=!]=|[-+*/<>=!?:;(),.])",
    re.DOTALL,
)
Expression = Callable[["Scope"], Any]
Scope = dict[str, Any]


def evaluate(formula: str, variables: Mapping[str, Any], now: datetime.datetime) -> Scope:
    """All variables after the formula has run. `variables`: what the service defines; FormulaError: it is wrong, or cannot be evaluated."""
    if len(formula) > LONGEST:
        raise FormulaError("AutoScalingFormulaTooLong", "The specified auto-scaling formula exceeds lengths limit.")
    statements = _Parser(formula).statements()
    scope: Scope = {**variables, "time()": now}
    own: Scope = {}
    for given, expression in statements:
        name = TARGETS.get(given, given)
        if name.startswith("$") and name not in (*TARGETS.values(), OPTION):
            raise FormulaError("AutoScalingFormulaEvaluationError", f"{name} cannot be assigned to.")
        try:
            value = expression({**scope, **own})
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            raise FormulaError("AutoScalingFormulaEvaluationError", f"{name}: {error}.") from error
        if name == OPTION and value not in OPTIONS:
            raise FormulaError("AutoScalingFormulaEvaluationError", f"{OPTION} cannot be {value}.")
        if name in TARGETS.values():
            value = float(int(max(0.0, _number(value))))
        own[name] = value
    return own


def results(own: Scope) -> str:
    """As AutoScaleRun tells of them."""
    return ";".join(f"{name}={_written(value)}" for name, value in own.items())


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else str(int(value))
    if isinstance(value, list):
        return "[" + ",".join(_written(one) for one in value) + "]"
    return str(value)


def _number(value: Any) -> float:
    """A vector of one is a double, too."""
    if isinstance(value, Samples):
        return value.last()
    if isinstance(value, list) and len(value) == 1:
        return float(value[0])
    if isinstance(value, bool | int | float):
        return float(value)
    raise FormulaError("AutoScalingFormulaEvaluationError", f"{_written(value)} is no double.")


class _Parser:
    """? : below || below && below comparisons below + - below * / below - ! below calls."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            token = TOKEN.match(text, at)
            if token is None:
                raise _syntax(f"unexpected {text[at]!r}")
            assert token.lastgroup is not None
            if token.lastgroup != "space":
                self._tokens.append((token.lastgroup, token[token.lastgroup]))
            at = token.end()
        self._at = 0

    def statements(self) -> list[tuple[str, Expression]]:
        found: list[tuple[str, Expression]] = []
        while self._at < len(self._tokens):
            kind, name = self._take()
            if kind != "name":
                raise _syntax(f"unexpected {name}")
            self._expect("=")
            found.append((name, self._ternary()))
            if self._at < len(self._tokens):
                self._expect(";")
        if not 0 < len(found) <= MOST:
            raise _syntax(f"there must be between 1 and {MOST} statements")
        return found

    def _take(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise _syntax("unexpected end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, sign: str) -> None:
        if (found := self._take()) != ("sign", sign):
            raise _syntax(f"expected {sign}, not {found[1]}")

    def _sees(self, *signs: str) -> str:
        if self._at < len(self._tokens) and self._tokens[self._at][0] == "sign" and self._tokens[self._at][1] in signs:
            self._at += 1
            return self._tokens[self._at - 1][1]
        return ""

    def _ternary(self) -> Expression:
        test = self._binary(0)
        if not self._sees("?"):
            return test
        then = self._ternary()
        self._expect(":")
        other = self._ternary()
        return lambda scope: then(scope) if _number(test(scope)) else other(scope)

    def _binary(self, level: int) -> Expression:
        if level == len(formula_functions.LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while sign := self._sees(*formula_functions.LEVELS[level]):
            left = _applied(sign, left, self._binary(level + 1))
        return left

    def _unary(self) -> Expression:
        if self._sees("-"):
            inner = self._unary()
            return lambda scope: formula_functions.negative(inner(scope))
        if self._sees("!"):
            inner = self._unary()
            return lambda scope: 0.0 if _number(inner(scope)) else 1.0
        return self._postfix()

    def _postfix(self) -> Expression:
        found = self._primary()
        while self._sees("."):
            kind, name = self._take()
            if kind != "name":
                raise _syntax(f"unexpected {name}")
            self._expect("(")
            found = _method(name, found, self._arguments())
        return found

    def _primary(self) -> Expression:
        kind, text = self._take()
        if kind == "number":
            return lambda _: float(text)
        if kind == "text":
            return lambda _: text
        if (kind, text) == ("sign", "("):
            inner = self._ternary()
            self._expect(")")
            return inner
        if kind != "name":
            raise _syntax(f"unexpected {text}")
        if self._sees("("):
            return _call(text, self._arguments())
        return lambda scope: _variable(scope, text)

    def _arguments(self) -> list[Expression]:
        found: list[Expression] = []
        if self._sees(")"):
            return found
        while True:
            found.append(self._ternary())
            if self._sees(")"):
                return found
            self._expect(",")


def _syntax(words: str) -> FormulaError:
    return FormulaError("AutoScalingFormulaSyntaxError", f"The specified auto-scaling formula has a syntax error: {words}.")


def _variable(scope: Scope, name: str) -> Any:
    name = TARGETS.get(name, name)
    if name in scope:
        return scope[name]
    if name in OPTIONS:
        return name
    if name in formula_functions.INTERVALS:
        return formula_functions.INTERVALS[name]
    raise FormulaError("AutoScalingFormulaEvaluationError", f"The variable {name} is not defined.")


def _applied(sign: str, left: Expression, right: Expression) -> Expression:
    return lambda scope: formula_functions.operate(sign, left(scope), right(scope))


def _method(name: str, target: Expression, arguments: list[Expression]) -> Expression:
    def call(scope: Scope) -> Any:
        samples = target(scope)
        if not isinstance(samples, Samples):
            raise FormulaError("AutoScalingFormulaEvaluationError", f"{name} is asked of something that has no samples.")
        return samples.call(name, [argument(scope) for argument in arguments], scope["time()"])

    return call


def _call(name: str, arguments: list[Expression]) -> Expression:
    if name not in formula_functions.FUNCTIONS:
        raise _syntax(f"there is no function {name}")
    return lambda scope: formula_functions.FUNCTIONS[name](scope["time()"], *(argument(scope) for argument in arguments))
