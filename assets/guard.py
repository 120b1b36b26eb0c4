"""A process that watches over the one that works, and has words for its death where that has none itself.

A compiled library that finds no memory ends its process, and the system kills one that takes too much: what either leaves is
a prompt. The guard is forked before anything large is imported, so it is small, and nothing is slower for it.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
AWAITED = {*PASSED_ON, signal.SIGCHLD}
DEATHS = {
    signal.SIGKILL: "killed from outside, as the system does when memory is short",
    signal.SIGABRT: "aborted by a compiled library, as they do when they find no memory",
    signal.SIGSEGV: "ended by a compiled library's bad access, as happens when memory is short",
    signal.SIGBUS: "ended by a bad access, as happens when a disk is full or fails",
}
NO_THREAD = (
    127  # with which glibc ends a process that has no memory for a thread's own data; a run itself never ends so
)
REMEDY = (
    "What was finished is kept. Before you run again: give it more memory, or make sampling.batch_size, knn.rows_at_once or "
    "the shards smaller"
)


def watched(work: Callable[[], int]) -> int:
    """Do the work in a child process; its exit code, or 128 and the signal that ended it, which is explained.

    Signals that ask for an end are passed on, and the child does not outlive the guard. Only on Linux, where that can be
    had; elsewhere the work is done here. Nothing may have started a thread before.
    """
    if not sys.platform.startswith("linux"):
        return work()
    sys.stdout.flush()
    guard = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != guard:  # it died before it could be tied to us
            os._exit(1)
        return work()
    code = _wait(child)
    if code == NO_THREAD:
        print(
            f"\nerror: the run was ended by the C library, which had no memory for a thread. {REMEDY}", file=sys.stderr
        )
    if code >= 0:
        return code
    death = signal.Signals(-code)
    print(f"\nerror: {explained(death)}", file=sys.stderr)
    return 128 + death


def _wait(child: int) -> int:
    """Exit code of a child, or minus the signal that ended it; it gets what other processes send to this one.

    The signals are blocked already.
    """
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        received = signal.sigwaitinfo(AWAITED)
        # What comes from the kernel, as ctrl-C of a terminal does, went to the child too.
        if received.si_signo in PASSED_ON and received.si_code <= 0:
            os.kill(child, received.si_signo)


def explained(death: signal.Signals) -> str:
    """What a user can make of the signal that ended a run."""
    if death not in DEATHS:
        return f"the run was ended by {death.name}; run again, it goes on from what is finished"
    return f"the run was {DEATHS[death]} ({death.name}). {REMEDY}"
