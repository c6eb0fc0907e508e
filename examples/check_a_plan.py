"""Is a plan valid, and how many goals does it reach? Plans may come from any tool; this one comes from a rule."""

import marl
from marl.api import replay

hall = {"map": "maze", "agents": 8}
marl.evaluate("lifelong_mapf", ["pibt"], seeds=[0], save_plan="plan.json", **hall)
judged = replay("lifelong_mapf", "plan.json", **hall)
print("faults:", list(judged.faults) or "none")
for name, figure in judged.figures.items():
    print(f"{name}: {figure:g}")
