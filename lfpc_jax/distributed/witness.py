"""Reports on the terminal that a process ended without a message, which it cannot do itself.

    witness.py PROCESS PID COORDINATOR        (standard input: a pipe from that process)

The pipe closes when the process ends in any way: by the kernel's out-of-memory killer, by kill -9,
or because JAX's runtime aborts it when the coordinator has gone, before Python can act. After a
`bye` there is nothing to report. This runs as a program and uses only the standard library.
"""

import os
import signal
import socket
import sys


def main(process: str, pid: str, coordinator: str) -> None:
    # The launcher's signals are meant for the process; this program waits for its end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    said = b""
    while chunk := os.read(0, 64):
        said += chunk
    if said.endswith(b"bye"):
        return
    words = f"lfpc: process {process} (pid {pid} on {socket.gethostname()}) ended without a word: "
    if process == "0":
        words += "killed, out of memory or crashed. It coordinated the others, which end now."
    elif _answers(coordinator):
        words += "killed, out of memory or crashed; the other processes will name it."
    else:
        words += (
            f"process 0, the coordinator at {coordinator}, does not answer any more. It or "
            "its host has died, and JAX aborts the others: look at the log of process 0."
        )
    os.write(2, (words + "\n").encode())


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
