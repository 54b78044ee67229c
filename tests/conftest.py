"""Who can run what here, said once. A test that cannot run is skipped and says why."""

import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.guest.outcomes import AT_ONCE, KERNELS, Outcome, answer


def _cannot_load() -> str:
    """Why kernel programs cannot be loaded on this machine, "" when they can."""
    if os.geteuid() != 0:
        return "loading kernel programs needs root"
    try:
        import bcc  # noqa: F401
    except ImportError:
        return "BCC is not installed (Debian: python3-bpfcc)"
    return ""


@pytest.fixture(scope="session", autouse=True)
def _interrupts_reach_children() -> None:
    """A shell starts what it puts into the background with SIGINT ignored, and so would be what we start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def guests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, "Future[Outcome]"]]:
    """What guests answer, by kernel: begun at once when anybody is going to ask."""
    asked = any(
        "guests" in getattr(item, "fixturenames", ()) and is_asking(item) for item in request.session.items
    )
    with ThreadPoolExecutor(AT_ONCE) as pool:
        folders = {kernel: tmp_path_factory.mktemp(f"guest{kernel}") for kernel in KERNELS if asked}
        yield {kernel: pool.submit(answer, kernel, folder) for kernel, folder in folders.items()}


def is_asking(item: pytest.Item) -> bool:
    return item.nodeid.startswith("tests/guest/test_known_answers.py")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In a guest each failure is told at once: a guest that is ended at its deadline has no summary."""
    if "EBPF_TEST_SLOW" in os.environ and report.failed:
        print(f"\n{report.nodeid} {report.when}: {report.longreprtext}", flush=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Guests work while the host's tests run (tests/guest/outcomes.py), and are asked last.
    items.sort(key=lambda item: "guest" in item.keywords)
    reason = _cannot_load()
    for item in items:
        if reason and item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.skip(reason=reason))
