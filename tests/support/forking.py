"""For programs that a test runs to be killed again and again, without importing everything anew each time."""

import os
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> bool:
    """Whether the work came to its end; the process itself never touches a database, so that it can be forked."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print("failed:", repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status)), "a child failed"
    return not os.WIFSIGNALED(status)
