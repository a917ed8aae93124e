"""The files of the local stand-in for python:3.11-slim, gathered from this machine.

It is: what `images/python/Dockerfile` copies.
It is not: a distribution: there is no package manager in it, and no more than our pods load.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from local import console, interpreter, python

PIP = "pip==26.3"
# What wheels expect of a system: the whole C library, the C++ one, and what torch and vLLM load.
_LIBRARIES = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libutil.so.1", "libresolv.so.2"),
    *("libnss_dns.so.2", "libnss_files.so.2", "libgcc_s.so.1", "libstdc++.so.6"),
    *("libgomp.so.1", "libnuma.so.1", "libelf.so.1"),
)
_PROGRAMS = ("lscpu", "getconf")  # vLLM reads the machine's topology with the first
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def write(root: Path) -> None:
    """Fill an empty folder with the root file system."""
    for name in ("bin", "etc/ssl/certs", "root", "usr/bin", "usr/local", "var/tmp"):
        (root / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o1777)
    interpreter.copy(root / "usr/local")
    packages = root / "usr/local/lib" / interpreter.VERSION / "site-packages"
    shutil.copytree(python.wheel(PIP), packages)
    (packages.parent / "dist-packages").symlink_to(packages.name)  # where an interpreter of Debian's looks
    _add_shell(root)
    programs = [Path(found) for name in _PROGRAMS if (found := shutil.which(name))]
    for program in programs:
        shutil.copy(program, root / "usr/bin" / program.name)
    modules = (root / "usr/local/lib" / interpreter.VERSION).rglob("*.so")
    wanted = set(map(interpreter.system_library, _LIBRARIES))
    for library in wanted | interpreter.libraries([interpreter.binary(), *modules, *programs, *wanted]):
        if not library.name.startswith("libpython"):  # beside its interpreter already
            _copy_to_same_place(library, root)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nspecop:x:65532:65532::/tmp:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nspecop:x:65532:\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    (root / "etc/ld.so.conf").write_text("/usr/local/lib\n")
    if _CERTIFICATES.exists():
        shutil.copy(_CERTIFICATES, root / "etc/ssl/certs" / _CERTIFICATES.name)
    console.output([shutil.which("ldconfig") or "/sbin/ldconfig", "-r", root])


def _add_shell(root: Path) -> None:
    busybox = shutil.which("busybox") or "busybox"
    shutil.copy(busybox, root / "bin/busybox")
    for applet in console.output([busybox, "--list"]).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")


def _copy_to_same_place(source: Path, root: Path) -> None:
    target = root / source.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
