"""The families of targets that are proven, for people and for programs. Pure."""

from specop.api.families import families, versions
from specop.api.shared import Json
from specop.cli.loop import Table


def content() -> Json:
    """Return the list, and what was compared."""
    engine, trainer = versions()
    return {
        "engine": engine,
        "trainer": trainer,
        "families": [
            {"name": family.name, "architectures": list(family.architectures), "modelImpl": family.model_impl}
            for family in families()
        ],
    }


def table() -> Table:
    """Lay it out."""
    engine, trainer = versions()
    rows = tuple((family.name, ", ".join(family.architectures), family.model_impl) for family in families())
    return Table(("FAMILY", "CLASS IN config.json", f"IN {engine.upper()}, AGAINST {trainer.upper()}"), rows)
