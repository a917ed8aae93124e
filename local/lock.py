"""`make lock`: resolve the requirements anew; what is installed anywhere is what these files name, with their hashes.

Minds: the images' packages are held to the versions of the environment in which the tests run, where both have them.
"""

from local import cache, console, python

_TESTED = ["--constraint", "requirements/local.lock", "--overrides", "requirements/operator.overrides"]
_LOCKS = {
    "local": [
        *("--all-extras", "--group", "dev", "requirements/local.in"),
        *("--overrides", "requirements/local.overrides", "--excludes", "requirements/local.excludes"),
    ],
    "operator": ["--extra", "operator", "--extra", "data", "--extra", "ray", "--extra", "serving", *_TESTED],
    "trainer": ["--extra", "trainer", *_TESTED],
}


def write() -> None:
    """Write all locks, the tests' own first."""
    always = ["--upgrade", "--python-version", "3.11", "--generate-hashes", "--no-header"]
    for name, chosen in _LOCKS.items():
        target = f"requirements/{name}.lock"
        log = cache.folder("logs") / "lock.log"
        command = [str(python.uv()), "pip", "compile", *always, "pyproject.toml", *chosen, "--output-file", target]
        with console.step(f"resolving {target}"):
            console.run(command, log, env=python.environment(), cwd=cache.REPOSITORY)
