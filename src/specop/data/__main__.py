"""`python -m specop.data`."""

import sys

from specop.data.main import main

sys.exit(main())
