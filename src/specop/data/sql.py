"""`transform.sql`: one SELECT over the view `rows`, checked to look at one row at a time, run without any access.

    SELECT * EXCLUDE (tools) REPLACE (regexp_replace(system, 'Today is .*', '') AS system)
    FROM rows WHERE model = 'agent' AND latency < 30

What is not on the lists below is refused, with line and column: joins, aggregates, windows, subqueries, other tables,
functions that read files, the clock or chance. So the result of a row never depends on other rows, on the hour,
or on how many at once it is run for. A projection starts from `*`: it may take `system` and `tools` out and rewrite
`system` and `prompt`. What the target answered may be judged by, never rewritten: it would no longer be its answer.

DuckDB runs it, in memory, with external access off and locked.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from specop.api import reasons
from specop.common.errors import UserError
from specop.data.formats import Exchange, Json, flat_content, reasoning

_TEXTS = pa.list_(pa.string())
VIEW = pa.schema(
    [
        ("source", pa.string()),
        ("time", pa.timestamp("us")),
        ("model", pa.string()),
        ("tenant", pa.string()),
        ("route", pa.string()),
        ("status", pa.int32()),
        ("latency", pa.float64()),
        ("roles", _TEXTS),
        ("turns", pa.int32()),
        ("system", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("reasoning", pa.string()),
        ("tools", _TEXTS),
        ("tool_calls", _TEXTS),
        ("temperature", pa.float64()),
        ("constrained", pa.bool_()),
        ("ended", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("response_tokens", pa.int32()),
        ("characters", pa.int32()),
    ]
)
"""The columns of `rows`; `docs/sql.md` says what they hold."""
_NUMBER = "_row"
_REWRITTEN = ("system", "prompt")
_LEFT_OUT = ("system", "tools")
_FUNCTIONS = frozenset(
    [
        *("abs", "ceil", "ceiling", "floor", "round", "sign", "greatest", "least", "coalesce", "ifnull", "nullif"),
        *("lower", "lcase", "upper", "ucase", "length", "len", "strlen", "trim", "ltrim", "rtrim", "left", "right"),
        *("substr", "substring", "replace", "translate", "concat", "concat_ws", "contains", "starts_with", "prefix"),
        *("ends_with", "suffix", "strpos", "instr", "position", "reverse"),
        *("regexp_matches", "regexp_full_match", "regexp_extract", "regexp_replace"),
        *("list_contains", "array_contains", "list_has", "list_has_any", "list_has_all", "list_extract"),
        *("array_length", "list_position", "date_trunc", "date_part", "datepart", "year", "month", "day", "hour"),
        *("minute", "second", "dayofweek", "epoch", "strftime", "hash", "md5", "sha256"),
    ]
)
_NODES = (
    *(exp.Select, exp.Star, exp.From, exp.Table, exp.Where, exp.Column, exp.Identifier, exp.Alias, exp.Paren),
    *(exp.Literal, exp.Boolean, exp.Null, exp.Tuple, exp.Array, exp.Bracket, exp.Slice, exp.Var, exp.Interval),
    *(exp.DataType, exp.DataTypeParam, exp.Case, exp.If, exp.Cast, exp.TryCast, exp.Extract),
    *(exp.And, exp.Or, exp.Not, exp.Neg, exp.Between, exp.In, exp.Is, exp.Like, exp.ILike, exp.Escape),
    *(exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod),
    *(exp.DPipe, exp.NullSafeEQ, exp.NullSafeNEQ, exp.SimilarTo, exp.RegexpLike, exp.RegexpFullMatch),
)
_CLAUSES = {
    "with_": ("WITH", "no common table expressions"),
    "joins": ("JOIN", "no joins"),
    "laterals": ("LATERAL", "no joins"),
    "group": ("GROUP", "no aggregates"),
    "having": ("HAVING", "no aggregates"),
    "qualify": ("QUALIFY", "no windows"),
    "windows": ("WINDOW", "no windows"),
    "distinct": ("DISTINCT", "no DISTINCT: duplicates are removed anyway"),
    "order": ("ORDER", "no order: it means nothing to a dataset"),
    "limit": ("LIMIT", "no LIMIT: set maxConversations on a source"),
    "offset": ("OFFSET", "no OFFSET"),
    "sample": ("SAMPLE", "no samples: set maxConversations on a source"),
}
_CONFIG = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "memory_limit": "256MiB",
    "threads": "1",
}


class Query:
    """A checked SELECT. Not for several threads at once."""

    def __init__(self, sql: str) -> None:
        """Check. Raises UserError SqlRefused with line and column."""
        self._sql = sql.rstrip().rstrip(";")
        select = _parsed(self._sql)
        _Check(self._sql).select(select)
        star = select.expressions[0]
        self.rewrites = bool(star.args.get("replace") or star.args.get("except_"))
        """Whether it changes rows, beside choosing some."""
        self._db = duckdb.connect(":memory:", config=_CONFIG)
        self._db.execute("set errors_as_json = true")
        self._db.execute("set lock_configuration = true")
        self._schema = VIEW.append(pa.field(_NUMBER, pa.int64()))
        self._plan()

    def keep(self, source: str, exchanges: list[Exchange]) -> dict[int, Exchange]:
        """Return the exchanges that the query keeps, as it leaves them, by their index. Raises UserError."""
        seen = [_row(source, exchange) | {_NUMBER: index} for index, exchange in enumerate(exchanges)]
        try:
            found = self._run(pa.Table.from_pylist(seen, self._schema))
        except duckdb.Error:  # it may quote a row
            message = "transform.sql fails on a row: use try_cast, and nullif before a division."
            raise UserError(reasons.SQL_REFUSED, message) from None
        return {row[_NUMBER]: _changed(exchanges[row[_NUMBER]], seen[row[_NUMBER]], row) for row in found.to_pylist()}

    def _plan(self) -> None:
        """Let DuckDB look at names and types, over no rows."""
        self._db.register("rows", self._schema.empty_table())
        try:
            self._db.execute(self._sql).fetchall()
        except duckdb.Error as error:
            raise _refused(self._sql, *_meaning(str(error))) from None
        finally:
            self._db.unregister("rows")

    def _run(self, rows: pa.Table) -> pa.Table:
        self._db.register("rows", rows)
        try:
            return self._db.sql(self._sql).to_arrow_table()
        finally:
            self._db.unregister("rows")


def _parsed(sql: str) -> exp.Select:
    try:
        found = [item for item in sqlglot.parse(sql, dialect="duckdb") if item is not None]
    except ParseError as error:
        first = error.errors[0]
        place = _offset(sql, first["line"], first["col"] - len(first["highlight"]) + 1)
        raise _refused(sql, place, "it cannot be read from here on") from None
    except SqlglotError:
        raise _refused(sql, len(sql), "a quote is not closed") from None
    if len(found) != 1 or not isinstance(found[0], exp.Select):
        raise _refused(sql, 0, "one SELECT is wanted")
    return found[0]


class _Check:
    """Refuses what is not on the lists."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._tokens = [(token.text.upper(), token.start) for token in sqlglot.tokenize(sql, dialect="duckdb")]

    def select(self, select: exp.Select) -> None:
        """Check one SELECT. Raises UserError."""
        for name, (word, said) in _CLAUSES.items():
            if select.args.get(name):
                raise _refused(self._sql, self._word(word), said)
        for node in select.walk():
            self._node(node, select)
        table = select.args["from_"].this if select.args.get("from_") else None
        if not isinstance(table, exp.Table) or table.sql().lower() != "rows":
            raise _refused(self._sql, self._word("FROM"), "FROM rows is wanted: it is the only table")
        self._projection(select.expressions)

    def _node(self, node: exp.Expr, root: exp.Select) -> None:
        place = _place(node)
        if isinstance(node, exp.Query) and node is not root:
            raise _refused(self._sql, self._word("SELECT", 1), "no subqueries")
        if isinstance(node, exp.Window):
            raise _refused(self._sql, self._word("OVER"), "no windows")
        if isinstance(node, exp.AggFunc):
            raise _refused(self._sql, self._word(node.sql_name()), "no aggregates: a row is looked at by itself")
        if isinstance(node, exp.Column) and (
            node.name.lower() not in VIEW.names or node.table.lower() not in ("", "rows")
        ):
            raise _refused(self._sql, place, f"rows has no such column; it has {', '.join(VIEW.names)}")
        if "start" in node.meta and isinstance(node, exp.Func):
            name = self._sql[node.meta["start"] : node.meta["end"] + 1].lower()
            if name not in _FUNCTIONS:
                raise _refused(self._sql, place, f"the function {name} is not allowed")
        elif not isinstance(node, _NODES):
            raise _refused(self._sql, place, "this is not allowed")

    def _projection(self, expressions: list[exp.Expr]) -> None:
        star = expressions[0]
        if len(expressions) != 1 or not isinstance(star, exp.Star):
            raise _refused(
                self._sql,
                self._word("SELECT") + len("SELECT "),
                "SELECT * is wanted, with EXCLUDE or REPLACE if need be",
            )
        for column in star.args.get("except_") or ():
            self._among(column, column.name, _LEFT_OUT, "left out")
        for alias in star.args.get("replace") or ():
            self._among(alias, alias.alias, _REWRITTEN, "rewritten")
        if star.args.get("rename"):
            raise _refused(self._sql, self._word("RENAME"), "no RENAME")

    def _among(self, node: exp.Expr, name: str, allowed: tuple[str, ...], what: str) -> None:
        if name.lower() not in allowed:
            raise _refused(self._sql, _place(node), f"only {' and '.join(allowed)} can be {what}")

    def _word(self, word: str, index: int = 0) -> int:
        """Where a keyword stands."""
        places = [place for text, place in self._tokens if text.startswith(word)]
        return places[min(index, len(places) - 1)] if places else 0


def _place(node: exp.Expr) -> int | None:
    """Where in the text a node, or the first part of it that knows, begins."""
    places = [part.meta["start"] for part in node.walk() if "start" in part.meta]
    return min(places, default=None)


def _meaning(text: str) -> tuple[int | None, str]:
    """Where DuckDB points, and the first line of what it says, which knows no row yet."""
    try:
        error = json.loads(text.partition(": ")[2])
        place = re.match(r"\[(\d+)", error.get("location", ""))
        return int(place[1]) if place else None, error["exception_message"].partition("\n")[0].rstrip(".!")
    except (ValueError, KeyError):
        return None, "it does not fit the view's columns and types"


def _offset(sql: str, line: int, column: int) -> int:
    before = sql.split("\n")[: line - 1]
    return sum(len(text) + 1 for text in before) + max(0, column - 1)


def _refused(sql: str, place: int | None, said: str) -> UserError:
    where = ""
    if place is not None:
        before = sql[:place]
        where = f", line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
    return UserError(reasons.SQL_REFUSED, f"transform.sql{where}: {said}.")


def _row(source: str, exchange: Exchange) -> Json:
    """One exchange as the view shows it."""
    request, answer = exchange.request, exchange.answer
    messages = request["messages"]
    return {
        "source": source,
        "time": exchange.time.replace(tzinfo=None) if exchange.time else None,
        "model": exchange.model or None,
        "tenant": exchange.tenant or None,
        "route": exchange.route,
        "status": exchange.status,
        "latency": exchange.latency,
        "roles": [message["role"] for message in messages],
        "turns": sum(message["role"] == "user" for message in messages),
        "system": "\n".join(_of(messages, "system")) or None,
        "prompt": next(reversed(_of(messages, "user")), None),
        "response": flat_content(answer),
        "reasoning": reasoning(answer) or None,
        "tools": [name for tool in request.get("tools") or [] if (name := _name(tool))],
        "tool_calls": [call["function"]["name"] for call in answer.get("tool_calls") or []],
        "temperature": exchange.temperature,
        "constrained": exchange.constrained,
        "ended": exchange.ended,
        "prompt_tokens": len(exchange.prompt_token_ids) or None,
        "response_tokens": len(exchange.token_ids) or None,
        "characters": sum(len(flat_content(message)) for message in (*messages, answer)),
    }


def _changed(exchange: Exchange, before: Json, after: Json) -> Exchange:
    """Return the exchange with what the query rewrote or took out."""
    request = {**exchange.request}
    messages: list[Json] = request["messages"]
    if not messages:  # a text, or tokens: there is nothing to rewrite
        return exchange
    if after.get("system") != before["system"]:
        text = after.get("system")
        head = [{"role": "system", "content": text}] if text else []
        messages = head + [message for message in messages if message["role"] != "system"]
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if users and after["prompt"] != before["prompt"]:
        last = users[-1]
        new = {**messages[last], "content": after["prompt"] or ""}
        messages = [*messages[:last], new, *messages[last + 1 :]]
    if "tools" not in after:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            request.pop(name, None)
    request["messages"] = messages
    if request == exchange.request:
        return exchange
    return replace(exchange, request=request, prompt_token_ids=(), token_ids=(), altered=True)


def _of(messages: Iterable[Json], role: str) -> list[str]:
    return [flat_content(message) for message in messages if message["role"] == role]


def _name(tool: Any) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
