#!/usr/bin/env python3
"""Writes the made-up series beside it, each after something that was seen on machines whose GPU shares the memory.
A node of 128 GiB; what each leg does is said in the first line of its file. `python3 made_up.py` writes all of them."""
import pathlib

TOTAL, MIB = 128 * 1024, 1024


def write(name, what, legs, free_less_gib=0, stalled=0.0):
    """Legs are (seconds, from GiB, to GiB[, per cent stalled]) of MemAvailable; a wobble of +-40 MiB is on top."""
    lines = [f"# made up: {what}", "second,MemTotal_kB,MemAvailable_kB,MemFree_kB,SwapTotal_kB,SwapFree_kB,some_avg10_percent"]
    second = 0
    for leg in legs:
        seconds, begin, end = leg[:3]
        waits = leg[3] if len(leg) > 3 else stalled
        for step in range(seconds):
            wobble = (second * 37 % 81) - 40
            available = int((begin + (end - begin) * step / seconds) * 1024) + wobble
            free = max(512, available - free_less_gib * 1024)
            lines.append(f"{second},{TOTAL * MIB},{available * MIB},{free * MIB},0,0,{waits:.2f}")
            second += 1
    path = pathlib.Path(__file__).parent / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")


write("steady", "24 GiB are available for ten minutes, most of it page cache, and processes wait for memory now and then",
      [(300, 24, 24), (20, 24, 24, 35.0), (280, 24, 24)], free_less_gib=20)
write("load_burst", "a model loads: 24 GiB fall to 14 within seconds, two samples are at 6 GiB while weights are staged, "
      "twice; then 14 GiB stay",
      [(30, 24, 24), (8, 24, 14, 20.0), (2, 6, 6, 45.0), (6, 13, 13, 20.0), (2, 6, 6, 45.0), (72, 14, 14)], free_less_gib=12)
write("leak", "0.2 GiB a second are lost from second 20 on, the floor of 8 GiB is passed in second 100; from second 110 on "
      "40 GiB come back within ten seconds, and the leak is over",
      [(20, 24, 24), (90, 24, 6, 5.0), (10, 6, 46), (120, 46, 46)])
write("kill_slow_return", "a process of 40 GiB is killed in second 20; nothing comes back before second 60, the rest until 80",
      [(60, 24, 24), (20, 24, 64), (60, 64, 64)])
write("neighbour_growing", "somebody else takes 12 GiB between second 20 and second 80 and keeps them",
      [(20, 24, 24), (60, 24, 12), (100, 12, 12)])
write("neighbour_growing_alone", "no model is there, and somebody else takes 12 GiB between second 20 and second 80 and keeps them",
      [(20, 124, 124), (60, 124, 112), (100, 112, 112)])
