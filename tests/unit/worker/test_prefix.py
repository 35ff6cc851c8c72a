"""The tree of known beginnings, against a model that keeps every holder's tokens and looks at all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.worker.prefix import Key, PrefixTree

pytestmark = pytest.mark.unit

KEYS: list[Key] = [("", None), ("", "pirate"), ("someone", None)]
SHARED = ("", None)


def length_in_common(left: list[int], right: list[int]) -> int:
    return next((at for at, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]),
                min(len(left), len(right)))


class Plain:
    """The same without a tree: every beginning that somebody holds, and how many requests had it since."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Key, list[int]]] = {}
        self.used: dict[tuple[Key, tuple[int, ...]], int] = {}

    def insert(self, key: Key, tokens: list[int], holder: int, used: bool) -> None:
        self.held[holder] = key, tokens
        for end in range(1, len(tokens) + 1):
            beginning = key, tuple(tokens[:end])
            self.used[beginning] = self.used.get(beginning, 0) + used

    def remove(self, holder: int) -> None:
        del self.held[holder]
        alive = {(key, tuple(tokens[:end])) for key, tokens in self.held.values() for end in range(1, len(tokens) + 1)}
        self.used = {beginning: uses for beginning, uses in self.used.items() if beginning in alive}

    def common(self, key: Key, tokens: list[int]) -> dict[int, int]:
        lengths = {holder: length_in_common(tokens, other) for holder, (own, other) in self.held.items() if own == key}
        return {holder: length for holder, length in lengths.items() if length}


some_tokens = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=9)
operations = st.lists(st.one_of(
    st.tuples(st.just("insert"), st.sampled_from(KEYS), some_tokens, st.booleans()),
    st.tuples(st.just("remove"), st.integers(0, 20)),
), max_size=40)


def found(tree: PrefixTree[int], key: Key, tokens: list[int]) -> dict[int, int]:
    """The longest common beginning with each holder."""
    lengths: dict[int, int] = {}
    before = len(tokens) + 1
    for match in tree.matches(key, tokens):
        assert match.common < before
        before = match.common
        for holder in match.holders:
            lengths.setdefault(holder, match.common)
    return lengths


@given(operations, st.lists(some_tokens, min_size=1, max_size=5))
def test_it_knows_what_a_plain_search_finds(
    orders: list[tuple[str, Key, list[int], bool] | tuple[str, int]], questions: list[list[int]],
) -> None:
    tree, plain = PrefixTree[int](), Plain()
    for number, order in enumerate(orders):
        if len(order) == 4:
            _, key, tokens, used = order
            tree.insert(key, tokens, number, uses=used)
            plain.insert(key, tokens, number, used)
        elif plain.held:
            holder = sorted(plain.held)[order[1] % len(plain.held)]
            tree.remove(holder)
            plain.remove(holder)
        for key in KEYS:
            for question in questions:
                assert found(tree, key, question) == plain.common(key, question)
                assert tree.uses(key, question) == plain.used.get((key, tuple(question)), 0)
        for holder, (key, tokens) in plain.held.items():
            assert (tree.key(holder), tree.tokens(holder)) == (key, tokens)
            assert set(tree.beginnings(holder)) == {
                other for other, (own, less) in plain.held.items()
                if other != holder and own == key and tokens[:len(less)] == less}
            for length, holders in tree.coverage(holder):
                assert holders == {other for other, common in plain.common(key, tokens).items() if common >= length}
        assert shared(tree) == longest_shared(plain)
    for holder in list(plain.held):
        tree.remove(holder)
    assert not tree._roots
    assert not tree._ends


def shared(tree: PrefixTree[int]) -> set[tuple[Key, tuple[int, ...], int]]:
    return {(one.key, tuple(one.tokens), one.uses) for one in tree.shared(2, 3)}


def longest_shared(plain: Plain) -> set[tuple[Key, tuple[int, ...], int]]:
    repeated = {(key, tokens): uses for (key, tokens), uses in plain.used.items() if uses >= 2 and len(tokens) >= 3}
    return {(key, tokens, uses) for (key, tokens), uses in repeated.items()
            if not any(own == key and len(more) > len(tokens) and more[:len(tokens)] == tokens
                       for own, more in repeated)}


def test_a_prompt_is_known_before_it_is_computed_and_by_everyone_who_shares_it() -> None:
    tree = PrefixTree[str]()
    tree.insert(SHARED, [1, 2, 3, 4], "first", uses=1)
    tree.insert(SHARED, [1, 2, 3, 9, 9], "second", uses=1)
    assert [(match.common, set(match.holders)) for match in tree.matches(SHARED, [1, 2, 3, 9, 8])] == [
        (4, {"second"}), (3, {"first", "second"})]
    assert tree.uses(SHARED, [1, 2, 3]) == 2
    assert tree.uses(SHARED, [1, 2, 3, 4]) == 1


def test_one_scope_and_one_adapter_know_nothing_of_another() -> None:
    tree = PrefixTree[str]()
    tree.insert(("a", None), [1, 2, 3], "a", uses=1)
    assert tree.matches(("b", None), [1, 2, 3]) == []
    assert tree.matches(("a", "pirate"), [1, 2, 3]) == []
    assert tree.uses(("b", None), [1, 2]) == 0


def test_how_often_a_beginning_was_used_outlives_those_who_parted_from_it() -> None:
    tree = PrefixTree[str]()
    for number in range(5):
        tree.insert(SHARED, [1, 2, 3, 10 + number], f"r{number}", uses=1)
    for number in range(1, 5):
        tree.remove(f"r{number}")
    assert (tree.uses(SHARED, [1, 2, 3]), tree.uses(SHARED, [1, 2, 3, 10])) == (5, 1)


def test_an_answer_and_a_snapshot_are_no_uses() -> None:
    tree = PrefixTree[str]()
    tree.insert(SHARED, [1, 2, 3], "request", uses=1)
    tree.insert(SHARED, [1, 2, 3, 4], "idle row")
    assert (tree.uses(SHARED, [1, 2, 3]), tree.uses(SHARED, [1, 2, 3, 4])) == (1, 0)
