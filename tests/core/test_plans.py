"""Golden plans: what the planner decides in each situation, as the text that users read."""

from __future__ import annotations

from reconciler.core.contracts import ExitRecord, ProcessState
from reconciler.core.history import after_end
from reconciler.core.observed import Demand, Failures, Health, History
from reconciler.core.plan import Kill, Start, Stop
from reconciler.core.spec import StopSpec
from tests.core.worlds import NOW, declared, ended, good, launch, lines, plan, replica, revision, world


def test_a_declared_instance_is_started() -> None:
    assert lines(plan(declared("tiny"), world=world())) == ["start  tiny#1 at A: not running"]


def test_an_unchanged_instance_is_never_touched() -> None:
    assert lines(plan(declared("tiny"), world=world(replica("tiny")))) == []


def test_every_replica_is_started_at_once() -> None:
    assert lines(plan(declared("tiny", replicas=3), world=world())) == [
        "start  tiny#1 at A: not running",
        "start  tiny#2 at A: not running",
        "start  tiny#3 at A: not running",
    ]


def test_serials_are_never_used_twice() -> None:
    planned = plan(declared("tiny"), world=world(histories={"tiny": History(next_serial=7)}))
    assert lines(planned) == ["start  tiny#7 at A: not running"]


def test_a_changed_instance_gets_its_successor_first() -> None:
    planned = plan(
        declared("tiny", "b"),
        world=world(replica("tiny"), histories={"tiny": good("a")}, causes={"tiny": "max_model_len 4096 -> 8192"}),
    )
    assert lines(planned) == [
        "start  tiny#2 at B: max_model_len 4096 -> 8192; start-first, tiny#1 serves until it is ready"
    ]


def test_the_old_one_stays_while_the_new_one_loads() -> None:
    planned = plan(
        declared("tiny", "b"),
        world=world(replica("tiny"), replica("tiny", 2, "b", ready=False), histories={"tiny": good("a")}),
    )
    assert lines(planned) == ["wait   tiny: until tiny#2 is ready"]


def test_the_old_one_is_drained_once_the_new_one_is_ready() -> None:
    planned = plan(
        declared("tiny", "b"), world=world(replica("tiny"), replica("tiny", 2, "b"), histories={"tiny": good("b")})
    )
    assert lines(planned) == ["drain  tiny#1: its definition changed; its successor is ready"]


def test_draining_waits_for_requests() -> None:
    old = replica("tiny", draining_since=NOW - 3, in_flight=2)
    planned = plan(declared("tiny", "b"), world=world(old, replica("tiny", 2, "b")))
    assert lines(planned) == ["wait   tiny: until 2 requests on tiny#1 end"]
    assert planned.wake_at == NOW - 3 + StopSpec().drain_timeout


def test_draining_ends_with_the_last_request() -> None:
    old = replica("tiny", draining_since=NOW - 3)
    planned = plan(declared("tiny", "b"), world=world(old, replica("tiny", 2, "b")))
    assert lines(planned) == ["stop   tiny#1: drained"]


def test_draining_ends_at_its_timeout() -> None:
    old = replica("tiny", draining_since=NOW - 31, in_flight=1)
    planned = plan(declared("tiny", "b"), world=world(old, replica("tiny", 2, "b")))
    assert lines(planned) == ["stop   tiny#1: 1 requests still run after 30s of draining"]


def test_stopping_is_waited_for_then_killed() -> None:
    one = replica("tiny", state=ProcessState.STOPPING, stop_since=NOW - 5)
    planned = plan(world=world(one))
    assert lines(planned) == ["wait   tiny: until tiny#1 has ended"]
    assert planned.wake_at == NOW + 15
    late = plan(world=world(one), now=NOW + 15)
    assert lines(late) == ["kill   tiny#1: still there 20s after the stop signal"]


def test_a_replica_that_never_served_gets_little_grace() -> None:
    one = replica("tiny", state=ProcessState.STOPPING, ready=False, stop_since=NOW - 4)
    assert [type(action) for action in plan(world=world(one)).actions] == [Kill]


def test_a_killed_replica_is_waited_for_without_killing_again() -> None:
    one = replica("tiny", state=ProcessState.STOPPING, stop_since=NOW - 50, killed=True)
    assert lines(plan(world=world(one))) == ["wait   tiny: until nothing of tiny#1 is left"]


def test_nothing_is_started_before_the_last_of_the_old_is_gone() -> None:
    one = replica("tiny", state=ProcessState.STOPPING, stop_since=NOW - 1)
    assert lines(plan(declared("tiny"), world=world(one))) == ["wait   tiny: until tiny#1 has ended"]


def test_a_removed_instance_is_drained() -> None:
    assert lines(plan(world=world(replica("tiny")))) == ["drain  tiny#1: not declared any more"]


def test_a_disabled_instance_is_drained() -> None:
    planned = plan(declared("tiny", enabled=False), world=world(replica("tiny")))
    assert lines(planned) == ["drain  tiny#1: enabled: false"]


def test_a_starting_replica_that_is_not_wanted_is_stopped_at_once() -> None:
    planned = plan(declared("tiny", enabled=False), world=world(replica("tiny", ready=False)))
    assert "stop   tiny#1: enabled: false" in lines(planned)
    assert isinstance(planned.actions[0], Stop)


def test_unknown_is_never_read_as_stopped() -> None:
    one = replica("tiny", state=ProcessState.UNKNOWN)
    planned = plan(declared("tiny", "b"), world=world(one))
    assert planned.actions == ()
    assert lines(planned) == ["wait   tiny: cannot tell what tiny#1 does; looking again"]


def test_an_exit_is_folded_into_history_before_anything_is_started() -> None:
    assert lines(plan(declared("tiny"), world=world(ended("tiny")))) == ["forget tiny#1: exit code 1"]


def test_a_failed_instance_waits_out_its_backoff() -> None:
    failed = History(next_serial=3, failures={revision("a"): Failures(count=2, last_at=NOW - 1)})
    planned = plan(declared("tiny"), world=world(histories={"tiny": failed}))
    assert lines(planned) == ["wait   tiny: 2 failed in a row; attempt 3 follows"]
    assert planned.wake_at is not None
    assert NOW < planned.wake_at <= NOW - 1 + 2
    later = plan(declared("tiny"), world=world(histories={"tiny": failed}), now=NOW + 1)
    assert lines(later) == ["start  tiny#3 at A: attempt 3"]


def test_backoff_doubles_up_to_its_cap() -> None:
    waits = []
    for count in range(1, 14):
        failed = History(failures={revision("a"): Failures(count=count, last_at=NOW)})
        wake_at = plan(declared("tiny"), world=world(histories={"tiny": failed})).wake_at
        assert wake_at is not None
        waits.append(wake_at - NOW)
    assert all(0.8 * min(2.0**n, 300) <= wait <= min(2.0**n, 300) for n, wait in enumerate(waits))


def test_restart_policy_never_is_obeyed() -> None:
    failed = History(failures={revision("a"): Failures(count=1, last_at=NOW - 500)})
    planned = plan(declared("tiny", restart={"policy": "never"}), world=world(histories={"tiny": failed}))
    assert lines(planned) == ["wait   tiny: it ended and restart.policy is never"]
    assert planned.wake_at is None


def test_max_restarts_is_obeyed() -> None:
    failed = History(failures={revision("a"): Failures(count=3, last_at=NOW - 500)})
    planned = plan(declared("tiny", restart={"max_restarts": 2}), world=world(histories={"tiny": failed}))
    assert lines(planned) == ["wait   tiny: it failed 3 times in a row and restart.max_restarts is 2"]


def test_a_start_that_takes_too_long_is_ended_as_a_failure() -> None:
    slow = replica("tiny", ready=False, started=NOW - 61)
    planned = plan(declared("tiny", start_timeout="60s"), world=world(slow))
    assert lines(planned) == ["stop   tiny#1: not ready within start_timeout 1m"]
    assert planned.actions[0] == Stop(
        handle=slow.facts.handle, asked="timeout", cause="not ready within start_timeout 1m"
    )


def test_a_hopeless_start_is_ended_at_once() -> None:
    bad = replica("tiny", ready=False, health=Health(hopeless="HTTP 503 unavailable"))
    assert lines(plan(declared("tiny"), world=world(bad))) == [
        "stop   tiny#1: will not become ready: HTTP 503 unavailable"
    ]


def test_a_hung_replica_is_ended_but_a_busy_one_is_not() -> None:
    sick = Health(ready=False, failures=3, message="no answer within 5s")
    hung = replica("tiny", health=sick)
    assert lines(plan(declared("tiny"), world=world(hung))) == [
        "stop   tiny#1: no good answer to 3 liveness probes: no answer within 5s"
    ]
    busy = replica("tiny", health=sick, progress_at=NOW - 1)
    assert lines(plan(declared("tiny"), world=world(busy))) == []


def test_stop_first_makes_room_first() -> None:
    spec = declared("tiny", "b", update={"strategy": "stop_first"})
    histories = {"tiny": good("a")}
    assert lines(plan(spec, world=world(replica("tiny"), histories=histories))) == [
        "drain  tiny#1: its definition changed; stop-first"
    ]
    stopping = replica("tiny", state=ProcessState.STOPPING, stop_since=NOW)
    assert lines(plan(spec, world=world(stopping, histories=histories))) == ["wait   tiny: until tiny#1 has ended"]
    assert lines(plan(spec, world=world(histories=histories))) == ["start  tiny#1 at B: its definition changed"]


def test_stop_first_goes_one_by_one() -> None:
    spec = declared("tiny", "b", replicas=2, update={"strategy": "stop_first"})
    both = world(replica("tiny"), replica("tiny", 2), histories={"tiny": good("a")})
    assert lines(plan(spec, world=both)) == ["drain  tiny#1: its definition changed; stop-first"]
    one_new = world(replica("tiny", 2), replica("tiny", 3, "b", ready=False), histories={"tiny": good("a")})
    assert lines(plan(spec, world=one_new)) == ["wait   tiny: until tiny#3 is ready"]


def test_a_pinned_port_is_never_asked_for_twice() -> None:
    spec = declared("tiny", "b", port=9000)
    old = replica("tiny", 1, "a", port=9000)
    assert lines(plan(spec, world=world(old, histories={"tiny": History(good=launch("a", port=9000))}))) == [
        "drain  tiny#1: its definition changed; stop-first, both need port 9000"
    ]


def test_a_move_to_another_pinned_port_costs_no_service() -> None:
    spec = declared("tiny", "b", port=9000)
    old = replica("tiny", 1, "a", port=9001)
    assert lines(plan(spec, world=world(old, histories={"tiny": History(good=launch("a", port=9001))})))[0].endswith(
        "start-first, tiny#1 serves until it is ready"
    )


def test_start_first_rolls_over_replicas_with_one_extra() -> None:
    spec = declared("tiny", "b", replicas=2)
    start = world(replica("tiny"), replica("tiny", 2), histories={"tiny": good("a")})
    assert [type(action) for action in plan(spec, world=start).actions] == [Start]
    ready = world(replica("tiny"), replica("tiny", 2), replica("tiny", 3, "b"), histories={"tiny": good("b")})
    assert lines(plan(spec, world=ready)) == ["drain  tiny#1: its definition changed; its successor is ready"]


def test_fewer_replicas_drain_the_newest() -> None:
    planned = plan(declared("tiny"), world=world(replica("tiny"), replica("tiny", 2), replica("tiny", 3)))
    assert lines(planned) == ["drain  tiny#3: replicas is 1", "drain  tiny#2: replicas is 1"]


def test_an_edit_reverted_in_the_middle_only_ends_the_newcomer() -> None:
    planned = plan(
        declared("tiny", "a"),
        world=world(replica("tiny"), replica("tiny", 2, "b", ready=False), histories={"tiny": good("a")}),
    )
    assert [line for line in lines(planned) if not line.startswith("wait")] == ["stop   tiny#2: its definition changed"]


def test_a_revision_that_fails_is_given_up_and_the_good_one_stays() -> None:
    history = good("a", failures={revision("b"): Failures(count=3, last_at=NOW - 500)})
    planned = plan(declared("tiny", "b"), world=world(replica("tiny"), histories={"tiny": history}))
    assert planned.actions == ()
    assert "was given up: 3 starts failed" in planned.waits[0].reason


def test_one_start_that_timed_out_is_enough_to_give_a_revision_up() -> None:
    slow = replica(
        "tiny", 2, "b", state=ProcessState.EXITED, ready=False, exit=ExitRecord(asked="timeout", monotonic=NOW)
    )
    history = after_end(good("a"), slow.facts, NOW)
    planned = plan(declared("tiny", "b"), world=world(replica("tiny"), histories={"tiny": history}), now=NOW + 999)
    assert planned.actions == ()
    assert "was given up: it was not ready within start_timeout" in planned.waits[0].reason


def test_after_stop_first_the_good_revision_returns() -> None:
    history = good("a", failures={revision("b"): Failures(count=3, last_at=NOW - 500)}, next_serial=5)
    spec = declared("tiny", "b", update={"strategy": "stop_first"})
    planned = plan(spec, world=world(histories={"tiny": history}))
    assert lines(planned)[0].startswith("start  tiny#5 at A: ")


def test_without_rollback_the_new_revision_is_retried() -> None:
    history = good("a", failures={revision("b"): Failures(count=3, last_at=NOW - 500)}, next_serial=5)
    spec = declared("tiny", "b", update={"strategy": "stop_first", "rollback": False})
    assert lines(plan(spec, world=world(histories={"tiny": history})))[0].startswith("start  tiny#5 at B: ")


def test_only_so_many_instances_are_replaced_at_a_time() -> None:
    names = ["one", "two", "three"]
    planned = plan(
        *(declared(name, "b") for name in names),
        world=world(*(replica(name) for name in names), histories={name: good("a") for name in names}),
    )
    assert [action.instance for action in planned.actions if isinstance(action, Start)] == ["one", "three"]
    assert [wait.what.value for wait in planned.waits_of("two")] == ["slot"]


def test_a_replacement_under_way_keeps_its_turn() -> None:
    names = ["one", "two", "three"]
    newcomers = [replica("three", 2, "b", ready=False), replica("two", 2, "b", ready=False)]
    planned = plan(
        *(declared(name, "b") for name in names),
        world=world(*(replica(name) for name in names), *newcomers, histories={name: good("a") for name in names}),
    )
    assert planned.actions == ()
    assert [wait.what.value for wait in planned.waits_of("one")] == ["slot"]


def test_a_requested_restart_replaces_what_started_before_it() -> None:
    history = good("a", restart_requested_at=NOW - 10)
    planned = plan(declared("tiny"), world=world(replica("tiny"), histories={"tiny": history}))
    assert lines(planned) == ["start  tiny#2 at A: restart requested; start-first, tiny#1 serves until it is ready"]


def test_on_demand_starts_when_asked_and_stops_when_idle() -> None:
    spec = declared("tiny", state="on_demand", idle_timeout="10m")
    assert lines(plan(spec, world=world())) == []
    asked = plan(spec, world=world(demand={"tiny": Demand(waiting=1)}))
    assert lines(asked) == ["start  tiny#1 at A: not running"]
    used = plan(spec, world=world(replica("tiny"), demand={"tiny": Demand(last_end=NOW - 60)}))
    assert lines(used) == ["wait   tiny: stops when idle for 10m"]
    assert used.wake_at == NOW + 540
    idle = plan(spec, world=world(replica("tiny", started=0.0), demand={"tiny": Demand(last_end=NOW - 600)}))
    assert lines(idle) == ["drain  tiny#1: idle for 10m"]


def test_an_idle_stop_never_happens_during_a_request() -> None:
    spec = declared("tiny", state="on_demand", idle_timeout="10m")
    busy = world(replica("tiny", started=0.0), demand={"tiny": Demand(in_flight=1, last_end=NOW - 9999)})
    assert lines(plan(spec, world=busy)) == []


def test_an_on_demand_start_that_nobody_waits_for_is_finished() -> None:
    spec = declared("tiny", state="on_demand", idle_timeout="1s")
    assert plan(spec, world=world(replica("tiny", ready=False))).actions == ()


def test_reordered_inputs_give_the_same_plan() -> None:
    names = ["one", "two", "three"]
    forward = plan(
        *(declared(name, "b") for name in names),
        world=world(*(replica(name) for name in names), histories={name: good("a") for name in names}),
    )
    backward = plan(
        *(declared(name, "b") for name in reversed(names)),
        world=world(*(replica(name) for name in reversed(names)), histories={name: good("a") for name in names}),
    )
    assert forward == backward
