"""hardirq: names of rows."""

import os
import re

import pytest

from supervisor import linux
from supervisor.kernel.maps import WORD_BYTES, KernelMap, MapInfo
from supervisor.kernel.source import expand
from supervisor.pipeline import memory
from tests.harness import ROOT
from workers.hardirq import INTERRUPTS, PROGRAM, VECTORS, actions, device_name


@pytest.mark.parametrize(
    ("irq", "handlers", "name"),
    [
        (36, "virtio1-req.0", "36_virtio1-req.0"),
        (9, "acpi", "9_acpi"),
        (16, "ehci_hcd:usb1,ahci[0000:00:1f.2]", "16_ahci[0000:00:1f.2]"),
        (24, "PCIe PME,pciehp", "24_pciehp"),
        (24, "PCIe PME", "24_PME"),
        (120, "a-very-long-name-of-a-queue-of-a-device", "120_a-very-long-name-of-a-queue"),
    ],
)
def test_a_device_is_called_by_number_and_last_word_of_its_line(irq: int, handlers: str, name: str) -> None:
    assert device_name(irq, handlers) == name
    assert len(name) <= 31


def test_rows_are_as_many_as_the_source_has() -> None:
    source = expand(ROOT / "kernel_progs" / PROGRAM.source)
    for name, count in (("VECTORS", len(VECTORS)), ("INTERRUPTS", INTERRUPTS)):
        assert re.search(rf"#define {name} {count}\n", source)
    assert len(VECTORS) + INTERRUPTS == PROGRAM.rows


def test_vectors_that_cannot_be_seen_have_no_name_and_devices_only_once_they_have_interrupted() -> None:
    size_bytes = (len(VECTORS) + INTERRUPTS + 1) * WORD_BYTES
    fd = memory.create("spent", size_bytes)
    maps = {"spent": KernelMap(MapInfo("spent", 1, size_bytes, linux.BPF_F_MMAPABLE), fd)}
    os.pwrite(fd, b"\1", size_bytes - WORD_BYTES)  # one that is beyond all that have rows
    assert PROGRAM.names
    assert PROGRAM.names(maps, frozenset({"device", "local_timer"})) == {8: "local_timer"}
    irq = int(min(os.listdir("/sys/kernel/irq"), key=int))
    os.pwrite(fd, b"\0\1", (len(VECTORS) + irq) * WORD_BYTES)
    named = PROGRAM.names(maps, frozenset({"device"}))
    assert named == ({len(VECTORS) + irq: device_name(irq, actions(irq))} if actions(irq) else {})
    os.close(fd)
