"""`python -m specop.trainer`."""

import sys

from specop.trainer.libraries import settle

settle()

from specop.trainer.main import main  # noqa: E402 - torch is loaded after that

sys.exit(main())
