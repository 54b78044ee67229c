"""What the plugin decides before it does anything, and how it makes a stream slower."""

import pytest

from supervisor import plugin
from supervisor.relay import Thinner
from tests.harness import Stream

DEFINED = """\
CHART a.fast '' 'A title' 'calls/s' 'family' 'a.fast' line 2195 1 '' 'ebpf.plugin' 'fd'
DIMENSION d '' incremental 1 1
BEGIN a.fast
SET d = 0
END
CHART a.slow '' 'A title' 'calls/s' 'family' 'a.slow' line 2195 10 '' 'ebpf.plugin' 'fd'
DIMENSION 'd e' '' incremental 1 1
CLABEL 'x' 'y' 1
CLABEL_COMMIT
BEGIN a.slow
SET 'd e' = 0
END
"""


def collected(value: int, *charts: str) -> str:
    names = {"a.fast": "d", "a.slow": "'d e'"}
    return "".join(f"BEGIN {chart}\nSET {names[chart]} = {value}\nEND\n" for chart in charts)


@pytest.mark.parametrize(
    ("root", "installed", "started", "seconds"),
    [
        (False, False, False, 0.0),
        (False, False, True, 5.0),
        (False, True, False, None),
        (True, False, False, 0.0),
        (True, False, True, 0.0),
        (True, True, False, 10.0),
    ],
)
def test_who_waits_for_a_stream_and_for_how_long(
    root: bool, installed: bool, started: bool, seconds: float | None
) -> None:
    assert plugin.patience(root, installed, started) == seconds


def test_of_an_option_that_is_given_twice_the_last_one_counts() -> None:
    words = ["1", "--runtime-dir", "/a", "--only", "fd", "--runtime-dir=/b"]
    assert plugin.option(words, "--runtime-dir") == "/b"
    assert plugin.option(words, "--config-dir") == ""


@pytest.mark.parametrize(("words", "seconds"), [(["5"], 5), (["0"], 1), ([], 1), (["--only", "fd"], 1)])
def test_the_first_word_is_the_interval(words: list[str], seconds: int) -> None:
    assert plugin.seconds(words) == seconds


def test_a_slower_agent_gets_the_last_values_and_the_longer_interval() -> None:
    thinner, stream, now_s = Thinner(3), Stream(), 1000.0
    texts = [DEFINED, *(collected(value, "a.fast") for value in range(1, 12)), collected(12, "a.slow")]
    for second, text in enumerate(texts):
        for line in thinner.thin(text.encode(), now_s + second).decode().splitlines():
            stream.feed(line)
    fast, slow = stream.charts["a.fast"], stream.charts["a.slow"]
    assert (fast.words[8], slow.words[8]) == ("3", "10")
    assert slow.labels == {"x": "y"}
    # The base of each dimension is not left out; then each third value.
    assert fast.values["d"] == [0, 2, 5, 8, 11]
    assert slow.values["d e"] == [0]
    assert thinner.thin(b"", now_s + 20) == collected(12, "a.slow").encode()
