"""The vocabulary is unambiguous, and what is held out from training is known in parts."""

from itertools import combinations

import numpy as np

from sdst.world.grammar import COLOURS, MOTIONS, OPPOSITES, SHAPES, Fact, all_facts, phrase, sentence


def phrases(fact: Fact, count: int = 60) -> set[str]:
    rng = np.random.default_rng(0)
    return {phrase(fact, rng) for _ in range(count)}


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


def test_no_phrase_has_two_meanings():
    for words in (COLOURS, SHAPES, MOTIONS):
        everything = [word for synonyms in words.values() for word in synonyms]
        assert len(everything) == len(set(everything))
    facts = all_facts()
    assert len(set().union(*(phrases(fact, 3) for fact in facts))) == sum(len(phrases(f, 3)) for f in facts)


def test_a_fact_is_told_in_many_ways_with_the_right_article():
    told = phrases(Fact("orange", "disc", "left"), 200)
    assert {"an orange ball drifts to the left", "a tangerine disc moves left"} <= told
    assert {"the orange circle slides leftwards"} <= told
    assert not [text for text in told if text.startswith(("a orange", "an tangerine"))]


def test_phrases_make_a_sentence():
    assert sentence(["a red disc rests"]) == "A red disc rests."
    assert sentence(["the red disc rests", "a box hops"]) == "The red disc rests and a box hops."


def test_opposites_are_mutual():
    assert all(OPPOSITES[other] == motion != other for motion, other in OPPOSITES.items())
    assert set(OPPOSITES) < set(MOTIONS)
