"""Languages of conversations: real sentences, and what says nothing of a language and must stay."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from specop.api.quality import LANGUAGES
from specop.data import main, memory
from specop.data.formats import Exchange, Fate, Unusable
from specop.data.languages import _MEMBERS, MOST, UNKNOWN, Languages, prose
from specop.data.memory import Room
from tests.data.world import World, capture, messages

SENTENCES = {
    "de": (
        "Wie lange dauert der Versand?",
        "Die Lieferung dauert in der Regel zwei bis drei Werktage, im Ausland länger.",
    ),
    "en": ("How long does shipping take?", "Delivery usually takes two to three working days, and longer abroad."),
    "fr": ("Combien de temps dure la livraison ?", "La livraison prend en général deux à trois jours ouvrables."),
    "es": ("¿Cuánto tarda el envío?", "La entrega suele tardar de dos a tres días laborables, y más en el extranjero."),
    "ja": (
        "配送にはどのくらいかかりますか。",
        "通常は二日から三日ほどで届きますが、海外の場合はもう少し時間がかかります。",
    ),
    "uk": ("Скільки триває доставка?", "Зазвичай доставка триває два або три робочі дні, за кордон довше."),  # noqa: RUF001
    "hi": ("डिलीवरी में कितना समय लगता है?", "आमतौर पर डिलीवरी में दो से तीन कार्य दिवस लगते हैं।"),
    "ar": ("كم يستغرق الشحن؟", "عادة ما يستغرق التوصيل من يومين إلى ثلاثة أيام عمل، وأكثر من ذلك في الخارج."),
}
PYTHON = '''import collections

def count_words(lines):
    """Return how often each word occurs."""
    counts = collections.Counter()
    for line in lines:
        counts.update(line.split())
    return counts
'''
JAVASCRIPT = """function debounce(fn, wait) {
  let timer = null;
  return function (...args) {
    clearTimeout(timer);
    timer = setTimeout(() => fn.apply(this, args), wait);
  };
}
module.exports = { debounce };"""
GO = """func (s *Server) Handle(w http.ResponseWriter, r *http.Request) {
\tif r.Method != http.MethodPost {
\t\thttp.Error(w, "method not allowed", http.StatusMethodNotAllowed)
\t\treturn
\t}
}"""
SQL = """SELECT customer.name, SUM(orders.total) AS total
FROM customer JOIN orders ON orders.customer_id = customer.id
WHERE orders.created > '2026-01-01'
GROUP BY customer.name ORDER BY total DESC LIMIT 10;"""
SHELL = """$ kubectl get pods -n team-a
NAME                READY   STATUS    RESTARTS   AGE
agent-base-7d9c-1   2/2     Running   0          3h
$ kubectl rollout status deployment/agent-base"""
LOG = """2026-01-01T00:00:00Z INFO reconcile finished kind=Deployment name=agent duration=0.12s
2026-01-01T00:00:01Z WARN will be tried again attempt=2 error=timeout"""
CALL = json.dumps({"name": "get_weather", "arguments": {"city": "Berlin", "unit": "celsius", "days": 3}})
PRETTY = json.dumps([{"summary": "The customer is satisfied with the delivery.", "mood": "positive"}] * 3, indent=2)
BLOB = "aGVsbG8gd29ybGQgdGhpcyBpcyBhIHRlc3Qgb2YgYmFzZTY0IGVuY29kaW5n" * 4


def exchange(prompt: str, answer: str, **more: Any) -> Exchange:
    return Exchange({"messages": messages(prompt)}, {"role": "assistant", "content": answer}, **more)


@pytest.fixture(scope="module")
def apart() -> dict[str, Languages]:
    return {code: Languages([code]) for code in ("de", "en", "ja", "pt", "zh")}


@pytest.mark.parametrize("code", SENTENCES)
def test_what_is_wanted_stays_and_what_is_not_goes(code: str) -> None:
    subject = Languages([code, "sw"])
    assert subject.of(exchange(*SENTENCES[code])) == code
    for other in SENTENCES.keys() - {code}:
        with pytest.raises(Unusable, match=f"written in {other}, which is not among quality.languages") as caught:
            subject.of(exchange(*SENTENCES[other]))
        assert caught.value.fate is Fate.UNFIT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "OK",
        "Thanks!",
        "Yes, please.",
        "Hello",
        "Merci beaucoup",
        "42",
        "3.14 %",
        "はい。",
        "Angela Merkel",
        "👍👍👍",
    ],
)
def test_a_text_too_short_to_tell_stays(text: str, apart: dict[str, Languages]) -> None:
    assert {code: subject.of(exchange(text, text or "?")) for code, subject in apart.items()} == dict.fromkeys(
        apart, UNKNOWN
    )


@pytest.mark.parametrize(
    "text",
    [
        PYTHON,
        JAVASCRIPT,
        GO,
        SQL,
        SHELL,
        LOG,
        CALL,
        PRETTY,
        PRETTY[:-40],
        BLOB,
        f"```python\n{PYTHON}```",
        f"~~~\n{PYTHON}",
    ],
    ids=["python", "javascript", "go", "sql", "shell", "log", "call", "pretty", "cut", "blob", "fenced", "open fence"],
)
def test_code_and_data_stay_and_leave_the_word_to_the_question(text: str, apart: dict[str, Languages]) -> None:
    assert apart["ja"].of(exchange("?", text)) == UNKNOWN
    assert apart["ja"].of(exchange(text, "はい。")) == UNKNOWN
    question = "Wie würdest du das ohne weitere Bibliotheken schreiben?"
    assert apart["de"].of(exchange(question, text)) == "de"
    with pytest.raises(Unusable, match="written in de"):
        apart["ja"].of(exchange(question, text))


def test_code_between_words_is_not_counted(apart: dict[str, Languages]) -> None:
    words = "Das geht mit einem Zähler, und `count_words` gibt ihn zurück"
    answer = f"{words}:\n\n```python\n{PYTHON}```\nMehr braucht es nicht."
    assert apart["de"].of(exchange("?", answer)) == "de"
    assert "Counter" not in prose(answer)


def test_the_answer_decides_where_it_says_enough(apart: dict[str, Languages]) -> None:
    translation = exchange(f"Übersetze ins Englische: {SENTENCES['de'][1]}", SENTENCES["en"][1])
    assert apart["en"].of(translation) == "en"
    with pytest.raises(Unusable, match="written in en"):
        apart["de"].of(translation)
    assert apart["de"].of(exchange(SENTENCES["de"][1], "Genau.")) == "de"


def test_close_kin_is_not_ruled_out(apart: dict[str, Languages]) -> None:
    assert apart["pt"].of(exchange("?", "Londres é a maior cidade do Reino Unido")) in {"pt", UNKNOWN}
    cantonese = "我哋聽日去邊度食飯好呢?不如去嗰間新開嘅茶餐廳啦,聽講啲嘢好好食,又唔貴。"
    assert apart["zh"].of(exchange("?", cantonese)) == "zh"


def test_a_text_and_tokens(apart: dict[str, Languages]) -> None:
    assert apart["de"].of(Exchange({"messages": []}, {}, text=SENTENCES["de"][1])) == "de"
    with pytest.raises(Unusable):
        apart["de"].of(Exchange({"messages": []}, {}, text=SENTENCES["en"][1]))
    assert apart["de"].of(Exchange({"messages": []}, {}, token_ids=(1, 2), spans=((0, 2),))) == UNKNOWN


def test_reasoning_in_another_language_counts_for_nothing(apart: dict[str, Languages]) -> None:
    thought = exchange(*SENTENCES["de"])
    thought.answer["reasoning"] = SENTENCES["en"][1] * 20
    assert apart["de"].of(thought) == "de"


@given(st.text(max_size=300))
def test_prose_is_a_part_of_any_text(text: str) -> None:
    words = prose(text)
    assert len(words) <= MOST
    assert set(words) <= {*text, " ", "\n"}


@pytest.mark.parametrize("piece", ["a", "a ", "<a", "`", "```", "a_", "aB", "a@", "x(", "{", "= ", "a:\n", "http://"])
def test_no_text_takes_long(piece: str) -> None:
    began = time.process_time()
    prose(piece * 100_000)
    assert time.process_time() - began < 1


def test_the_codes_that_users_may_write_are_those_that_are_told_apart() -> None:
    labels = set(LanguageIdentifier.from_model_file(MODEL_FILE).labels)
    assert LANGUAGES.split() == sorted(label for label in labels if len(label) == 2)
    assert _MEMBERS.keys() <= labels
    assert set(_MEMBERS.values()) <= set(LANGUAGES.split())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_in_two_languages(world: World, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    rows = [
        capture(number, answer=f"{number}. {SENTENCES[code][1]}", messages=messages(SENTENCES[code][0]))
        for number, code in enumerate(["de", "en", "fr", "de", "uk", "de"] * 4)
    ]
    rows += [capture(99, answer="4", messages=messages("2 + 2?")), capture(100, answer=CALL)]
    world.write("a.jsonl", rows)
    if workers:
        monkeypatch.setattr(main, "_SMALL", 0)
        monkeypatch.setattr(memory, "room", lambda *_: Room(workers, 4096, 96 << 20))
    facts = world.make(quality={"languages": ["de", "uk"]})
    assert (facts.counts.read, facts.counts.kept, facts.counts.unfit) == (26, 18, 8)
    made = world.read(facts)
    assert made.report["languages"] == {"de": 12, "uk": 4, "unknown": 2}
    assert b"<tr><td>de</td><td>12</td></tr>" in made.data("card.html")
    assert made.report["unused"] == {
        "written in en, which is not among quality.languages": 4,
        "written in fr, which is not among quality.languages": 4,
    }


def test_without_the_option_nothing_is_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Languages, "__init__", lambda *_: pytest.fail("the model was loaded"))
    world.write("a.jsonl", [capture(number) for number in range(4)])
    assert "languages" not in world.read(world.make()).report
