"""What all units share."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor import kprobe_events
from supervisor.config.model import Supervision
from supervisor.loop import Loop
from supervisor.spawn import Account
from supervisor.unit import Unit
from supervisor.units.loaders import Loaders
from supervisor.units.template import TemplateUnit


@dataclass(frozen=True)
class House:
    """What all units share."""

    loop: Loop
    settings: Supervision
    account: Account
    samples_dir: Path  # the children's working directory
    lifeline: socket.socket  # the children's end; ours is held open by the arbiter
    attach: str  # the command line's choice of plans, auto = the configuration's
    tag: str
    btf_folder: Path
    kprobe_lines: bool  # write lines of kprobe_events where the kernel could do without, too
    sweeper: kprobe_events.Sweeper
    loaders: Loaders
    changed: Callable[[Unit], None]
    template: TemplateUnit
