"""docs/security.md: every claim names a test, and every test that it names exists."""

import re

import pytest

from tests.harness import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)))
CLAIMS = [
    row
    for table in re.findall(r"\| claim \| test \|\n\| --- \| --- \|\n((?:\|.*\n)+)", PAGE)
    for row in table.splitlines()
]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert f"\ndef {name}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("claim", CLAIMS)
def test_each_claim_names_a_test(claim: str) -> None:
    assert re.search(r"\| `tests/[\w/]+\.py::test_\w+`", claim)
