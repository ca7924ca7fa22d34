import subprocess
import sys
import threading
import time

import pytest

from ser_jax import interruption
from ser_jax.training import background
from ser_jax.training.background import Once


def test_what_several_threads_ask_for_is_made_once_and_all_get_it():
    once, calls, results = Once(), [], []

    def make():
        calls.append(1)
        time.sleep(0.1)
        return object()

    threads = [threading.Thread(target=lambda: results.append(once("key", make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len({id(result) for result in results}) == 1 and len(results) == 4
    assert once("other", lambda: 2) == 2
    once.forget("key")
    assert once("key", lambda: 3) == 3


def test_who_waited_for_what_failed_in_a_thread_makes_it_and_meets_the_error():
    once, begun, go_on = Once(), threading.Event(), threading.Event()

    def fail():
        begun.set()
        go_on.wait()
        raise MemoryError("in the thread")

    background.begin(lambda: once("key", fail))
    assert begun.wait(10)
    threading.Timer(0.1, go_on.set).start()
    assert once("key", lambda: "made here") == "made here"
    with pytest.raises(MemoryError, match="here"):
        once("other", lambda: (_ for _ in ()).throw(MemoryError("here")))


COMMAND = """
import sys, time
from ser_jax import interruption
from ser_jax.training import background

def job():
    print("begun", flush=True)
    time.sleep({seconds})
    print("over", flush=True)

try:
    with interruption.heard():
        background.begin(job)
        background.begin(job)
        time.sleep({command})
except KeyboardInterrupt:
    interruption.say()
    sys.exit(interruption.STATUS)
"""


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_an_interrupted_command_does_not_wait_for_what_is_compiled_beside(number):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(seconds=60, command=60)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"begun\n"
    time.sleep(0.5)  # until the main thread is asleep too
    begun = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=50)
    assert (process.returncode, errors) == (interruption.STATUS, b"interrupted\n")
    assert time.monotonic() - begun < interruption.GRACE


def test_a_program_that_is_done_ends_when_what_was_begun_is_over_and_begins_nothing_more():
    found = subprocess.run(
        [sys.executable, "-c", COMMAND.format(seconds=0.5, command=0.2)],
        capture_output=True,
        timeout=50,
    )
    cores = background.machine.cores() // background._CORES_OF_A_THREAD
    assert found.returncode == 0
    assert found.stdout.decode().split() == sorted(["begun", "over"] * min(2, max(1, cores)))


@pytest.mark.parametrize(
    ("error", "status", "said"), [("UserError", 2, "error: refused\n"), ("RuntimeError", 1, "RuntimeError: refused\n")]
)
def test_a_command_that_is_over_ends_with_its_status_whatever_is_compiled_beside(error, status, said):
    script = f"""
import sys
from ser_jax.commands import list as command
from ser_jax.commands.main import main
from ser_jax.errors import UserError
from ser_jax.training import background

def refuse(args):
    begun = background.threading.Event()
    background.begin(lambda: (begun.set(), background.threading.Event().wait()))
    begun.wait()
    raise {error}("refused")

command.run = refuse
sys.argv = ["launch.py", "list"]
main()
print("not reached")
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=50)
    assert (found.returncode, found.stdout) == (status, b"")
    errors = found.stderr.decode()
    assert errors.endswith(said) and errors.startswith("Traceback") == (status == 1)
