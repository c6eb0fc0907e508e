"""Which of two policies is better, and is the difference more than luck? Both play the same episodes."""

import marl

results = marl.evaluate("lifelong_mapf", ["guided_pibt", "pibt"], seeds=range(8), map="warehouse", agents=64)
for row in results.rows:
    if row.metric == "throughput":
        print(f"{row.policy:12} {row.mean:.2f} goals a step, 95 % interval [{row.ci_low:.2f}, {row.ci_high:.2f}]")
(instances, _, _), *_ = results.by_instances()
pair = results.difference("guided_pibt", "pibt", "throughput", instances)
print(f"guided_pibt is ahead by {pair.difference:.2f} [{pair.ci_low:.2f}, {pair.ci_high:.2f}]")
