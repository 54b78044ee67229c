"""Our simple patterns beside a real agent's, which tries one list on one text for us."""

import random
import re
import subprocess

import pytest

from supervisor.aggregator.simple_patterns import SimplePattern
from tests.agent.agent import NETDATA

pytestmark = [
    pytest.mark.agent,
    pytest.mark.skipif(not NETDATA.exists(), reason=f"{NETDATA} is not there (Debian: netdata-core)"),
]

LISTS = 499


def agent_says(patterns: str, text: str) -> bool:
    answer = subprocess.run(
        [str(NETDATA), "-W", "simple-pattern", patterns, text],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    verdict = (answer.stdout + answer.stderr).split("RESULT: ", 1)[1]
    assert verdict.startswith(("MATCHED", "NOT MATCHED")), verdict
    return verdict.startswith("MATCHED")


def random_list(chance: random.Random) -> str:
    words = ["".join(chance.choices(r"ab/*!\ ", k=chance.randint(1, 7))) for _ in range(chance.randint(1, 3))]
    # Of stars side by side the agent takes the second for a letter.
    return re.sub(r"\*(?:\\*\*)+", "*", " ".join(words))


def test_random_lists_match_as_an_agent_matches_them() -> None:
    chance = random.Random(1)
    for _ in range(LISTS):
        patterns = random_list(chance)
        text = "".join(chance.choices("ab/", k=chance.randint(1, 5)))
        assert bool(SimplePattern(patterns).matches(text)) == agent_says(patterns, text), (patterns, text)
