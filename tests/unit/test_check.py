"""What a missing hook costs, chart by chart."""

import pytest

from supervisor.check import lost_charts
from workers.registry import all_programs


def lost(name: str, *hooks: str) -> list[str]:
    program = all_programs()[name]
    return list(dict.fromkeys(lost_charts(program, [h for h in program.hooks if h.name in hooks])))


def test_a_hook_costs_the_charts_and_the_dimensions_that_show_it() -> None:
    assert lost("fd", "close") == [
        "filesystem.file_descriptor: close",
        "filesystem.file_error: close",
    ]
    assert lost("fd", "open", "close") == ["filesystem.file_descriptor", "filesystem.file_error"]


def test_what_is_worked_out_of_several_hooks_is_lost_with_any_of_them() -> None:
    assert "filesystem.dc_hit_ratio" in lost("dcstat", "slow")
    assert "filesystem.dc_hit_ratio" in lost("dcstat", "reference")


def test_a_type_of_file_system_costs_its_own_charts_alone() -> None:
    assert lost("filesystem", "ext4 read") == ["filesystem.ext4_read_latency"]


@pytest.mark.parametrize("name", all_programs())
def test_without_any_hook_every_chart_of_the_host_is_lost_and_with_all_none(name: str) -> None:
    program = all_programs()[name]
    everything = list(lost_charts(program, program.hooks))
    gauges = {s for c in program.charts for d in c.dimensions for s in d.sources} - {
        *program.totals,
        *program.ratios,
    }
    for chart in program.charts:
        sources = {source for dimension in chart.dimensions for source in dimension.sources}
        if chart.scope in ("system", "device") and not sources & gauges:
            assert chart.id in everything
    assert list(lost_charts(program, ())) == []
