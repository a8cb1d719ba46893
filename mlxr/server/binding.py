"""Who can reach an address: this machine alone, or others, which then need a key."""

import ipaddress

from ..errors import ConfigError

LOCAL_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])


def is_loopback(host):
    """Whether a host name or address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_binding(host, api_key):
    """Raise ConfigError where others could reach the server and no key keeps them out."""
    if api_key is None and not is_loopback(host):
        raise ConfigError(f"--host {host} can be reached from other machines: give a key with --api-key, or MLXR_API_KEY")
