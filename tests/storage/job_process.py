"""A Job's process whose work is what its configuration's name says. Run by test_job.py."""

import errno
import os
import sys
import time

from prometheus_client import Counter

from specop.api import reasons
from specop.api.dataset import DatasetCounts, DatasetFacts, DatasetProgress
from specop.api.jobs import Outcome, RunConfig
from specop.api.shared import TargetFacts
from specop.common.errors import UserError
from specop.storage.job import Job, run_job
from specop.storage.stores import open_store

DIGEST = "sha256:" + "0" * 64
TARGET = TargetFacts(
    fingerprint=DIGEST, tokenizer_hash=DIGEST, chat_template_hash=DIGEST, vocab_size=1, hidden_size=1, num_layers=1
)
SECRET = "content-of-traffic"


def work(config: RunConfig, job: Job[RunConfig]) -> DatasetFacts:
    job.report(DatasetProgress(stage=config.name, rows=7))
    Counter("specop_rows", "Rows.", registry=job.registry).inc(7)
    sys.stdout.write("working\n")
    sys.stdout.flush()
    match config.name:
        case "user-error":
            raise UserError(reasons.NO_USABLE_ROWS, "Every row was dropped. " + "ü" * 5000)
        case "unexpected":
            raise ValueError(SECRET)
        case "memory":
            raise MemoryError
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "killed":
            os.kill(os.getpid(), 9)
        case "waits":
            while True:
                job.check()
                time.sleep(0.01)
        case "races":
            job_uri = config.output + "/runs/" + config.uid + "/result.json"
            open_store(job_uri, config.store).put(job_uri, other_result())
    return facts(config.name)


def facts(name: str) -> DatasetFacts:
    return DatasetFacts(
        digest=DIGEST, uri=f"s3://b/{name}", rows=1, counts=DatasetCounts(read=1, kept=1), target=TARGET
    )


def other_result() -> bytes:
    return Outcome(kind="dataset", ok=True, dataset=facts("other")).model_dump_json(exclude_none=True).encode()


if __name__ == "__main__":
    sys.exit(run_job("dataset", RunConfig, work, private=True))
