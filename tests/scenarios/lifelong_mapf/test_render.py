"""The renderer, against a hand-made world, and its page in a real browser."""

import json
import os
import re
import shutil
import subprocess
from base64 import b64decode

import numpy as np
import pytest
import torch

from marl.envs.batched import TimeStep
from marl.evaluation.film import Films
from marl.evaluation.report import write_report
from scenarios.lifelong_mapf.baselines import BASELINES
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.film import colour
from scenarios.lifelong_mapf.maps.generators import RandomMap
from scenarios.lifelong_mapf.render import LEFT, REACHED, MapfRecorder, ansi, frame
from scenarios.lifelong_mapf.world import LifelongMapf

HEIGHT, WIDTH = 3, 4
UP, DOWN, LEFTWARD, RIGHT, STAY = -WIDTH, WIDTH, -1, 1, 0


class Grid:
    """Two copies of a 3 x 4 grid with one wall in the middle; what the recorder reads of a world."""

    copies, height, width = 2, HEIGHT, WIDTH
    device = torch.device("cpu")

    def __init__(self):
        self.blocked = np.zeros((2, HEIGHT * WIDTH), np.uint8)
        self.blocked[1, 5] = 1
        self.map_index = torch.tensor([1, 0], dtype=torch.int32)
        self.position = torch.tensor([[0, 11], [3, 4]], dtype=torch.int32)
        self.goal = torch.tensor([[2, 8], [7, 0]], dtype=torch.int32)
        self.alive = torch.ones(2, 2, dtype=torch.bool)

    def timestep(self, done=False, metrics=None) -> TimeStep:
        zeros = torch.zeros(2, 2)
        return TimeStep(
            observation=zeros,
            state=None,
            reward=zeros,
            terminated=zeros.bool(),
            truncated=zeros.bool(),
            done=torch.tensor([done, False]),
            alive=self.alive.clone(),
            agent_id=zeros.long(),
            action_mask=None,
            key=torch.zeros(2, dtype=torch.int64),
            final=None,
            metrics=metrics or {},
        )

    def move(self, *deltas: int) -> None:
        self.position = self.position.clone()
        self.position[0] += torch.tensor(deltas, dtype=torch.int32)


ACTIONS = torch.zeros(2, 2, dtype=torch.int64)


def recorded() -> MapfRecorder:
    """Agent 0 walks to cell 2, then 6, and waits; agent 1 walks left to cell 8 and leaves the grid there."""
    grid = Grid()
    recorder = MapfRecorder(grid)
    recorder.add(grid.timestep(), None)
    grid.move(RIGHT, LEFTWARD)
    recorder.add(grid.timestep(), ACTIONS)
    grid.move(RIGHT, LEFTWARD)
    grid.goal = torch.tensor([[6, 8], [7, 0]], dtype=torch.int32)
    recorder.add(grid.timestep(), ACTIONS)
    grid.move(DOWN, LEFTWARD)
    grid.alive = torch.tensor([[True, False], [True, True]])
    recorder.add(grid.timestep(), ACTIONS)
    grid.move(STAY, STAY)
    recorder.add(grid.timestep(), ACTIONS)
    grid.position = torch.zeros_like(grid.position)
    recorder.add(grid.timestep(done=True, metrics={"throughput": torch.tensor([0.6, 0.0])}), ACTIONS)
    recorder.add(grid.timestep(), ACTIONS)
    return recorder


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL).group(1))


def test_the_recording_holds_walls_moves_and_events():
    data = data_of(recorded().html())
    assert (data["height"], data["width"]) == (HEIGHT, WIDTH)
    assert np.unpackbits(np.frombuffer(b64decode(data["walls"]), np.uint8))[:12].tolist() == [0] * 5 + [1] + [0] * 6
    assert (data["start"], data["goals"]) == ([0, 11], [2, 8])
    assert data["moves"] == "43" + "43" + "23" + "00"
    events = np.reshape(data["events"], (-1, 4)).tolist()
    assert events == [[2, 0, 6, REACHED], [3, 0, 6, REACHED], [3, 1, 8, REACHED | LEFT]]


def test_recording_ends_with_the_episode_and_shows_its_figures():
    recorder = recorded()
    assert recorder.moments == 5
    assert "throughput 0.6" in recorder.html()


def test_a_reset_begins_a_new_recording():
    recorder, grid = recorded(), Grid()
    recorder.add(grid.timestep(), None)
    assert recorder.moments == 0 + 1
    assert "throughput 0.6" not in recorder.html()


def test_recordings_refuse_what_they_cannot_show():
    grid = Grid()
    recorder = MapfRecorder(grid)
    with pytest.raises(ValueError, match="nothing recorded"):
        recorder.html()
    recorder.add(grid.timestep(), None)
    grid.move(RIGHT, UP + LEFTWARD)
    recorder.add(grid.timestep(), ACTIONS)
    with pytest.raises(ValueError, match="agent 1 jumped in step 1"):
        recorder.html()


def test_recordings_are_compact():
    """A step costs a byte per agent."""
    recorder, grid = MapfRecorder(Grid()), Grid()
    recorder.add(grid.timestep(), None)
    short = len(recorder.html())
    for _ in range(100):
        recorder.add(grid.timestep(), ACTIONS)
    assert len(recorder.html()) == short + 100 * 2


@pytest.mark.parametrize("on_target", ["restart", "finish"])
def test_the_goals_shown_are_the_goals_paid(on_target):
    """On the real world: as many goals in the recording as rewards before the last step, moves that can be shown."""
    config = MapfConfig(generator=RandomMap(height=8, width=9), map_pool=1, agents=6, horizon=60, on_target=on_target)
    env = LifelongMapf(config, 2, torch.device("cpu"))
    policy, recorder = BASELINES["pibt"](env), MapfRecorder(env)
    timestep, paid = env.reset(4), 0.0
    recorder.add(timestep, None)
    while not timestep.done[0]:
        paid += float(timestep.reward[0].sum())
        actions = policy.act(timestep)
        timestep = env.step(actions)
        recorder.add(timestep, actions)
    data = data_of(recorder.html())
    bits = data["events"][3::4]
    assert sum(bit & REACHED for bit in bits) == paid > 0
    assert len(data["moves"]) == 6 * (recorder.moments - 1)
    if on_target == "finish":
        assert all(bit == REACHED | LEFT for bit in bits)
    assert frame(env).shape == (8 * 12, 9 * 12, 3)
    assert len(ansi(env).splitlines()) == 8


def test_text_shows_walls_agents_and_goals():
    grid = Grid()
    assert ansi(grid) == "A.a.\n.#..\nb..B"
    assert ansi(grid, copy=1) == "b..A\nB..a\n...."
    grid.alive[0, 1] = False
    assert ansi(grid) == "A.a.\n.#..\n...."


def test_the_picture_shows_walls_agents_and_goals():
    grid = Grid()
    picture = frame(grid, cell=10)
    assert picture.shape == (30, 40, 3)
    assert picture.dtype == np.uint8

    def at(row, column):
        return picture[row * 10 + 5, column * 10 + 5].tolist()

    wall, floor = at(1, 1), at(1, 2)
    assert wall != floor
    assert at(0, 0) not in (wall, floor)  # an agent's disc covers its centre
    assert at(0, 2) == floor  # a goal's ring does not
    ring = picture[0:10, 20:30].reshape(-1, 3).tolist()
    assert at(0, 0) in ring
    assert at(2, 3) != at(0, 0)


#: Clicks the agent in row 1, column 2 once the episode is over, and keeps errors where the test can read them.
VISITOR = """
<script>
addEventListener("error", (event) => { document.body.dataset.error = event.message; });
setTimeout(() => {
  const canvas = document.querySelector(".mapf canvas"), box = canvas.getBoundingClientRect();
  const place = { clientX: box.left + box.width * 2.5 / 4, clientY: box.top + box.height * 1.5 / 3 };
  canvas.dispatchEvent(new MouseEvent("click", place));
}, 2500);
</script>
"""


@pytest.fixture
def chromium():
    """Path of the browser; a machine without one skips, except where CI=true."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "no chromium on this machine (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def test_the_episode_plays_in_a_browser(chromium, tmp_path):
    page = tmp_path / "report.html"
    write_report(page, title="Episode", summary={}, animation=VISITOR + recorded().html())
    shown = subprocess.run(
        [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=4000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    played = int(re.search(r'class="mapf"[^>]*data-frame="(\d+)"', shown).group(1))
    assert played == 4, "the animation has not run to its last step"
    assert '<b class="total">3</b>' in shown
    assert '<b class="rate">0.75</b>' in shown
    assert '<b class="step">4 / 4</b>' in shown
    assert "Agent 0 at (1, 2), goal (1, 2), goals reached: 2" in shown
    assert "data-error" not in shown


def test_a_film_shows_agents_where_they_are_and_glides_between_cells():
    recorder = recorded()
    assert isinstance(recorder, Films)
    frames = list(recorder.frames())
    parts = round(recorder.frames_per_second / 6.0)
    assert len(frames) == 4 * parts + 1
    assert all(frame.shape == frames[0].shape and not np.mod(frame.shape[:2], 16).any() for frame in frames)
    cell = 400 // max(HEIGHT, WIDTH)

    def column(frame: np.ndarray, agent: int) -> float:
        return float(np.flatnonzero((frame == colour(agent)).all(-1).any(0)).mean()) / cell

    # Agent 1 walks from column 3 of the last row to column 2; its goal, a ring of the same colour, is in column 0.
    assert column(frames[0][2 * cell :, 2 * cell :], 1) + 2 == pytest.approx(3.5, abs=0.1)
    assert column(frames[1][2 * cell :, 2 * cell :], 1) + 2 == pytest.approx(3.5 - 1 / parts, abs=0.1)
    assert recorder.visits().sum() == 3 + 3
    assert recorder.blocked.sum() == 1
    assert recorder.figures == {"throughput": pytest.approx(0.6)}
