"""What the Python checks share: the command line, one line a check, and what is in a record."""
import os
import sys
import time
import traceback

when, bootstrap, prefix = sys.argv[1:4]
FIRST_TIMESTAMP = 1_600_000_000_000
RECORDS = 30
failures = 0


def key(i):
    """Every seventh record has no key: that is legal (kafka-python wants a key or a value)."""
    return None if i % 7 == 3 and i % 11 != 5 else f"key-{i}".encode()


def value(word, i):
    """Every eleventh record has no value: that is legal too."""
    return None if i % 11 == 5 else f"{word}-{i}-{'padding ' * 20}".encode()


def check(name, function, *arguments):
    global failures
    try:
        function(*arguments)
        print(f"ok {name}", flush=True)
    except Exception as error:
        failures += 1
        line = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {error} at {line.name}:{line.lineno}".replace("\n", " ")
        print(f"FAILED {name}: {why}", flush=True)


def expect(expected, seen, what):
    if expected != seen:
        raise AssertionError(f"{what}: expected {str(expected)[:300]}, saw {str(seen)[:300]}")


def eventually(what, probe, seen, seconds=30):
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last seen: {seen()}")
        time.sleep(0.02)


def finish():
    sys.stdout.flush()
    os._exit(1 if failures else 0)  # a client thread that hangs must not hold the exit
