"""What is due at each step, each action once."""

from algd.run.schedule import Schedule


def schedule(**changes: int | list[int]) -> Schedule:
    """Return a schedule of 10 steps: evaluations every 4, metrics every 5, checkpoints every 3, and 2 snapshots."""
    return Schedule({"total_steps": 10, "snapshots": 2, "eval": {"every": 4}, "log_every": 5,
                     "checkpoint": {"every": 3}} | changes)


def carried_out(plan: Schedule, initial_steps: int) -> dict[tuple[int, int], list[str]]:
    """Run through a schedule and return (step, initial steps left) ↦ actions."""
    done: dict[tuple[int, int], list[str]] = {}
    step, left, transitions = 0, initial_steps, 0
    while True:
        for action in plan.due(step, left, transitions):
            plan.mark_done(action, step, transitions)
            done.setdefault((step, left), []).append(action)
        assert plan.due(step, left, transitions) == []
        if step == 10:
            return done
        step, left, transitions = step + (left == 0), max(left - 1, 0), transitions + 1


def test_a_whole_run() -> None:
    assert carried_out(schedule(), initial_steps=4) == {
        (0, 4): ["checkpoint"], (0, 1): ["checkpoint"],  # transitions 0 and 3, before the first evaluation
        (0, 0): ["evaluation", "metrics"],
        (2, 0): ["checkpoint"],
        (4, 0): ["evaluation", "metrics"],
        (5, 0): ["metrics", "snapshot", "checkpoint"],
        (8, 0): ["evaluation", "metrics", "checkpoint"],
        (10, 0): ["evaluation", "metrics", "snapshot"]}


def test_snapshots_at_steps_that_are_listed() -> None:
    done = carried_out(schedule(snapshots=[3, 4, 50]), 0)
    assert [step for (step, _), actions in done.items() if "snapshot" in actions] == [3, 4]


def test_without_snapshots() -> None:
    assert all("snapshot" not in actions for actions in carried_out(schedule(snapshots=0), 0).values())


def test_what_was_done_is_not_due_in_a_resumed_run() -> None:
    before, after = schedule(), schedule()
    before.mark_done("evaluation", 4, 8)
    after.done_at = before.done_at
    assert after.due(4, 0, 8) == ["metrics"] and after.due(8, 0, 12) == ["evaluation", "metrics", "checkpoint"]
    assert not after.is_done("finish", 10, 14)
