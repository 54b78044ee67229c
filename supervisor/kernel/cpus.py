"""How many CPUs there can be here."""

from pathlib import Path


def possible() -> int:
    """One more than the highest number that a CPU can have here, online or not; text like `0-3,8-11`."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").split("-")[-1]) + 1
