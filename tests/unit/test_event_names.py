"""Names of kprobe_events lines: libbcc's, with our tag before them."""

from pathlib import Path

import pytest

from supervisor import kprobe_events
from supervisor.kernel.loader import event_name

TAG = kprobe_events.tag(Path("/run/ebpf-supervisor"))
LONGEST = f"{TAG}_filesystem_btrfs"


def with_process_id(name: str) -> str:
    return f"{name}_bcc_4194304"


@pytest.mark.parametrize("symbol", ["vfs_read", "btrfs_file_write_iter", "a_function_with_a_very_long_name"])
def test_name_of_an_event_is_no_longer_than_the_kernel_takes(symbol: str) -> None:
    for number in (0, 99):
        assert len(with_process_id(event_name(LONGEST, True, number, symbol))) <= 63


def test_events_whose_symbols_begin_alike_have_different_names() -> None:
    names = {event_name(LONGEST, True, n, "btrfs_file_write_iter") for n in range(12)}
    assert len(names) == 12


def test_name_begins_with_the_tag_by_which_the_line_is_found_again() -> None:
    line = f"r256:kprobes/{with_process_id(event_name(LONGEST, True, 1, 'xfs_file_open'))} xfs_file_open"
    assert kprobe_events.ours(line, TAG)
    assert kprobe_events.ours(line, LONGEST)
