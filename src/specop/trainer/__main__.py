"""`python -m specop.trainer`."""

import sys

from specop.trainer.main import main

sys.exit(main())
