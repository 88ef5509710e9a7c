"""``python -m mrsim fit | match | design``: maps of images, protocols for maps."""

from typing import Any

from mrsim.maps_command import _design, _fit, _match


def add_parsers(subparsers: Any) -> None:
    """Add the subcommands to a command line.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.
    """
    _fit.add_parser(subparsers)
    _match.add_parser(subparsers)
    _design.add_parser(subparsers)
