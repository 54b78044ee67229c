"""Who can run what here, said once. A test that cannot run is skipped and says why."""

import os

import pytest


def _cannot_load() -> str:
    """Why kernel programs cannot be loaded on this machine, "" when they can."""
    if os.geteuid() != 0:
        return "loading kernel programs needs root"
    try:
        import bcc  # noqa: F401
    except ImportError:
        return "BCC is not installed (Debian: python3-bpfcc)"
    return ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In a guest each failure is told at once: a guest that is ended at its deadline has no summary."""
    if "EBPF_TEST_SLOW" in os.environ and report.failed:
        print(f"\n{report.nodeid} {report.when}: {report.longreprtext}", flush=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _cannot_load()
    for item in items:
        if reason and item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.skip(reason=reason))
