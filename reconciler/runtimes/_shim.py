"""The supervisor of one backend process: a program of its own (``python -I -S _shim.py``), standard library only, one thread.

It owns the backend, its output, its exit record and everything it leaves behind, so that all of that survives the daemon. Its identity
is the flock on ``lock`` in the replica's folder. It has no opinions: it starts once, stops and kills when told (or when its daemon has
been away for too long), and ends when nothing of the backend is left. Everything is imported at the start, so that an upgrade of the
package underneath a running shim is harmless.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # costs 1 MB in a process of 11

PROTOCOL = 1
EXIT_SPEC, EXIT_LOCKED, EXIT_SETUP, EXIT_PORT = 2, 3, 4, 5
SETTLE_S = 2.0
"""From the end of the main process to SIGKILL for what it left behind."""
CHUNK = 65536
"""Bytes per read of the backend's output: the default size of a pipe."""
CHUNKS_PER_TURN = 16
"""Reads before the control socket gets its turn again."""
TAIL_BYTES, TAIL_LINES = 8192, 20
"""How much of the end of the output goes into the exit record."""
LINE_LIMIT = 65536
"""Longest request on the control socket, bytes; ours are under 200."""
BACKLOG_LIMIT = 1 << 20
"""Bytes a client may leave unread before it is dropped; one message is under 100 kB."""
KILL_TURN_S = 0.005
"""Longest burst of kill passes before the control socket gets its turn."""
KILL_PAUSE_S = 0.01
KILL_HARD_AFTER_S = 10.0
"""After so long the tree is reported as not killable (processes in uninterruptible sleep, fork bombs); the attempts go on."""
RECORD_RETRY_S, RECORD_GIVE_UP_S = 1.0, 600.0
"""A full disk at the end: the exit record is tried again so often and so long, under the lock, before it is lost."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT")
LINUX = sys.platform.startswith("linux")


def prctl(option: int, value: int) -> bool:
    """Linux process control; False where there is none."""
    try:
        return bool(_LIBC is not None and _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


try:
    _LIBC: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if LINUX else None
except OSError:
    _LIBC = None


def write_file(name: str, value: dict[str, Any], *, sync: bool) -> None:
    """Whole old or whole new. Without ``sync`` it may be lost with the power, which ends what it describes as well."""
    temporary = name + ".tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        data = memoryview(json.dumps(value).encode())
        while data:
            data = data[os.write(descriptor, data) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, name)
    if sync:
        folder = os.open(".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Log:
    """The backend's output in ``log``, ``log.1``, ...: capped, never blocking on a full disk, counting what it had to drop."""

    def __init__(self, cap: int, files: int) -> None:
        self.cap, self.files = cap, files
        self.dropped = 0
        self.size = 0
        self.descriptor = -1
        self.ending = b""
        with contextlib.suppress(OSError):
            self._open()

    def _open(self) -> None:
        self.descriptor = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.descriptor).st_size

    def _rotate(self) -> None:
        for number in range(self.files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"log.{number - 1}" if number > 1 else "log", f"log.{number}")
        os.close(self.descriptor)
        self.descriptor, self.size = -1, 0
        self._open()

    def write(self, chunk: bytes) -> None:
        """Append; rotates at a line's end where there is one."""
        self.ending = (self.ending + chunk)[-TAIL_BYTES:]
        if self.size + len(chunk) > self.cap:
            cut = chunk.rfind(b"\n", 0, max(0, self.cap - self.size)) + 1
            self._put(chunk[:cut])
            chunk = chunk[cut:]
            try:
                self._rotate()
            except OSError:
                self.dropped += len(chunk)
                return
        self._put(chunk)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            if view and self.descriptor < 0:
                self._open()
            while view:
                written = os.write(self.descriptor, view)
                self.size += written
                view = view[written:]
        except OSError:
            self.dropped += len(view)

    def say(self, text: str) -> None:
        """A line of our own among the backend's."""
        lead = b"" if self.ending.endswith(b"\n") or not self.ending else b"\n"
        self.write(lead + f"[llamactl] {text}\n".encode())

    def tail(self) -> list[str]:
        """The last lines."""
        return self.ending.decode("utf-8", "replace").splitlines()[-TAIL_LINES:]


class Client:
    """One daemon on the control socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.received = b""
        self.unsent = b""

    def send(self, message: dict[str, Any]) -> None:
        """Queue one line."""
        self.unsent += json.dumps(message).encode() + b"\n"

    def flush(self) -> bool:
        """Write what can be written; False when the client is gone or hopelessly behind."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            return len(self.unsent) <= BACKLOG_LIMIT
        except OSError:
            return False
        return True


def children(main: int) -> list[int]:
    """Direct children of this process, the zombie of the main one left out; with a subreaper these are all heads of what is left."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children", encoding="ascii") as listing:
            found = [int(word) for word in listing.read().split()]
    except OSError:
        found = _children_by_scan(me)
    return [pid for pid in found if pid != main]


def _children_by_scan(me: int) -> list[int]:
    """For kernels built without the children file; empty where there is no /proc."""
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == me:
                    found.append(int(name))
    return found


class Shim:
    """The one replica that this process answers for."""

    def __init__(self, spec: dict[str, Any], umask: int) -> None:
        self.spec, self.umask = spec, umask
        self.log = Log(int(spec["log_bytes"]), int(spec["log_files"]))
        self.clients: dict[int, Client] = {}
        self.poll = select.poll()
        self.wake, self.waker = os.pipe()
        self.output = -1
        self.listener: socket.socket | None = None
        self.promise: socket.socket | None = None
        self.main = 0
        self.exit: dict[str, Any] | None = None
        self.terminated = False
        self.child_news = True
        self.left_alone = False
        """The daemon knows how it ended and wants no record of it any more."""
        self.alone_since = time.monotonic()
        self.main_ended = self.kill_since = self.record_since = self.record_next = 0.0
        self.told_dropped = self.told_at = 0.0
        self.orphan_ttl = float(spec["orphan_ttl"])
        keys: tuple[str, ...] = ("token", "boot", "instance", "serial", "revision", "host", "port", "served_model")
        keys = (*keys, "folder_id", "stop_signal", "grace")
        self.state: dict[str, Any] = {
            "version": PROTOCOL,
            **{key: spec[key] for key in keys},
            "shim_pid": os.getpid(),
            "pid": None,
            "started_at": time.time(),
            "started_monotonic": time.monotonic(),
            "ready_since": None,
            "stop_since": None,
            "asked": None,
            "killed": False,
            "degraded": [],
            "dropped_log_bytes": 0,
            "left": 0,
            "exit": None,
            "gone": False,
        }
        if not prctl(PR_SET_CHILD_SUBREAPER, 1):
            self.degrade("TREE_KILL_DEGRADED")

    # -- what the world is told

    def degrade(self, what: str) -> None:
        """Something cannot be promised here."""
        if what not in self.state["degraded"]:
            self.state["degraded"].append(what)

    def changed(self) -> None:
        """Write the state down and tell every daemon."""
        self.state["dropped_log_bytes"] = self.told_dropped = self.log.dropped
        self.told_at = time.monotonic()
        try:
            write_file("state.json", self.state, sync=False)
        except OSError:
            self.degrade("STATE_WRITE_FAILED")
        for client in list(self.clients.values()):
            client.send({"state": self.state})
            self.serve_out(client)

    def hello(self, client: Client) -> None:
        """The first line to a daemon: who we are; the key is told here and nowhere else."""
        client.send({"hello": PROTOCOL, "api_key": self.spec.get("api_key"), "state": self.state})
        self.serve_out(client)

    # -- start

    def listen(self) -> None:
        """The control socket, bound by its short name because the whole path may be longer than a socket address."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink("control")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("control")
        listener.listen(16)
        listener.setblocking(False)
        self.listener = listener

    def spawn(self) -> None:
        """Start the backend; a failure becomes its exit record."""
        self.state["started_at"], self.state["started_monotonic"] = time.time(), time.monotonic()
        if self.spec["refused"]:
            self.start_failed(self.spec["refused"])
            return
        try:
            self.output, out = os.pipe()
            if LINUX:
                with contextlib.suppress(OSError, AttributeError):
                    fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, 1 << 20)  # rides out a slow disk
            failed, fail = os.pipe()
            parent = os.getpid()
            pid = os.fork()
        except OSError as error:
            self.start_failed(f"cannot start a process: {os.strerror(error.errno or 0)}")
            return
        if pid == 0:
            self.become_backend(parent, out, fail)
        self.main = self.state["pid"] = pid
        os.close(out)
        os.close(fail)
        os.set_blocking(self.output, False)
        report = b""
        while part := os.read(failed, 4096):  # ends when exec closes the other side, or the child dies
            report += part
        os.close(failed)
        if report:
            os.waitpid(pid, 0)
            self.main, self.state["pid"] = 0, None
            self.start_failed(report.decode("utf-8", "replace"))

    def start_failed(self, error: str) -> None:
        """There is no process; the reason is its exit record, and stands in the log where people look."""
        self.log.say(error)
        self.exit = self.exit_record(error=error)

    def become_backend(self, parent: int, out: int, fail: int) -> None:
        """In the child: everything between fork and exec. Never returns."""
        spec, step = self.spec, "cannot prepare the process"
        try:
            os.setsid()
            if prctl(PR_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != parent:
                os._exit(127)
            signal.set_wakeup_fd(-1)
            for name in ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGHUP", "SIGTERM", "SIGQUIT", "SIGCHLD"):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.umask(self.umask)
            step = f"cannot enter the working directory {spec['cwd']}"
            os.chdir(spec["cwd"])
            step = f"cannot run {spec['executable']}"
            os.execve(spec["executable"], spec["argv"], spec["environment"])
        except OSError as error:
            os.write(fail, f"{step}: {os.strerror(error.errno or 0)}".encode("utf-8", "replace"))
        except BaseException as error:  # noqa: BLE001 - between fork and exec nothing may escape into the parent's loop
            os.write(fail, f"{step}: {error!r}".encode("utf-8", "replace"))
        finally:
            os._exit(127)

    # -- orders

    def ask(self, asked: str, wanted: object = None) -> None:
        """The stop signal (``wanted``, else its own), once in a lifetime, to the main process alone."""
        if self.state["stop_since"] is not None or self.exit is not None:
            return
        self.state["stop_since"], self.state["asked"] = time.monotonic(), asked
        self.changed()  # on disk before it takes effect, so that the exit is never mistaken for a failure
        name = wanted if wanted in STOP_SIGNALS else self.spec["stop_signal"]
        os.kill(self.main, getattr(signal, str(name)))  # ours and not reaped: the number cannot be another's

    def kill(self, asked: str) -> None:
        """Begin to kill everything; :meth:`pursue` goes on until nothing is left."""
        if self.kill_since:
            return
        self.kill_since = time.monotonic()
        if self.exit is None:
            self.state["asked"] = self.state["asked"] or asked
            self.state["stop_since"] = self.state["stop_since"] or self.kill_since
        self.state["killed"] = True
        self.changed()

    def obey(self, client: Client, message: dict[str, Any]) -> None:
        """One request."""
        match message.get("do"):
            case "status":
                pass
            case "stop":
                self.ask(str(message.get("asked")), message.get("signal"))
            case "kill":
                self.kill(str(message.get("asked")))
            case "note":
                if self.state["ready_since"] is None:
                    self.state["ready_since"] = float(message["ready_since"])
                    self.changed()
            case "leave":
                self.left_alone = True
            case "lease":
                self.orphan_ttl = float(message["orphan_ttl"])
            case other:
                client.send({"id": message.get("id"), "error": f"unknown request {other!r}"})
                return
        client.send({"id": message.get("id"), "state": self.state})

    # -- clients

    def welcome(self, sock: socket.socket) -> None:
        """A daemon connected."""
        client = Client(sock)
        self.clients[sock.fileno()] = client
        self.poll.register(sock.fileno(), select.POLLIN)
        self.hello(client)

    def drop(self, client: Client) -> None:
        """A daemon went away; the last one starts the lease's clock."""
        descriptor = client.sock.fileno()
        if self.clients.pop(descriptor, None) is None:
            return
        self.poll.unregister(descriptor)
        client.sock.close()
        if not self.clients:
            self.alone_since = time.monotonic()

    def serve_in(self, client: Client) -> None:
        """Read what a client sent and obey every whole line."""
        try:
            data = client.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, client.received = (client.received + data).split(b"\n")
        try:
            for line in lines:
                self.obey(client, dict(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError):
            data = b""  # not one of ours
        if not data or len(client.received) > LINE_LIMIT:
            self.drop(client)
        else:
            self.serve_out(client)

    def serve_out(self, client: Client) -> None:
        """Write on; ask to be told when there is room if not all went."""
        if client.sock.fileno() < 0:
            return
        if not client.flush():
            self.drop(client)
        else:
            self.poll.modify(client.sock.fileno(), select.POLLIN | (select.POLLOUT if client.unsent else 0))

    # -- the end

    def exit_record(
        self, *, code: int | None = None, name: str | None = None, error: str | None = None
    ) -> dict[str, Any]:
        """How the main process ended; the tail is filled in when the last output has been read."""
        self.main_ended = time.monotonic()
        moments = {"at": time.time(), "monotonic": self.main_ended}
        return {"code": code, "signal": name, **moments, "asked": self.state["asked"], "error": error, "log_tail": []}

    def look_at_main(self) -> None:
        """Learn of the main process's end. It stays a zombie where the system can leave it so: that keeps its group's number ours."""
        if self.exit is not None or not self.main:
            return
        if hasattr(os, "waitid"):
            result = os.waitid(os.P_PID, self.main, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if result is None:
                return
            number = result.si_status
            code = number if result.si_code == os.CLD_EXITED else None
        else:
            pid, status = os.waitpid(self.main, os.WNOHANG)
            if pid == 0:
                return
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            number = os.WTERMSIG(status)
        name = None
        if code is None:
            try:
                name = signal.Signals(number).name
            except ValueError:
                name = f"SIG{number}"
        self.read_output()
        self.exit = self.exit_record(code=code, name=name)
        self.exit["log_tail"] = self.log.tail()
        self.state["exit"] = self.exit
        self.state["left"] = self.reap()
        self.changed()  # told before the record is forced to disk, which may take its time

    def reap(self) -> int:
        """Bury adopted children that ended; how many direct children are still there."""
        left = 0
        for pid in children(self.main):
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    left += 1
            except ChildProcessError:
                pass
        return left

    def kill_pass(self) -> int:
        """SIGKILL the main process's group and every direct child (those cannot be anybody else's until we bury them)."""
        if self.main:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.main, signal.SIGKILL)
        for pid in children(self.main):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return self.reap()

    def pursue(self, now: float) -> None:
        """A bounded burst of kill passes; reports when it does not come to an end."""
        burst_end = now + KILL_TURN_S
        left = self.kill_pass()
        while left and time.monotonic() < burst_end:
            left = self.kill_pass()
        self.look_at_main()
        self.state["left"] = left
        if left and now - self.kill_since > KILL_HARD_AFTER_S and "TREE_KILL_INCOMPLETE" not in self.state["degraded"]:
            self.degrade("TREE_KILL_INCOMPLETE")
            self.changed()

    def nothing_left(self) -> bool:
        """Whether the last child is buried, which the kernel itself confirms."""
        if self.exit is None or self.state["left"]:
            return False
        if self.main and hasattr(os, "waitid"):
            os.waitpid(self.main, 0)  # exited: at once
        self.main = 0
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        self.state["left"] = self.reap()  # the listing had missed one
        return False

    def record_end(self, now: float) -> bool:
        """Write the exit record, once everything is gone; False when it has to be tried again."""
        if self.state["gone"] and self.left_alone:
            return True
        if now < self.record_next:
            return False
        self.record_since = self.record_since or now
        if not self.state["gone"]:
            self.read_output()
            assert self.exit is not None
            self.exit["log_tail"] = self.log.tail()
            self.state.update(exit=self.exit, gone=True, dropped_log_bytes=self.log.dropped)
            written = self.try_record()
            self.changed()
            return written
        return self.try_record() or now - self.record_since > RECORD_GIVE_UP_S

    def try_record(self) -> bool:
        """The exit record on disk, or a date for the next try."""
        try:
            write_file("exit.json", self.state, sync=True)
        except OSError:
            self.degrade("STATE_WRITE_FAILED")
            self.record_next = time.monotonic() + RECORD_RETRY_S
            return False
        return True

    # -- the loop

    def read_output(self) -> None:
        """Move output to the log, a bounded amount."""
        if self.output < 0:
            return
        for _ in range(CHUNKS_PER_TURN):
            try:
                chunk = os.read(self.output, CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                self.poll.unregister(self.output)
                os.close(self.output)
                self.output = -1
                return
            self.log.write(chunk)

    def lease_ended(self, now: float) -> bool:
        """Whether the backend has been without a daemon for too long."""
        waiting = self.exit is None and self.state["stop_since"] is None
        return bool(self.orphan_ttl and waiting and not self.clients and now - self.alone_since >= self.orphan_ttl)

    def time_to_kill(self, now: float) -> bool:
        """Whether what is left is killed without being told to; a connected daemon decides about a main process itself."""
        if self.exit is not None:
            # without a subreaper nobody can tell what is left: there the group goes at once
            return not LINUX or bool(self.state["left"] and now - self.main_ended >= SETTLE_S)
        since = self.state["stop_since"]
        overdue = since is not None and now - since >= float(self.spec["grace"])
        return overdue and (self.terminated or not self.clients)

    def decide(self, now: float) -> bool:
        """What time and the last events call for; True when it is all over."""
        if self.terminated:
            self.ask("stop")
        if self.lease_ended(now):
            self.log.say(f"no daemon for {self.orphan_ttl:g} s (server.orphan_ttl): stopping")
            self.ask("stop")
        if not self.kill_since and self.time_to_kill(now):
            self.kill("stop")
        if self.kill_since:
            self.pursue(now)
        if self.log.dropped != self.told_dropped and now - self.told_at > 1.0:
            self.changed()
        return self.nothing_left() and self.record_end(now)

    def next_turn(self, now: float) -> float:
        """Seconds until time alone calls for something."""
        if self.kill_since or self.state["gone"]:
            slow = self.state["gone"] or now - self.kill_since > KILL_HARD_AFTER_S
            return RECORD_RETRY_S if slow else KILL_PAUSE_S
        dates = [now + 60.0]
        if self.exit is not None:
            dates.append(self.main_ended + SETTLE_S)
        elif self.state["stop_since"] is not None:
            if self.terminated or not self.clients:  # else the daemon decides
                dates.append(self.state["stop_since"] + float(self.spec["grace"]))
        elif self.orphan_ttl and not self.clients:
            dates.append(self.alone_since + self.orphan_ttl)
        if self.log.dropped != self.told_dropped:
            dates.append(self.told_at + 1.0)
        return max(0.0, min(dates) - now) if min(dates) > now else KILL_PAUSE_S

    def turn(self, timeout: float) -> None:
        """Wait for and serve events."""
        for descriptor, mask in self.poll.poll(int(timeout * 1000) + 1):
            if descriptor == self.wake:
                os.read(self.wake, 4096)
                self.child_news = True
            elif descriptor == self.output:
                self.read_output()
            elif self.listener is not None and descriptor == self.listener.fileno():
                with contextlib.suppress(OSError):
                    self.welcome(self.listener.accept()[0])
            elif (client := self.clients.get(descriptor)) is not None:
                if mask & select.POLLOUT:
                    self.serve_out(client)
                if mask & ~select.POLLOUT and client.sock.fileno() >= 0:
                    self.serve_in(client)

    def run(self, first: socket.socket | None) -> None:
        """From the spawn to the end of everything."""
        assert self.listener is not None
        self.poll.register(self.wake, select.POLLIN)
        self.poll.register(self.listener.fileno(), select.POLLIN)
        self.spawn()
        if self.output >= 0:
            self.poll.register(self.output, select.POLLIN)
        self.state["exit"] = self.exit
        over = self.exit is not None and self.decide(time.monotonic())
        if not over:
            self.changed()
        if first is not None:
            self.welcome(first)
        while not over:
            self.turn(self.next_turn(time.monotonic()))
            if self.child_news:
                self.child_news = False
                self.look_at_main()
                self.state["left"] = self.reap()
            over = self.decide(time.monotonic())
        for client in self.clients.values():
            client.sock.settimeout(1.0)
            with contextlib.suppress(OSError):
                client.sock.sendall(client.unsent)


def handle_signals(shim: Shim) -> None:
    """SIGTERM stops the backend, SIGCHLD wakes the loop, the terminal's signals are not for us."""

    def terminate(_number: int, _frame: object) -> None:
        shim.terminated = True

    os.set_blocking(shim.wake, False)
    os.set_blocking(shim.waker, False)
    signal.set_wakeup_fd(shim.waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def read_spec() -> dict[str, Any] | None:
    """One JSON object on stdin, ended by a newline or the end of file; None when it is broken (its writer died): start nothing."""
    data = b""
    while not data.endswith(b"\n"):
        part = os.read(0, CHUNK)
        if not part:
            break
        data += part
    try:
        spec = json.loads(data)
    except ValueError:
        return None
    return spec if isinstance(spec, dict) else None


def first_client() -> socket.socket | None:
    """The daemon at the other end of stdin, when stdin is a socket."""
    try:
        return socket.socket(fileno=os.dup(0))
    except OSError:
        return None


def refuse(first: socket.socket | None, status: int, text: str, number: int = 0) -> int:
    """Tell the daemon why nothing was started."""
    if first is not None:
        with contextlib.suppress(OSError):
            first.sendall(json.dumps({"failed": text, "errno": number, "status": status}).encode() + b"\n")
    return status


def daemon_left(first: socket.socket | None) -> bool:
    """Whether the daemon that ordered this start is gone already: then a next one may have ordered another."""
    if first is None:
        return False
    watch = select.poll()
    watch.register(first.fileno(), select.POLLIN)
    return any(mask & (select.POLLHUP | select.POLLERR) for _, mask in watch.poll(0))


def close_inherited() -> None:
    """Nothing of the daemon's may live on in here, its locks and listening sockets least of all."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.close(int(name))


def promise_port(port: int) -> socket.socket | None:
    """Hold the host's only promise of a port for as long as this program lives; OSError (EADDRINUSE) when somebody else has it.

    Two daemons that look for a free port at the same moment would both find the same one, long before either backend listens. The
    promise is a name in Linux's abstract socket space, which belongs to the network namespace just as ports do; elsewhere there is none.
    """
    if sys.platform != "linux":
        return None
    promise = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    promise.bind(f"\0llamactl-port-{port}")
    return promise


def main() -> int:
    """The program."""
    close_inherited()
    with contextlib.suppress(PermissionError):  # already a group leader
        os.setsid()
    umask = os.umask(0o077)
    spec = read_spec()
    if spec is None:
        return EXIT_SPEC
    first = first_client()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    try:
        os.chdir(spec["folder"])
        lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return refuse(first, EXIT_LOCKED, "another supervisor holds this folder")
        os.ftruncate(lock, 0)
        os.write(lock, json.dumps({"token": spec["token"], "folder_id": spec["folder_id"]}).encode())
        if os.path.exists("exit.json"):
            return refuse(first, EXIT_LOCKED, "this replica has been run already")
        try:
            promise = promise_port(spec["port"])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return refuse(first, EXIT_PORT, f"port {spec['port']} is promised to a backend of another daemon")
        shim = Shim(spec, umask)
        shim.promise = promise
        handle_signals(shim)
        write_file("state.json", shim.state, sync=False)
        shim.listen()
    except OSError as error:
        return refuse(first, EXIT_SETUP, os.strerror(error.errno or errno.EIO), error.errno or errno.EIO)
    if daemon_left(first):
        os.unlink("state.json")
        return EXIT_SETUP
    try:
        shim.run(first)
    except BaseException as error:
        shim.log.say(f"the supervisor failed: {error!r}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
