"""`python -m specop.trainer`.

Every pack has its own shape, and on CPU torch and oneDNN each keep the compiled product of every shape that they have
seen, with its scratch memory: gigabytes over a run, and no faster. Their caches are kept small, which has to be said
before torch is loaded.
"""

import os
import sys

for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "32")

from specop.trainer.main import main  # noqa: E402 - see above

sys.exit(main())
