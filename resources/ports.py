"""Ports on loopback, the only place where this project's servers listen."""

import errno
import socket

LOOPBACK = "127.0.0.1"


def listener(port: int) -> socket.socket:
    """A socket that listens on a port of loopback.

    Raises:
        ValueError: the port is taken, or cannot be had.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a page just closed would hold the port
    try:
        made.bind((LOOPBACK, port))
        made.listen()
    except (OSError, OverflowError) as error:
        made.close()
        is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "is taken" if is_taken else f"cannot be had ({error})"
        other = port + 1 if is_taken and port < 65535 else 3000
        raise ValueError(f"port {port} {reason}; give another: --port {other}, or PORT={other} to make") from error
    return made
