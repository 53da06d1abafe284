"""The plan that makes one empty network namespace ahead of the container that will use it."""

from __future__ import annotations

from pycontainer.plan.steps import MODE_BASE, Plan, step

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def compile_network(*, in_user_namespace: bool) -> Plan:
    """A clone in a new network namespace that raises loopback, says so and waits to be let go."""
    enter = (
        step("setns", namespace="user", nstype=CLONE_NEWUSER),
        step("set_dumpable", value=1),  # entering cleared it; the application opens its /proc entry
    )
    return Plan(
        mode=MODE_BASE,
        clone_flags=CLONE_NEWNET,
        inputs=("user",) if in_user_namespace else (),
        outside=enter if in_user_namespace else (),
        beside=(step("send_child", control="control"), step("release_child")),
        inside=(
            step("await_parent"),
            step("raise_loopback"),
            step("ready", control="control"),
        ),
    )
