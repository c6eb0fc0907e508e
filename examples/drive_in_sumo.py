"""Let a shipped policy drive automated cars onto a highway in SUMO itself, step by step."""

import marl

if __name__ == "__main__":  # SUMO lives in a process of its own, which imports this file
    policy = marl.load("cav_merging/hard")
    env = marl.parallel_env("cav_merging", policy=policy, preset="hard", backend="sumo")
    observations, infos = env.reset(seed=3)
    steps = 0
    while env.agents:
        observations, rewards, terminations, truncations, infos = env.step(policy.act(observations, env=env))
        steps += 1
    figures = next(info["metrics"] for info in infos.values() if "metrics" in info)
    print(f"{steps} decisions, {figures['mean_speed_mps']:.1f} m/s")
    print(f"{100 * figures['merged_share']:.0f} % of the ramp cars merged")
    env.close()
