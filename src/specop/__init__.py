"""specop: speculative-decoding drafters trained on a team's own traffic. Importing this costs nothing."""

__version__ = "0.1.0"
