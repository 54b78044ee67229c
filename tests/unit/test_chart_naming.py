"""Which names of a chart an agent of each version is sent."""

from pathlib import Path

import pytest

from supervisor.aggregator.charts import shown
from supervisor.config.load import agent_version, load
from workers.registry import find

SWAP_CALLS = {"mem.swapcalls", "system.swapcalls"}
SWAP_READS = {"apps.swap_read_call", "app.{group}_ebpf_call_swap_readpage"}


def sent(program: str, version: str, folder: Path) -> set[str]:
    """Ids of the charts that an agent of this version is sent."""
    agent = agent_version({"NETDATA_VERSION": version} if version else {})
    config, _ = load([folder], agent=agent)
    charts = find(program).charts
    return {chart.id for chart in charts if shown(chart.naming, config.modern_charts, config.agent_version)}


@pytest.mark.parametrize(
    ("version", "calls", "reads"),
    [
        ("v1.37.1", "system.swapcalls", "apps.swap_read_call"),
        ("v1.41.0", "system.swapcalls", "apps.swap_read_call"),
        ("v1.42.4", "mem.swapcalls", "apps.swap_read_call"),
        ("v1.43.2", "mem.swapcalls", "apps.swap_read_call"),
        ("v1.44.0", "mem.swapcalls", "app.{group}_ebpf_call_swap_readpage"),
        ("v2.10.4", "mem.swapcalls", "app.{group}_ebpf_call_swap_readpage"),
        ("", "mem.swapcalls", "apps.swap_read_call"),
    ],
)
def test_swap_charts_have_the_names_of_the_agents_version(
    tmp_path: Path, version: str, calls: str, reads: str
) -> None:
    charts = sent("swap", version, tmp_path)
    assert charts & SWAP_CALLS == {calls}
    assert charts & SWAP_READS == {reads}
