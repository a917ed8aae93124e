"""The demo from the first line to the last: set-up, loop, comparison, second generation, what to look at next."""

import time
from pathlib import Path

from rich.console import Console

from demo import install, leave, progress, report, story, traffic
from demo.world import World
from local import console


def run(out: Path, started: float) -> None:
    """Tell the whole story; `started` is the Unix time at which a person began to wait."""
    progress.heading("Set-up")
    world = install.install(out)
    try:
        _loop(world, started)
    except BaseException:
        leave.logs(world)
        raise
    leave.invitation(world)


def _loop(world: World, started: float) -> None:
    terminal = Console(stderr=True)
    requests = traffic.concierge()
    first, newer = requests[: story.FIRST_REQUESTS], requests[story.FIRST_REQUESTS :]
    agent = story.serve_base(world)
    loop_started = time.time()

    progress.heading("Generation 1")
    story.send(agent, first)
    one = story.generation(world, "agent-v1")
    world.specop("status")
    story.approve(world, one.digest)
    story.start_base(world)
    drafted = story.serve_drafted(world, one.digest)
    base = story.base_endpoint(world)
    requests_held_out = story.held_out(world, one.dataset)
    older, held_out = requests_held_out[: -story.REPLAYED][-story.WARM_UP :], requests_held_out[-story.REPLAYED :]
    own = story.compare("held-out requests, on both endpoints", base, drafted, held_out, older)
    found = report.build(one, own)
    terminal.print(report.table(found))
    loop_ended = time.time()

    warm_up, *tasks = story.foreign_requests()
    foreign = story.compare("questions of another kind, on both", base, drafted, tasks, [warm_up])
    report.add_foreign(found, foreign)
    console.say(f"  foreign workload: {found['foreign']['speedup']:.2f}x; a drafter is made for one workload")

    progress.heading("Generation 2")
    second_started = time.time()
    story.send(drafted, newer)
    story.retrain(world, len(requests), len(newer))
    two = story.generation(world, "agent-v2")
    story.approve(world, two.digest)
    drafted = story.serve_drafted(world, two.digest)
    report.add_second(found, two, story.acceptance_length(drafted, held_out))
    console.say(f"  acceptance length {found['generation2']['acceptance_length']:.2f}")

    found["seconds"] = {
        "setup": round(loop_started - started),
        "loop": round(loop_ended - loop_started),
        "generation2": round(time.time() - second_started),
    }
    report.write(found, world.out / "report.json")
