"""Every program has a page, and what it says of charts, hooks and settings is what the declarations say."""

import pytest

from tests.program_pages import PARTS, page, path_of
from workers.declaration import Program
from workers.registry import all_programs


@pytest.mark.parametrize("program", all_programs().values(), ids=lambda program: str(program.name))
def test_the_page_of_a_program_is_what_its_declaration_says(program: Program) -> None:
    text = path_of(program).read_text(encoding="utf-8")
    for part in PARTS:
        assert f"<!-- made: {part} -->" in text
    assert page(program, text) == text, "run `python -m tests.program_pages`"
