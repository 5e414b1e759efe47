#!/usr/bin/env python3
"""Records `recorded_steps_then_killed.csv`: once a second what the kernel says of the memory, while a process takes
4 GiB in steps of 512 MiB, holds them, and is killed. `python3 record.py > recorded_steps_then_killed.csv` on a Linux
machine with 8 GiB to spare. What is committed is of one with 24 GiB, with other people's work going on beside it."""
import subprocess
import sys
import time

FIELDS = ["MemTotal", "MemAvailable", "MemFree", "SwapTotal", "SwapFree"]
TAKES = """
import time
held = []
for _ in range(8):
    held.append(bytearray(b"x") * (512 << 20))
    time.sleep(4)
time.sleep(600)
"""


def sample():
    lines = dict(line.split(":") for line in open("/proc/meminfo"))
    some = open("/proc/pressure/memory").readline().split()
    avg10 = next(word[len("avg10="):] for word in some if word.startswith("avg10="))
    return [lines[field].split()[0] for field in FIELDS] + [avg10]


print("# recorded: a process takes 4 GiB in steps of 512 MiB from second 15 on, and is killed in second 65; other work "
      "goes on beside it")
print("second," + ",".join(field + "_kB" for field in FIELDS) + ",some_avg10_percent")
process, began = None, time.monotonic()
for second in range(90):
    if second == 15:
        process = subprocess.Popen([sys.executable, "-c", TAKES])
    if second == 65:
        process.kill()
    time.sleep(max(0.0, began + second - time.monotonic()))
    print(",".join([str(second)] + sample()), flush=True)
process.wait()
