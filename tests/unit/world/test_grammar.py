"""The vocabulary is unambiguous, and training knows the parts of held-out combinations."""

import re
from itertools import combinations

import numpy as np

from sdst.world.grammar import (
    COLOURS,
    MOTIONS,
    OPPOSITES,
    SHAPES,
    Fact,
    all_facts,
    sentence,
    vague_sentences,
    words,
)


def sentences(fact: Fact, count: int = 60) -> set[str]:
    rng = np.random.default_rng(0)
    return {sentence(fact, rng) for _ in range(count)}


def test_every_pair_of_words_is_known_although_combinations_of_three_are_held_out():
    facts = all_facts()
    assert len(facts) == len(set(facts)) == len(COLOURS) * len(SHAPES) * len(MOTIONS)
    assert 0.2 < np.mean([fact.held_out for fact in facts]) < 0.3
    for one, other in combinations(("colour", "shape", "motion"), 2):
        pairs = {(getattr(fact, one), getattr(fact, other)) for fact in facts}
        known = {(getattr(fact, one), getattr(fact, other)) for fact in facts if not fact.held_out}
        assert known == pairs
    looks = {(fact.colour, fact.shape) for fact in facts}
    assert {(fact.colour, fact.shape) for fact in facts if fact.held_out} == looks


def test_no_sentence_has_two_meanings():
    for names in (COLOURS, SHAPES, MOTIONS):
        everything = [word for synonyms in names.values() for word in synonyms]
        assert len(everything) == len(set(everything))
    facts = all_facts()
    texts = [sentences(fact, 3) for fact in facts]
    assert len(set().union(*texts)) == sum(map(len, texts))


def test_a_fact_has_many_sentences_with_the_right_article():
    texts = sentences(Fact("orange", "disc", "left"), 200)
    assert {"An orange ball drifts to the left.", "A tangerine disc moves left."} <= texts
    assert {"The orange circle slides leftwards."} <= texts
    assert not [text for text in texts if text.startswith(("A orange", "An tangerine"))]


def test_words_lists_the_words_of_all_sentences():
    texts = set().union(
        *(sentences(fact, 20) for fact in all_facts()), {text for text, _ in vague_sentences()}
    )
    assert set(words()) == {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())}


def test_opposites_are_mutual():
    assert all(OPPOSITES[other] == motion != other for motion, other in OPPOSITES.items())
    assert set(OPPOSITES) < set(MOTIONS)
