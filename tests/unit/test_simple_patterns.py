"""Netdata's simple patterns; tests/agent compares them with a real agent's."""

import pytest

from supervisor.aggregator.simple_patterns import SimplePattern

CASES = [
    # list, text, answer
    ("a", "a", True),
    ("a", "ab", None),
    ("a", "A", None),
    ("", "a", None),
    (" \t\r\n\f\v", "a", None),
    # stars
    ("*", "a", True),
    ("*", "a\nb", True),
    ("**", "a", True),
    ("*", "", None),
    ("!*", "", None),
    ("abc*", "abc", True),
    ("abc*", "abcd", True),
    ("abc*", "xabc", None),
    ("*abc", "abc", True),
    ("*abc", "xabc", True),
    ("*abc", "abcx", None),
    ("*abc*", "abc", True),
    ("*abc*", "xabcx", True),
    ("*abc*", "xab", None),
    ("a*b", "ab", True),
    ("a*b", "a/x/b", True),
    ("a*b", "axbx", None),
    ("a*b*c", "axxbyyc", True),
    ("a*b*c", "abbc", True),
    ("a*b*c", "ac", None),
    ("a**b", "axb", True),
    # parts do not share text
    ("aa*aa", "aaa", None),
    ("aa*aa", "aaaa", True),
    ("*ab*b", "ab", None),
    ("*ab*b", "abb", True),
    ("a*a*a", "aa", None),
    # the first that matches
    ("!a *", "a", False),
    ("!a *", "b", True),
    ("* !a", "a", True),
    ("!a", "b", None),
    ("a !b", "b", False),
    ("x\ty\nz", "z", True),
    ("!", "a", None),
    ("! a", "a", True),
    ("!!a *", "!a", False),
    ("!!a *", "a", True),
    # backslashes
    (r"a\ b", "a b", True),
    (r"a\ b", "a", None),
    (r"\!a", "!a", True),
    (r"\!a", "a", None),
    (r"a\\b", r"a\b", True),
    (r"a\*b", "axb", True),
    ("a\\", "a", True),
    ("!\\ ", " ", False),
    # any bytes
    ("caf\udce9*", "caf\udce9/x", True),
]


@pytest.mark.parametrize(("text", "subject", "answer"), CASES)
def test_the_first_word_that_matches_decides(text: str, subject: str, answer: bool | None) -> None:
    assert SimplePattern(text).matches(subject) is answer


def test_case_is_told_apart_only_where_the_list_says_so() -> None:
    assert SimplePattern("Web* !DB").matches("web1") is None
    assert SimplePattern("Web* !DB", case_sensitive=False).matches("wEB1") is True
    assert SimplePattern("Web* !DB", case_sensitive=False).matches("db") is False


def test_a_list_full_of_stars_takes_a_long_text_without_trying_places_twice() -> None:
    # Backtracking would take this some 10^40 steps.
    assert SimplePattern("*a" * 40 + "*b").matches("a" * 100_000) is None
