"""How many robots fit my hall? Throughput by number of robots, on a map drawn in letters."""

from pathlib import Path

import marl

HALL = """
..........
.@@@..@@@.
.@@@..@@@.
..........
.@@@..@@@.
.@@@..@@@.
..........
"""
rows = HALL.split()
Path("hall.map").write_text(f"type octile\nheight {len(rows)}\nwidth {len(rows[0])}\nmap\n" + "\n".join(rows) + "\n")
results = marl.evaluate("lifelong_mapf", ["guided_pibt"], seeds=range(4), map="hall.map", agents=[4, 8, 16, 32])
for instances, rows_of, _ in results.by_instances():
    by_metric = {row.metric: row.mean for row in rows_of}
    each = by_metric["throughput"] / instances["agents"]
    print(f"{instances['agents']:3} robots: {by_metric['throughput']:.2f} goals a step, {each:.3f} for each of them")
