"""Finds out which processes have started, before JAX does: process 0 listens on the coordinator's
port, and each other process sends its number.

JAX itself waits for all and, if one never comes, aborts every process without saying which one.
Here every process that did come names the missing ones. Afterwards the port is free again for JAX's
coordinator.
"""

import json
import socket
import time
from contextlib import ExitStack

_LINE = 4096


def roll_call(coordinator: str, processes: int, process: int, seconds: float | int) -> None:
    """Returns when all processes have called; raises TimeoutError that names the missing ones."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    if process == 0:
        missing = _listen(int(port), processes, deadline)
    else:
        missing = _call((host.strip("[]"), int(port)), process, deadline, seconds)
    if missing:
        raise TimeoutError(
            f"start: process {', '.join(map(str, missing))} of {processes} did not come to the "
            f"coordinator {coordinator} within {seconds:g} s; check that it started, read its "
            "log, and check that its host reaches that address"
        )


def _listen(port: int, processes: int, deadline: float) -> list[int]:
    with ExitStack() as stack:
        server = stack.enter_context(_server(port))
        here: dict[int, socket.socket] = {}
        while len(here) < processes - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                caller, _ = server.accept()
            except TimeoutError:
                break
            stack.enter_context(caller)
            caller.settimeout(5)
            try:
                number = int(caller.recv(_LINE))
            except (OSError, ValueError):  # another program, or a process that died: not counted
                continue
            if number in here:
                raise ValueError(
                    f"two processes say that they are process {number} of {processes}; give each "
                    "a different number"
                )
            here[number] = caller
        missing = [number for number in range(1, processes) if number not in here]
        for caller in here.values():
            try:
                caller.sendall(json.dumps(missing[:64]).encode())
                caller.shutdown(socket.SHUT_WR)
                caller.recv(_LINE)  # wait until it hangs up, so that the port is free at once
            except OSError:  # it has died; JAX will miss it
                continue
    return missing


def _server(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), backlog=512)
    except OSError as error:
        raise OSError(
            f"process 0 cannot listen on port {port} for the others ({error}); choose another "
            "port for the coordinator, or end the program that uses this one"
        ) from error


def _call(
    address: tuple[str, int], process: int, deadline: float, seconds: float | int
) -> list[int]:
    """Calls until process 0 listens, and returns the missing processes that it reports when all
    have called or time is up."""
    refusal: object = "nobody listens"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(left, 10)) as line:
                line.sendall(str(process).encode())
                line.settimeout(left + 10)  # process 0 may have begun a little later
                if answer := line.recv(_LINE):
                    return json.loads(answer)
                refusal = "it hung up"
        except OSError as error:
            refusal = error
        time.sleep(min(0.2, max(left, 0)))
    raise TimeoutError(
        f"start: process {process} did not reach process 0 at {address[0]}:{address[1]} within "
        f"{seconds:g} s ({refusal}); check that process 0 started, and check the firewall"
    )
