"""What is mounted below our folders, and ending that before they are removed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from local import console

_MOUNT_POINT = 4  # field of /proc/self/mountinfo


def below(folder: Path) -> list[Path]:
    """Return the mount points in a folder, deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[_MOUNT_POINT]) for line in lines]
    return sorted((Path(point) for point in points if Path(point).is_relative_to(folder)), reverse=True)


def unmount_below(folder: Path) -> None:
    """Unmount all that is mounted in a folder; raise if something stays, for then the folder must not be removed."""
    for _ in range(3):  # a mount point may carry several mounts
        for point in below(folder):
            subprocess.run(["umount", point], capture_output=True, check=False)
    if left := below(folder):
        message = f"still mounted, so nothing was removed: {', '.join(map(str, left))}"
        raise console.LocalError(message)
