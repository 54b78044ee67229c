"""`ebpfctl top`: who makes how many events a second.

The supervisor computes nothing for it. It hands out descriptors, open for reading, of the memory that totals
stand in anyway (`offer`), once for each picture; whoever asks reads that memory (`reading`), takes the
difference to what was there before (`rates`), and shows it (`table`, `screen`).
"""

from typing import Final, Literal

By = Literal["apps", "cgroups", "services", "pids", "connections"]
WAYS: Final[tuple[By, ...]] = ("apps", "cgroups", "services", "pids", "connections")

# What is told of each connection; TOTAL has its calls and retransmits, not its bytes.
CONNECTION_FIELDS: Final = ("sent", "sent_bytes", "received", "received_bytes", "retransmitted")

# What rows can be sorted by, besides a program's rate.
FIELDS: Final = ("total", "name", "pid", *CONNECTION_FIELDS)
