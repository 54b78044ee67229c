"""Every option of the files has a test that shows what it does: here stands which."""

import ast
from collections.abc import Mapping
from typing import Final

import pytest

from supervisor.config.options import (
    CONNECTIONS,
    GLOBAL,
    MAIN,
    MODULES,
    OLD_CONNECTIONS,
    SERVICE_NAMES,
    SUPERVISION,
    SWITCHES,
)
from tests.harness import ROOT

Key = tuple[str, str]

_OPTIONS: Final = "process/test_options.py"
_CONNECTIONS_SEEN: Final = "kernel/test_connections.py"

SHOWN: Final[Mapping[Key, str]] = {
    (GLOBAL, "ebpf load mode"): f"{_OPTIONS}::test_return_mode_has_a_chart_of_errors",
    (GLOBAL, "update every"): f"{_OPTIONS}::test_a_program_is_sampled_as_seldom_as_the_file_says",
    (GLOBAL, "apps"): f"{_OPTIONS}::test_groups_that_are_not_wanted_have_no_charts",
    (GLOBAL, "disable apps"): f"{_OPTIONS}::test_groups_that_are_not_wanted_have_no_charts",
    (GLOBAL, "cgroups"): f"{_OPTIONS}::test_groups_that_are_not_wanted_have_no_charts",
    (GLOBAL, "pid table size"): "kernel/test_slots.py::test_hosts_total_is_exact_when_slots_have_run_out",
    (GLOBAL, "btf path"): "process/test_loader.py::"
    "test_plan_that_needs_a_types_layout_is_left_out_where_btf_path_has_no_types",
    (GLOBAL, "ebpf type format"): f"{_OPTIONS}::test_kinds_of_hooks_are_tried_in_the_order_of_the_file",
    (GLOBAL, "ebpf co-re tracing"): f"{_OPTIONS}::test_kinds_of_hooks_are_tried_in_the_order_of_the_file",
    (GLOBAL, "maps per core"): f"{_OPTIONS}::"
    "test_counters_that_are_spread_over_processors_take_more_memory_and_count_the_same",
    (GLOBAL, "collect pid"): "kernel/test_collect_pid.py::test_all_counts_at_the_thread_by_its_own_name",
    (GLOBAL, "lifetime"): "process/test_come_and_go.py::"
    "test_started_program_counts_is_listed_and_is_stopped_after_its_lifetime",
    (GLOBAL, "socket monitoring table size"): f"{_CONNECTIONS_SEEN}::"
    "test_a_full_table_counts_in_the_line_of_all_others",
    (CONNECTIONS, "enabled"): f"{_CONNECTIONS_SEEN}::test_connections_that_are_switched_off_cost_nothing",
    (CONNECTIONS, "maximum dimensions"): f"{_CONNECTIONS_SEEN}::"
    "test_3001_connections_of_97_clients_are_exact_and_their_sums_the_same_with_few_lines",
    (CONNECTIONS, "resolve hostnames"): f"{_CONNECTIONS_SEEN}::"
    "test_hosts_and_services_are_called_by_their_names",
    (CONNECTIONS, "resolve service names"): f"{_OPTIONS}::"
    "test_services_are_called_by_the_names_of_the_systems_list",
    (CONNECTIONS, "ports"): "unit/test_connections.py::test_only_ports_and_addresses_of_the_lists_are_shown",
    (CONNECTIONS, "ips"): f"{_CONNECTIONS_SEEN}::"
    "test_only_addresses_of_the_list_are_shown_in_either_direction",
    (CONNECTIONS, "hostnames"): f"{_CONNECTIONS_SEEN}::test_hosts_and_services_are_called_by_their_names",
    ("filesystem", "dist"): "unit/test_switches.py::test_a_part_that_is_switched_off_is_never_wanted",
    ("syscalls", ""): "kernel/test_vfs.py::"
    "test_calls_that_the_configuration_switches_off_are_absent_and_status_says_why",
    (SWITCHES, ""): f"{_OPTIONS}::test_a_program_that_is_switched_off_does_not_run",
    (SWITCHES, CONNECTIONS): f"{_CONNECTIONS_SEEN}::test_connections_that_are_switched_off_cost_nothing",
    (SERVICE_NAMES, ""): f"{_CONNECTIONS_SEEN}::test_hosts_and_services_are_called_by_their_names",
    **{
        (SUPERVISION, key): f"{_OPTIONS}::"
        "test_a_worker_that_keeps_dying_is_given_up_and_tried_again_as_the_file_says"
        for key in (
            *("startsecs", "startretries", "fatal_retry_secs"),
            *("backoff_initial_secs", "backoff_max_secs"),
        )
    },
    (SUPERVISION, "stopwaitsecs"): "process/test_reload.py::test_supervision_is_changed_while_all_goes_on",
    (SUPERVISION, "loglevel"): "process/test_reload.py::test_supervision_is_changed_while_all_goes_on",
    (SUPERVISION, "loader_timeout_secs"): "process/test_loader.py::"
    "test_loader_that_hangs_is_killed_and_its_program_comes_back_while_others_run",
    (SUPERVISION, "hung_after_ticks"): "process/test_faults.py::"
    "test_a_process_that_hangs_is_replaced_and_nothing_is_lost",
    (SUPERVISION, "chart naming"): "agent/test_everything.py::"
    "test_agent_takes_all_programs_with_100_groups_and_50_containers_and_has_nothing_to_say",
    (SUPERVISION, "map reading"): "kernel/test_map_reading.py::"
    "test_events_are_counted_exactly_when_maps_are_read_by_look_ups",
    (SUPERVISION, "kprobe attach"): "kernel/test_kprobe_lines.py::"
    "test_lines_count_right_outlive_a_worker_and_go_with_their_program",
    (SUPERVISION, "stream group"): "process/test_serve.py::"
    "test_who_may_read_the_stream_is_who_the_configuration_says",
}
"""By section and key; key "" stands for all keys of the section that have no line of their own."""


def heeded() -> list[Key]:
    """Every option that something heeds, but for the names that sections had in old files."""
    of_modules = [o for module in MODULES.values() if module.exists for o in module.extra]
    options = [*(o for o in MAIN.options if o.used), *of_modules]
    keys = {(option.section, option.key) for option in options}
    keys |= {(GLOBAL, key) for module in MODULES.values() for key in module.heeds}
    return sorted({(CONNECTIONS if s == OLD_CONNECTIONS else s, key) for s, key in keys})


def place_of(section: str, key: str) -> str | None:
    if section == "filesystem":
        key = "dist" if key.endswith("dist") else key
    return SHOWN.get((section, key)) or SHOWN.get((section, ""))


@pytest.mark.parametrize(("section", "key"), heeded())
def test_an_option_has_a_test_that_shows_its_effect(section: str, key: str) -> None:
    place = place_of(section, key)
    assert place, "no test"
    path, _, name = place.partition("::")
    tree = ast.parse((ROOT / "tests" / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
