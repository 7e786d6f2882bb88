"""What a text says about a network address, without asking a resolver. Names other than ``localhost`` are only names here."""

from __future__ import annotations

import ipaddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_address(host: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address, without brackets or a port."""
    return _address(host) is not None


def is_loopback(host: str) -> bool:
    """Whether the host is this machine alone: a loopback address, or ``localhost``."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback
