"""Capture finished requests of vLLM's OpenAI server as JSON lines: `--middleware specop_capture.Capture`.

    middleware ─► record ─► writer ─► *.jsonl
    (in the request's task)  (one thread; stream: chunks become an answer)

Standard library only, and nothing of specop: this folder is copied beside an upstream vLLM image and imported there. It
is not the shipper: lines go to files in a folder, and whoever ships them takes only `*.jsonl` (a file being written is
`*.open`).

What it minds:
- A response is passed on before it is looked at; parsing and writing happen in one background thread, fed by a queue.
- Nothing that fails here can fail a request: every loss is counted by cause in `<pid>.counters`; no more is said of it.
- Memory: what is buffered, in flight and queued, is charged to one budget; a record that does not fit is dropped.
- `time` is the moment the answer ended. One thread stamps, one queue orders: a file holds nothing older than its name
  says, so that a shipper can tell up to when everything has been shipped.
- Content is written to the files and nowhere else.
"""

from .middleware import Capture

__all__ = ["Capture"]
