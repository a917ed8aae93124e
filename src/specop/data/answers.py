"""Asks the target anew, between the passes, and keeps what it says until the dataset is published.

Only lines that are kept are asked, many at a time, over an OpenAI API. Answers go to a table on disk, and in parts to
the output's storage, so that a pod that takes over asks only what is still open; nothing is stored that privacy has
not seen. The requests carry `X-Specop-No-Train`, so that an endpoint does not take them for its users'.

Races: two attempts may ask the same; the answer that is read first counts. A part is one object under a name of its
content: it is there whole, or not.
"""

import gzip
import hashlib
import json
import logging
import sqlite3
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Self

import urllib3

from specop.api import reasons
from specop.api.jobs import DatasetConfig, RegenerateConfig
from specop.common.errors import SpecopError, Unreachable, UserError
from specop.data.formats import Exchange, Fate, Json, Unusable
from specop.data.intake import Intake
from specop.data.question import Ask, Question, answer, refused, to_json
from specop.storage.base import Store
from specop.storage.job import Job
from specop.storage.uri import join

log = logging.getLogger(__name__)

_PART_ANSWERS, _PART_SECONDS = 256, 30.0
"""At most so much is asked again after a pod was struck down."""
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 600.0
_OK, _TIMEOUT, _TOO_MANY, _REDIRECT, _SERVER_ERROR = 200, 408, 429, 300, 500
_NOT_FOR_US = (401, 403, 404, 405)
_NO_TRAIN = "X-Specop-No-Train"


class TargetUnreachable(Unreachable):
    """The target's API did not answer, or only with errors of its own."""

    reason = reasons.TARGET_UNREACHABLE


class Answers:
    """What the target said, by line. Use with `with`; not for several threads."""

    def __init__(self, folder: Path, store: Store, prefix: str) -> None:
        """Keep answers in `folder`, and under `prefix` of the store."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "answers.sqlite"
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("pragma journal_mode = off")
        self._db.execute("pragma synchronous = off")  # storage holds what has to last
        self._db.execute("create table answers (key blob primary key, data blob) without rowid")
        self._db.execute("create table lines (ordinal integer primary key, key blob)")
        self._store, self._prefix = store, prefix
        self._waiting: list[tuple[bytes, bytes]] = []
        self._asked = False
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def __call__(self, ordinal: int) -> bytes | None:
        """Return the answer to a line (`question.to_json`, `question.refused`); None where it was not asked."""
        query = "select data from lines join answers using (key) where ordinal = ?"
        found: tuple[bytes] | None = self._db.execute(query, (ordinal,)).fetchone()
        return found[0] if found else None

    def recover(self) -> None:
        """Take up what an earlier attempt has stored, before anything is asked. Raises what the store raises."""
        self._asked = True
        for info in self._store.list(f"{self._prefix}/"):
            for line in gzip.decompress(self._store.get(info.uri)).splitlines():
                key, data = map(b64decode, line.split())
                self._insert(key, data)

    def expects(self, question: Question) -> bool:
        """Take note of a question; whether it is still to be asked."""
        self._db.execute("insert into lines values (?, ?)", (question.ordinal, question.key))
        return not self._db.execute("select 1 from answers where key = ?", (question.key,)).fetchone()

    def add(self, question: Question, data: bytes) -> None:
        """Take in an answer."""
        self._insert(question.key, data)
        self._waiting.append((question.key, data))
        if len(self._waiting) >= _PART_ANSWERS or time.monotonic() > self._flushed + _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what is not stored yet."""
        if self._waiting:
            text = b"".join(b"%b %b\n" % (b64encode(key), b64encode(data)) for key, data in self._waiting)
            name = hashlib.sha256(text).hexdigest()[:32]
            self._store.put(join(self._prefix, f"{name}.gz"), gzip.compress(text, mtime=0))
        self._waiting, self._flushed = [], time.monotonic()

    def forget(self) -> None:
        """Remove from storage what the dataset now holds. What cannot be removed stays, and does no harm."""
        try:
            for info in self._store.list(f"{self._prefix}/") if self._asked else ():
                self._store.delete(info.uri)
        except SpecopError as error:
            log.warning("answers are left under %s: %s", self._prefix, error)

    def _insert(self, key: bytes, data: bytes) -> None:
        self._db.execute("insert or ignore into answers values (?, ?)", (key, data))


class Target:
    """The target's API. Safe from several threads."""

    def __init__(self, config: RegenerateConfig, key: str | None, job: Job[DatasetConfig]) -> None:
        self._url = f"{config.url.rstrip('/')}/chat/completions"
        self._model = config.model
        self._job = job
        self._pool = urllib3.PoolManager(
            maxsize=config.concurrency,
            retries=False,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            headers={
                "Content-Type": "application/json",
                _NO_TRAIN: "1",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
        )

    def ask(self, body: Json) -> Json:
        """Ask until there is an answer.

        Raises Unusable (the target refuses this request), UserError RegenerationRefused (it refuses all of them),
        TargetUnreachable after `storage.job.PATIENCE_SECONDS`, Preempted.
        """
        data = json.dumps({**body, "model": self._model}, ensure_ascii=False).encode()
        return self._job.patiently(lambda: self._once(data))

    def _once(self, data: bytes) -> Json:
        try:
            response = self._pool.request("POST", self._url, body=data, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise TargetUnreachable(f"{self._url} does not answer: {type(error).__name__}.") from None
        status = response.status
        if status == _OK:
            return self._parsed(response.data)
        if status in (_TIMEOUT, _TOO_MANY) or status >= _SERVER_ERROR:
            raise TargetUnreachable(f"{self._url} answers with {status}.")
        if status in _NOT_FOR_US or status // 100 == _REDIRECT // 100:
            raise UserError(
                reasons.REGENERATION_REFUSED,
                f"{self._url} answers with {status}: check regenerate.url, that {self._model} is served there, and the "
                "key.",
            )
        raise Unusable(Fate.UNANSWERED, f"the target refuses to answer, with {status}")

    def _parsed(self, data: bytes) -> Json:
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise TargetUnreachable(f"{self._url} answers with what is no JSON object.")
        return found


def ask_all(
    config: RegenerateConfig,
    questions: Iterable[Question],
    answers: Answers,
    ask: Ask,
    *,
    intake: Intake,
    done: Callable[[int], None],
) -> None:
    """Ask what is still open, `config.concurrency` at a time; what has been answered is kept, however this ends.

    `done` is told of questions that are done, about every second at least, and may raise. Raises what `ask` raises.
    """
    running: dict[Future[Exchange], Question] = {}

    def collect() -> None:
        ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in ended:
            question = running.pop(future)
            try:
                taken = intake.answered(question.exchange, future.result(), question.key)
                data = to_json(taken.exchange, taken.entities)
            except Unusable as why:
                data = refused(why)
            answers.add(question, data)
        done(len(ended))

    pool = ThreadPoolExecutor(config.concurrency, "ask")
    try:
        for question in questions:
            if not answers.expects(question):
                done(1)
                continue
            running[pool.submit(answer, question.exchange, ask, config.max_tokens)] = question
            while len(running) >= config.concurrency:
                collect()
        while running:
            collect()
    finally:
        pool.shutdown(cancel_futures=True)
        answers.flush()
