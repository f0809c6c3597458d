"""The stand-in of the hub, for these tests."""

from hub_server import hub

__all__ = ["hub"]
