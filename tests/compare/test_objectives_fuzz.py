"""Thousands of texts, right, wrong and mutilated: each is read as it is written, or refused in one line."""

import ast
import builtins
import operator
import random
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import parsing
from equipoise.compare.objectives import Candidate, read_objective
from equipoise.costs import ClassMatrix
from equipoise.losses import LOSSES, WEIGHTS
from equipoise.penalties import PENALTIES
from equipoise.schedules import SCHEDULES
from support.definitions import settings_of

pytestmark = pytest.mark.slow

COUNT = 5000


def words(text: str) -> list[str]:
    return text.split()


MATRICES = {"costs": 1 - np.eye(3), "similarity": np.eye(3)}
CALLS = [entry.name for entry in (*LOSSES, *PENALTIES)] + [each.__name__ for each in (*WEIGHTS, *SCHEDULES)]
OPTIONS = words("""
    gamma label_smoothing width low high q alpha beta min_weight epsilon floor costs tree weight steps start
    end num_classes log_zero gama
""")
RIGHT = [parsing.to_text(loss) for entry in (*LOSSES, *PENALTIES) for loss in settings_of(entry)] + [
    "ExpectedCost(costs) + 0.5 * SimilarityCrossEntropy(similarity)",
    "GammaCrossEntropy(gamma=Linear(0, 0.5))",
    "CrossEntropy() - Cosine(0, 0.1, steps=0.5) * Entropy() / 3",
    "2 * (CrossEntropy() + Linear(0.1, 0.2, 9) * Gini())",
    "Reweighted(TaiLrWeight(gamma=0.1))",
    "ExpectedCost(ClassMatrix([[0, 1], [1, 0]], ['ill', 'well'], kind='costs'))",
    "HierarchicalCrossEntropy(((0, 1), (2, 3)), alpha=0.5)",
    "Focal(gamma=1) - 1 * CrossEntropy() + 0 * Entropy()",
]
SPACE = {entry.name: entry.make for entry in (*LOSSES, *PENALTIES)} | {
    each.__name__: each for each in WEIGHTS
}
SPACE |= {"ClassMatrix": ClassMatrix, "__builtins__": {}}
LITERALS = words(r"""
    0 1 -1 0.5 .1 2 3 1e-300 1e308 1e400 -1e400 1_000 0x10 0b1 0o7 1j True False None ... '' b'a' 'costs'
    f'{1}' f'{planted(1)}' '\ud800' '\d' 'a\nb' '\x00' [] () {} costs similarity nan inf planted Focal {1}
    {1:2} [[0,1],[1,0]] [[0,1],[1]] ((0,1),2) [0,10**400] [True,False] [[None]] [['0','1'],['1','0']]
""")
LITERALS += ['"' * 3 + "a\nb" + '"' * 3, "9" * 16, "9" * 300, "9" * 400, "9" * 5000, "0x" + "f" * 5000]
PIECES = words(r"""
    planted(1) ().__class__ .__class__ [planted(1)for(_)in[1]] (x:=1) *[1] **{} *costs planted.x costs[0]
    yield if else ~ ** // % @ < == and \ # ; = : ( ) [ ] , ' " + - * / gamma=1 ,gamma=1
""")
PIECES += [
    "lambda: planted(1)",
    "await x",
    "not ",
    *map(chr, (0, 9, 10, 12, 13, 32, 0xBD, 0xE9, 0x375, 0x2028)),
]
PIECES += [chr(0xD800), chr(0xFEFF), f"{chr(0xFF26)}ocal()"]  # a surrogate, a mark of order, a wide F
DEEP: list[Callable[[int], str]] = [
    lambda n: "CrossEntropy()" + " + CrossEntropy()" * n,
    lambda n: "-" * n + "CrossEntropy()",
    lambda n: "(" * n + "CrossEntropy()" + ")" * n,
    lambda n: "[" * n + "]" * n,
    lambda n: "ExpectedCost(" + "[" * n + "0" + "]" * n + ")",
    lambda n: "HierarchicalCrossEntropy((" + "(0, " * n + "1" + ")" * n + "))",
    lambda n: "Focal(" * n + ")" * n,
    lambda n: "2 * (" * n + "CrossEntropy()" + ")" * n,
    lambda n: "Focal(" + "1 + " * n + "1)",
    lambda n: "Focal(" + "- + " * n + "1)",
    lambda n: "Focal(" + "9.0 * " * n + "1)",
    lambda n: "not " * n + "1",
    lambda n: "a" + ".b" * n,
    lambda n: "a" + "[0]" * n,
    lambda n: "lambda: " * n + "1",
    lambda n: "2 ** " * n + "1",
    lambda n: "1 if 1 else " * n + "1",
    lambda n: "x" * n,
    lambda n: "'" + "x" * n,
    lambda n: "[" + "0, " * n + "0]",
    lambda n: "Linear(" * n + "0" + ", 1)" * n + " * Entropy()",
    lambda n: "f'{" * n + "}'" * n,
]


def grown(rng: random.Random, depth: int = 0) -> str:
    """A text of the grammar, and of what is near it."""
    kind = rng.random()
    if depth > 4 or kind < 0.25:
        return rng.choice(LITERALS if rng.random() < 0.7 else RIGHT)
    if kind < 0.6:
        given = [grown(rng, depth + 2) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
        named = [rng.choice(["", "", f"{rng.choice(OPTIONS)}="]) for _ in given]
        return f"{rng.choice(CALLS)}({', '.join(map(str.__add__, named, given))})"
    if kind < 0.9:
        return f"{grown(rng, depth + 1)} {rng.choice('++--**/')} {grown(rng, depth + 1)}"
    if kind < 0.95:
        return f"{rng.choice(['-', '+', '-', '~', 'not '])}({grown(rng, depth + 1)})"
    return f"[{', '.join(grown(rng, depth + 2) for _ in range(rng.randrange(4)))}]"


def mutilated(rng: random.Random) -> str:
    """A right text with some places changed."""
    text = rng.choice(RIGHT)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice([0, 0, 0, 1, 1, 2, 5]))
        new = rng.choice([rng.choice(PIECES), rng.choice(LITERALS), rng.choice(CALLS), text[at:end] * 2, ""])
        text = text[:at] + new + text[end:]
    return text


def texts(seed: int, count: int = COUNT) -> Iterator[str]:
    yield from RIGHT
    for make in DEEP:
        yield from (make(n) for n in (1, 20, 90, 101, 801, 900, 20_000))
    rng = random.Random(seed)
    for _ in range(count):
        yield grown(rng) if rng.random() < 0.6 else mutilated(rng)


def read(text: str) -> Candidate:
    return read_objective(text, MATRICES)


def by_python(text: str) -> object:
    """The terms of what Python makes of a text that was read; None where it differs on purpose."""
    try:
        return None if "9" * 16 in text else eval(text.strip(), dict(SPACE)).terms()  # the integer is a float
    except TypeError as error:
        if "bad operand type for unary +" in str(error):
            return None
        raise


def fault(text: str) -> str | None:
    """What is wrong with how a text is read; None if nothing is."""
    for reader in (read, parsing.from_text, parsing.schedule_from_text):
        try:
            made = reader(text)
        except ValueError as error:
            said = str(error)
            if type(error) is not ValueError or len(said.splitlines()) != 1 or len(said) > 1000:
                return f"{reader.__name__} says {said[:2000]!r} of {text[:200]!r}"
            continue
        except Exception as error:
            return f"{reader.__name__} raises {error!r:.500} for {text[:200]!r}"
        again = None
        try:
            if isinstance(made, Candidate):
                same = "<" in made.text or read(again := made.text).same(made)
            elif isinstance(made, parsing.Loss):
                same = parsing.from_text(again := parsing.to_text(made)).terms() == made.terms()
                same = same and by_python(text) in (made.terms(), None)
            else:
                same = parsing.schedule_from_text(again := parsing.to_text(made)) == made
        except Exception as error:
            return f"{text[:200]!r} is written as {again}, which raises {error!r:.500}"
        if not same:
            return f"{text[:200]!r} is written as {again}"
    return None


def test_texts_are_read_right_or_refused_in_one_line_and_never_run(monkeypatch):
    """Random texts are read as Python would, or refused in one line, and are never evaluated."""
    called: list[int] = []
    monkeypatch.setattr(builtins, "planted", called.append, raising=False)
    begin = time.process_time()
    assert [said for text in texts(0) if (said := fault(text)) is not None] == []
    assert called == []
    assert time.process_time() - begin < 60
    eval("planted(1)")
    assert called == [1]  # the control: it would have been seen


def test_many_of_the_texts_are_right_and_many_are_wrong():
    """The random texts include many valid and many invalid ones."""
    right = 0
    for text in texts(0, 1000):
        try:
            read(text)
            right += 1
        except ValueError:
            pass
    assert 100 < right < 900


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_DEEPEST", 10**9),
        ("_is_too_large", lambda value: False),
        ("_reason", lambda error: f"no\n{error}"),
        ("_WRONG", {"+": (), "-": (), "*": (), "/": ()}),
        ("_OPERATORS", parsing._OPERATORS | {ast.Sub: ("-", operator.add)}),
    ],
)
def test_control_a_planted_fault_is_found(monkeypatch, name, value):
    """A fault planted in the parser is found by the random texts."""
    monkeypatch.setattr(parsing, name, value)
    assert any(fault(text) is not None for text in texts(1, 600))


@given(
    st.lists(
        st.sampled_from([*PIECES, *LITERALS, *RIGHT, *CALLS, *(f"{each}=" for each in OPTIONS)]), max_size=9
    )
)
@settings(max_examples=500)
def test_pieces_in_any_order(pieces):
    """Random sequences of tokens are read or refused in one line."""
    assert fault("".join(pieces)) is None


@given(st.text(max_size=40))
@settings(max_examples=500)
def test_any_text(text):
    """Any text is an objective or is refused in one line."""
    assert fault(text) is None
