"""Between events and plans: keyed queue, worker, gather, executor, resync."""
