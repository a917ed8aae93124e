"""Which conversations are nearly the same: MinHash of five-word pieces, without system prompt and tools.

Traffic is templated: two requests with the same long system prompt have most of their words in common and nothing else.
So likeness is judged on the last user turn with the answer. Of each row the first pass keeps 40 bytes: six bands of 16
MinHash values, folded to 32 bits each, that like rows share, and a sketch of one bit of each of 128 values, which tells
true likeness from chance (Li and König, b-bit minwise hashing, section 2: at Jaccard J a bit agrees with probability
(1 + J) / 2).

Rows are compared with the oldest of each band's bucket only, so that a million equal shapes cost a million comparisons.
At J = 0.95 a pair shares a band with probability 0.97, at 0.9 with 0.71, at 0.8 with 0.16; at most seven of the bits
may differ (0.9 expects 6.4). Not exact, and deterministic: it depends on the rows alone.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from rensa import RMinHash

from specop.data.formats import Exchange, Json, flat_content, reasoning

_BANDS, _ROWS, _PERMUTATIONS = 6, 16, 128
_SHINGLE = 5
_SEED = 42
_MOST_BITS = 7
_LEADING_WORDS = 4096
"""Of each side: what comes later changes nothing that matters."""

BANDS = [f"band{index}" for index in range(_BANDS)]
COLUMNS = [*((name, pa.uint32()) for name in BANDS), ("sketch0", pa.int64()), ("sketch1", pa.int64())]
"""Of each row of the first pass: 40 bytes."""
Signature = Sequence[int]
"""One value a column."""


def signature(exchange: Exchange) -> Signature:
    """Sign what is said last and the answer to it."""
    if exchange.written:
        return exchange.written.likeness
    minhash = RMinHash(_PERMUTATIONS, _SEED)
    minhash.update(_shingles(exchange))
    values = np.array(minhash.digest(), "<u4")
    data = values.tobytes()
    width = 4 * _ROWS
    bands = [
        int.from_bytes(blake2b(data[at : at + width], digest_size=4).digest()) for at in range(0, _BANDS * width, width)
    ]
    return [*bands, *np.packbits((values & 1).astype(np.uint8)).view("<i8").tolist()]


def _shingles(exchange: Exchange) -> list[str]:
    if exchange.spans:
        words = list(map(str, exchange.token_ids[: 2 * _LEADING_WORDS]))
    else:
        messages = exchange.request["messages"]
        asked = next((flat_content(message) for message in reversed(messages) if message["role"] == "user"), "")
        words = [*_words(asked), "\0", *_words(exchange.text or _said(exchange.answer))]
    if len(words) < _SHINGLE:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[index:] for index in range(_SHINGLE)), strict=False)))


def _words(text: str) -> list[str]:
    return text[: 16 * _LEADING_WORDS].lower().split()[:_LEADING_WORDS]


def _said(answer: Json) -> str:
    calls = (call["function"] for call in answer.get("tool_calls") or [])
    return "\n".join(
        [reasoning(answer), flat_content(answer), *(f"{call['name']} {call.get('arguments')}" for call in calls)]
    )


def aged(fates: str) -> str:
    """Statement: number the rows of some fates by age, the oldest first, as the table `aged`."""
    return f"""
    create or replace table aged as select ordinal, fate, {", ".join(BANDS)}, sketch0, sketch1,
        row_number() over (order by time nulls last, key, ordinal) as age
    from rows where fate in ({fates}) and band0 is not null
    """  # noqa: S608 - built from constants


def _led(band: str, leads: str, follows: str, least: int) -> str:
    """Query: rows of `aged` that are truly like the oldest row that leads their bucket of one band, and its age.

    A statement a band, each of which can be done with little memory: an aggregate and a join, both of which spill.
    """
    return f"""
    select ordinal, fate, age, first as shape from aged join (
        select {band} as bucket, min(age) as first, arg_min(sketch0, age) as left0, arg_min(sketch1, age) as left1
        from aged where {leads} group by all having count(*) >= {least}
    ) on {band} = bucket
    where {follows} and age <> first and
        bit_count(xor(sketch0, left0)) + bit_count(xor(sketch1, left1)) <= {_MOST_BITS}
    """  # noqa: S608 - built from constants


def _all_led(leads: str = "true", follows: str = "true", least: int = 2) -> list[str]:
    """Statements: rows of `aged` that are like one that leads them, and the age of the oldest, as table `shaped`."""
    return [
        "create or replace table pairs (ordinal bigint, fate utinyint, age bigint, shape bigint)",
        *(f"insert into pairs {_led(band, leads, follows, least)}" for band in BANDS),
        "create or replace table shaped as select ordinal, fate, age, min(shape) as shape from pairs group by all",
        "drop table pairs",
    ]


SHAPED = _all_led()
"""Statements: rows of `aged` that are like an older one, and the age of that, as the table `shaped`."""
LEADERS = """
create or replace table leaders as select age, shape from shaped where age in (select distinct shape from shaped)
"""
"""Statement: rows of `shaped` that others are like, as the table `leaders`: few."""
FOLLOW = [
    """
    create or replace table followed as select ordinal, fate, shaped.age, coalesce(older.shape, shaped.shape) as shape
    from shaped left join leaders as older on older.age = shaped.shape
    """,  # an update would hold all rows that it changes in memory
    "drop table shaped",
    "alter table followed rename to shaped",
]
"""Statements: whoever is like one of `leaders` is of the shape that that one is of; until there are none."""


def beyond(fate: int) -> str:
    """Query: rows that are beyond the oldest `$most` of their shape, and this fate as their value."""
    return f"""
    select ordinal, {fate} as value from shaped
    qualify row_number() over (partition by shape order by age) >= $most
    """  # noqa: S608 - built from constants


def like_held(train: int, holdout: int) -> list[str]:
    """Statements: held-out rows of `aged` that are like one to train on, as the table `shaped`."""
    return _all_led(f"fate = {train}", f"fate = {holdout}", 1)


SEEN = "select ordinal, true as value from shaped"
"""Query: the rows of `shaped`, and that they are seen."""
