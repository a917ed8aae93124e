"""Packs that are ready on the device when they are asked for: one thread assembles the next ones meanwhile.

What is not on disk goes through the teacher there, too. On a GPU the thread has a stream of its own, so that the
teacher and the copies, which start from pinned memory, run beside the training step; and it waits for no copy: an
event stands behind each pack's, and the consumer's stream waits for that. An error in the thread is raised where its
pack would have been yielded; a consumer that leaves early waits for at most one pack.

Races on a GPU: a copy's source is kept by torch's pinned allocator until the copy is done, and then used again for the
next packs (in powers of two: up to twice a pack's states, for the two or three packs under way). A pack's memory
belongs to the feed's stream and is used by the consumer's: the allocator is told so, and does not give it away before
both are done with it. So what a pack holds does not depend on how far ahead it was assembled.
"""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields

import torch
from torch import Tensor

from specop.trainer.batches import Pack
from specop.trainer.states import States

AHEAD = 2
"""Packs that are assembled before they are asked for."""

Assembled = tuple[Pack, torch.cuda.Event | None]
"""A pack, and what stands behind its copies to a GPU."""


def feed(states: States, packs: Iterable[list[int]], device: torch.device) -> Generator[Pack, None, None]:
    """Yield packs of these rows, in order. To be closed (`contextlib.closing`) where it is not used up."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    ready: deque[Future[Assembled]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        try:
            for members in packs:
                ready.append(pool.submit(_assemble, states, members, device, stream))
                if len(ready) > AHEAD:
                    yield _taken(*ready.popleft().result())
            while ready:
                yield _taken(*ready.popleft().result())
        finally:
            for future in ready:
                future.cancel()


def _assemble(states: States, members: list[int], device: torch.device, stream: torch.cuda.Stream | None) -> Assembled:
    if stream is None:
        return states.pack(members, device), None
    with torch.cuda.device(device), torch.cuda.stream(stream):
        return states.pack(members, device), stream.record_event()


def _taken(pack: Pack, copied: torch.cuda.Event | None) -> Pack:
    """Let the consumer's stream wait for the copies, and tell the allocator that it uses what they wrote."""
    if copied is not None:
        stream = torch.cuda.current_stream(pack.last_AH.device)
        stream.wait_event(copied)
        for field in fields(Pack):
            value = getattr(pack, field.name)
            if isinstance(value, Tensor):
                value.record_stream(stream)
    return pack
