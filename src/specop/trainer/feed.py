"""Packs that are ready on the device when they are asked for: one thread assembles the next ones meanwhile.

What is not on disk goes through the teacher there, too. On a GPU the thread has a stream of its own, so that copies and
the teacher run beside the training step. An error in the thread is raised where its pack would have been yielded; a
consumer that leaves early waits for at most one pack.
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


def feed(states: States, packs: Iterable[list[int]], device: torch.device) -> Generator[Pack, None, None]:
    """Yield packs of these rows, in order. To be closed (`contextlib.closing`) where it is not used up."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    ready: deque[Future[Pack]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        try:
            for members in packs:
                ready.append(pool.submit(_assemble, states, members, device, stream))
                if len(ready) > AHEAD:
                    yield _taken(ready.popleft().result())
            while ready:
                yield _taken(ready.popleft().result())
        finally:
            for future in ready:
                future.cancel()


def _assemble(states: States, members: list[int], device: torch.device, stream: torch.cuda.Stream | None) -> Pack:
    if stream is None:
        return states.pack(members, device)
    with torch.cuda.device(device), torch.cuda.stream(stream):
        pack = states.pack(members, device)
    stream.synchronize()
    return pack


def _taken(pack: Pack) -> Pack:
    """Tell the allocator that the consumer's stream uses what the feed's stream allocated."""
    if pack.last_AH.is_cuda:
        for field in fields(Pack):
            value = getattr(pack, field.name)
            if isinstance(value, Tensor):
                value.record_stream(torch.cuda.current_stream())
    return pack
