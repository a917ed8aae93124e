"""`transform.sql`: what it sees and leaves, and that nothing but a row-wise SELECT is run, whoever writes it."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.api import reasons
from specop.common.errors import UserError
from specop.data.formats import Exchange
from specop.data.sql import VIEW, Query
from tests.conftest import ROOT

TOOL = {"type": "function", "function": {"name": "find"}}
CALL = {"id": "1", "function": {"name": "find", "arguments": "{}"}}


def exchange(prompt: str = "Hi", answer: str = "Hello", **more: Any) -> Exchange:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "before"},
        {"role": "assistant", "content": "then"},
        {"role": "user", "content": [{"type": "text", "text": prompt}]},
    ]
    request = {"messages": messages, "tools": [TOOL], "tool_choice": "required", "temperature": 0.5}
    defaults = {"prompt_token_ids": (1, 2), "token_ids": (3,), "model": "agent", "latency": 1.5}
    time = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    return Exchange(request, {"role": "assistant", "content": answer}, time=time, **{**defaults, **more})


def kept(where: str, *exchanges: Exchange) -> list[int]:
    return sorted(Query(f"SELECT * FROM rows WHERE {where}").keep("log", list(exchanges)))


@pytest.mark.parametrize(
    "where",
    [
        "source = 'log' AND model = 'agent' AND tenant IS NULL AND route = '/v1/chat/completions' AND status = 200",
        "time > TIMESTAMP '2026-01-02 03:04:05' AND date_trunc('day', time) = DATE '2026-01-02' AND year(time) = 2026",
        "latency BETWEEN 1 AND 2 AND roles = ['system', 'user', 'assistant', 'user'] AND turns = 2",
        "roles[1] = 'system' AND 'user' IN roles AND list_contains(tools, 'find') AND len(tool_calls) = 0",
        "system = 'Be kind.' AND prompt = 'Hi' AND response = 'Hello' AND reasoning IS NULL",
        "temperature = 0.5 AND constrained AND ended AND prompt_tokens = 2 AND response_tokens = 1 AND characters = 25",
        "regexp_matches(prompt, '^H.$') AND prompt ILIKE 'h_' AND contains(lower(response), 'ell') AND prompt[1:1]='H'",
        "CASE WHEN turns > 1 THEN true ELSE false END AND coalesce(tenant, 'x') || 'y' = 'xy' AND NOT (turns * 2 = 3)",
        "try_cast(prompt AS INTEGER) IS NULL AND status IN (200, 201) AND extract('hour' FROM time) = 3",
    ],
)
def test_what_a_row_shows(where: str) -> None:
    assert kept(where, exchange()) == [0]
    assert kept(f"NOT ({where})", exchange()) == []


def test_a_called_tool_and_reasoning_are_shown() -> None:
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"}
    called = replace(exchange(), answer=answer, time=None)
    assert kept("tool_calls = ['find'] AND reasoning = 'hm' AND response = '' AND time IS NULL", called) == [0]


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(0, 9))
def test_those_that_it_keeps_are_the_same_as_ever(numbers: list[int], least: int) -> None:
    rows = [exchange(str(number)) for number in numbers]
    found = Query(f"select * from rows where cast(prompt as integer) >= {least}").keep("log", rows)
    assert sorted(found) == [index for index, number in enumerate(numbers) if number >= least]
    assert all(row is rows[index] for index, row in found.items())


def test_rewritten_prompts_lose_their_logged_tokens() -> None:
    query = Query(
        "SELECT * EXCLUDE (tools) REPLACE (upper(prompt) AS prompt, nullif(system, 'Be kind.') AS system) FROM rows"
    )
    assert query.rewrites
    (found,) = query.keep("log", [exchange()]).values()
    assert [message["content"] for message in found.request["messages"]] == ["before", "then", "HI"]
    assert not {"tools", "tool_choice"} & set(found.request)
    assert (found.prompt_token_ids, found.token_ids, found.altered) == ((), (), True)
    assert found.answer == exchange().answer
    (other,) = Query("SELECT * REPLACE (system || ' Always.' AS system) FROM rows;").keep("log", [exchange()]).values()
    assert other.request["messages"][0] == {"role": "system", "content": "Be kind. Always."}
    (without,) = Query("SELECT * EXCLUDE (system) FROM rows").keep("log", [exchange()]).values()
    assert without.request["messages"][0]["role"] == "user"


REFUSED = {
    "SELECT * FROM rows JOIN rows AS other ON true": "column 20: no joins",
    "SELECT * FROM rows, rows AS other": "no joins",
    "SELECT count(*) FROM rows": "no aggregates",
    "SELECT * FROM rows WHERE max(turns) = 1": "column 26: no aggregates",
    "SELECT * FROM rows WHERE row_number() OVER () = 1": "no windows",
    "SELECT * FROM rows QUALIFY true": "no windows",
    "SELECT * FROM rows GROUP BY turns": "column 20: no aggregates",
    "SELECT *\nFROM rows\nWHERE prompt IN (SELECT prompt FROM rows)": "line 3, column 18: no subqueries",
    "SELECT * FROM (SELECT * FROM rows)": "no subqueries",
    "WITH x AS (SELECT 1) SELECT * FROM rows": "column 1: no common table expressions",
    "SELECT * FROM rows UNION ALL SELECT * FROM rows": "one SELECT is wanted",
    "SELECT * FROM rows; SELECT * FROM rows": "one SELECT is wanted",
    "SELECT * FROM other": "FROM rows is wanted",
    "SELECT * FROM 'secrets.parquet'": "FROM rows is wanted",
    "SELECT * FROM main.rows": "FROM rows is wanted",
    "SELECT *": "FROM rows is wanted",
    "SELECT * FROM read_csv('/etc/passwd')": "column 15: the function read_csv is not allowed",
    "SELECT * FROM rows WHERE read_text('/etc/passwd') = ''": "column 26: the function read_text is not allowed",
    "SELECT * FROM rows WHERE getenv('HOME') = ''": "the function getenv is not allowed",
    "SELECT * FROM rows WHERE random() < 0.5": "the function random is not allowed",
    "SELECT * FROM rows WHERE time < now()": "the function now is not allowed",
    "SELECT * FROM rows WHERE time < current_date": "this is not allowed",
    "SELECT * FROM rows WHERE unnest(roles) = 'user'": "the function unnest is not allowed",
    "SELECT * FROM rows WHERE list_filter(roles, x -> x = 'user') = roles": "the function list_filter is not allowed",
    "SELECT * FROM rows WHERE repeat(prompt, 1000000000) = ''": "the function repeat is not allowed",
    "SELECT * FROM rows WHERE secret = 1": "column 26: rows has no such column",
    "SELECT * FROM rows WHERE _row = 1": "rows has no such column",
    "SELECT * FROM rows WHERE $1 = 1": "not allowed",
    "SELECT prompt FROM rows": "column 8: SELECT * is wanted",
    "SELECT *, 1 AS x FROM rows": "SELECT * is wanted",
    "SELECT DISTINCT * FROM rows": "column 8: no DISTINCT",
    "SELECT * FROM rows ORDER BY prompt": "column 20: no order",
    "SELECT * FROM rows LIMIT 1": "column 20: no LIMIT",
    "SELECT * FROM rows USING SAMPLE 1": "no samples",
    "SELECT * FROM rows TABLESAMPLE 10%": "not allowed",
    "SELECT * EXCLUDE (response) FROM rows": "column 19: only system and tools can be left out",
    "SELECT * REPLACE ('x' AS response) FROM rows": "only system and prompt can be rewritten",
    "SELECT COLUMNS('p.*') FROM rows": "not allowed",
    "SELECT * FROM rows WHERE prompt =": "cannot be read",
    "SELECT *\nFROM rows\nWHERE (prompt = 'x'": "line 3",
    "SELECT * FROM rows WHERE prompt = 'x": "a quote is not closed",
    "SELECT * FROM rows WHERE turns": None,
    "SELECT * FROM rows WHERE\nprompt + 1 = turns": "line 2, column 8: No function matches",
    "INSTALL httpfs": "one SELECT is wanted",
    "COPY rows TO '/tmp/x'": "one SELECT is wanted",
    "PRAGMA database_list": "one SELECT is wanted",
    "ATTACH '/tmp/x.db'": "one SELECT is wanted",
    "DROP TABLE rows": "one SELECT is wanted",
    "": "one SELECT is wanted",
}


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_refused(sql: str) -> None:
    expected = REFUSED[sql]
    if expected is None:
        Query(sql)
        return
    with pytest.raises(UserError) as caught:
        Query(sql)
    assert caught.value.reason == reasons.SQL_REFUSED
    assert caught.value.message.startswith("transform.sql")
    assert expected in caught.value.message


def test_what_fails_on_a_row_quotes_none() -> None:
    query = Query("SELECT * FROM rows WHERE cast(prompt AS integer) = 1")
    with pytest.raises(UserError) as caught:
        query.keep("log", [exchange("secret")])
    assert (caught.value.reason, "secret" in str(caught.value)) == (reasons.SQL_REFUSED, False)
    assert caught.value.__cause__ is None
    assert sorted(query.keep("log", [exchange("1")])) == [0]  # it goes on


def test_nothing_outside_can_be_reached() -> None:
    database = Query("SELECT * FROM rows")._db
    for sql in ("SELECT * FROM read_text('/etc/hostname')", "SET enable_external_access = true", "INSTALL httpfs"):
        with pytest.raises(Exception, match=r"(?i)permission|disabled|locked"):
            database.execute(sql)


def test_the_page_names_every_column() -> None:
    page = (ROOT / "docs" / "sql.md").read_text()
    named = [name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert named == VIEW.names
