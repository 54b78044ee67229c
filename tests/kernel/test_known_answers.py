"""Known numbers of real events, and exactly these numbers in the stream, at the process that made them."""

from collections.abc import Iterator

import pytest

from tests.harness import Run, supervisor
from tests.workload import Workload

pytestmark = pytest.mark.kernel

GROUPS = "kat: kat\nchurn: churn\n"


@pytest.fixture(scope="module")
def entry() -> "Iterator[Run]":
    with supervisor("--only", "process,fd", groups=GROUPS) as run:
        yield run


def test_opens(entry: Run) -> None:
    with Workload("kat") as work:
        entry.wait_frames(3)
        a = entry.value("apps.file_open", "kat")
        c = entry.value("apps.file_closed", "kat")
        work.do("open", 10007)
        assert entry.wait_value("apps.file_open", "kat", a + 10007) == a + 10007
        assert entry.value("apps.file_closed", "kat") == c + 10007


def test_churn(entry: Run) -> None:
    with Workload("churn") as work:
        entry.wait_frames(3)
        a = entry.value("apps.file_open", "churn")
        p = entry.value("apps.process_create", "churn")
        work.do("churn", 1009, 7)
        assert entry.wait_value("apps.file_open", "churn", a + 7063) == a + 7063
        assert entry.value("apps.process_create", "churn") == p + 1009
