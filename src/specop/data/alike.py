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
    """Statement: number the rows of some fates by age, the oldest first, as the temporary table `aged`."""
    return f"""
    create or replace temp table aged as select ordinal, fate, {", ".join(BANDS)}, sketch0, sketch1,
        row_number() over (order by time nulls last, key, ordinal) as age
    from rows where fate in ({fates}) and band0 is not null
    """  # noqa: S608 - built from constants


def _led(leads: str) -> str:
    """Query: rows of `aged` that are truly like the oldest row that leads one of their buckets, and its age."""
    bands = ", ".join(f"min(age) filter ({leads}) over (partition by {band})" for band in BANDS)
    return f"""
    select signed.ordinal, signed.fate, signed.age, min(leader.age) as shape from (
        select * exclude (firsts), unnest(firsts) as first from (
            select ordinal, fate, age, sketch0, sketch1, [{bands}] as firsts from aged
        ) as windowed
    ) as signed join aged as leader on leader.age = signed.first
    where signed.age <> leader.age and
        bit_count(xor(signed.sketch0, leader.sketch0)) + bit_count(xor(signed.sketch1, leader.sketch1)) <= {_MOST_BITS}
    group by all
    """  # noqa: S608 - built from constants


SHAPED = f"create or replace temp table shaped as {_led('true')}"
"""Statement: rows of `aged` that are like an older one, and the age of that, as the temporary table `shaped`."""
FOLLOWED = """
update shaped set shape = older.shape from shaped as older where older.age = shaped.shape and older.shape < shaped.shape
"""
"""Statement: whoever is like a row is of the shape that that row is of; to be repeated until it changes nothing."""


def beyond(fate: int) -> str:
    """Statement: give this fate to rows that are beyond the oldest `$most` of their shape."""
    return f"""
    update rows set fate = {fate} from (
        select ordinal from shaped qualify row_number() over (partition by shape order by age) >= $most
    ) as later where rows.ordinal = later.ordinal
    """  # noqa: S608 - built from constants


def seen(train: int, holdout: int) -> str:
    """Statement: mark held-out rows of `aged` that are like one to train on."""
    return f"""
    update rows set seen = true from ({_led(f"fate = {train}")}) as led
    where rows.ordinal = led.ordinal and led.fate = {holdout}
    """  # noqa: S608 - built from constants
