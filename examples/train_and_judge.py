"""Train for a few seconds, judge what was learned beside the rule that it began as, and load it again."""

import marl

SHORT = ["total_steps=16_000", "copies=8", "world.map_pool=8"]
run = marl.train("lifelong_mapf", preset="demo", overrides=[*SHORT, "seed=1"], out="runs/first")
results = marl.evaluate("lifelong_mapf", [str(run), "guided_pibt"], preset="demo", seeds=range(3))
for row in results.rows:
    if row.metric == "throughput":
        print(f"{row.policy:12} {row.mean:.2f} goals a step")
policy = marl.load(str(run))
env = marl.parallel_env("lifelong_mapf", policy=policy, agents=4)
observations, _ = env.reset(seed=0)
print("first actions:", policy.act(observations, env=env))
