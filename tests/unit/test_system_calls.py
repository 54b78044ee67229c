"""The C text that tells which hooks a system call is for."""

import pytest

from supervisor.kernel import system_calls
from supervisor.kernel.plans import Plan, Target, entering, function_plan, leaving, syscall_plan

OPEN = syscall_plan(entering("openat", "on_open", "0"), entering("creat", "on_open", "0", optional=True))
CREATE = syscall_plan(entering("openat", "on_create", "argument(call, 2)"))
CLOSE = syscall_plan(leaving("close", "on_close"))


def text_of(**plans: Plan) -> str:
    return system_calls.c_text(system_calls.number_plans({name: [plan] for name, plan in plans.items()}))


def test_one_call_is_given_to_every_hook_that_names_it() -> None:
    assert (
        text_of(open=OPEN, create=CREATE)
        == """\
int system_calls__enter(u64 *args)
{
    u64 call = args[0], taken;
    switch (args[1]) {
#ifdef __NR_openat
    case __NR_openat:
#endif
        taken = taken_of(call);
        if (taken & (1ULL << 0))
            on_open(0);
        if (taken & (1ULL << 1))
            on_create(argument(call, 2));
        break;
#ifdef __NR_creat
    case __NR_creat:
#endif
        taken = taken_of(call);
        if (taken & (1ULL << 0))
            on_open(0);
        break;
    }
    return 0;
}
"""
    )


def test_calls_that_mean_the_same_share_their_text() -> None:
    text = text_of(open=OPEN)
    assert text.count("on_open(0);") == 1
    assert text.count("case __NR_") == 2


def test_the_end_of_a_call_has_its_result_and_finds_its_number_in_the_registers() -> None:
    text = text_of(close=CLOSE)
    assert "int system_calls__exit(u64 *args)" in text
    assert "long ret = args[1];" in text
    assert "switch (number_of(call))" in text
    assert "on_close(ret);" in text


def test_a_program_has_one_function_for_each_side_that_it_looks_at() -> None:
    assert "enter" not in text_of(close=CLOSE)
    both = text_of(open=OPEN, create=CREATE, close=CLOSE)
    assert both.count("int system_calls__") == 2


def test_plans_without_system_calls_need_nothing() -> None:
    assert text_of(open=function_plan("kprobe", "do_sys_open", "on_open", "0")) == ""


def test_a_system_call_may_be_one_target_among_others() -> None:
    mixed = Plan("kprobe", (Target("do_exit", "on_exit"), entering("close", "on_close", "0")))
    assert "case __NR_close" in text_of(close=mixed)
    assert "do_exit" not in text_of(close=mixed)


def test_more_plans_than_the_mask_has_bits_are_refused() -> None:
    plans = {f"hook {n}": [syscall_plan(entering("close", "on_close", str(n)))] for n in range(65)}
    with pytest.raises(ValueError, match="65 plans"):
        system_calls.number_plans(plans)
