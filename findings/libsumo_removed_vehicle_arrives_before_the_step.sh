#!/usr/bin/env bash
# SUMO 1.28.0 through libsumo: when does a vehicle that is removed by hand stand among the arrived ones?
#
# Expected: getArrivedIDList tells who arrived in the last simulation step, so a vehicle removed between two steps is
# in it after the next step.
# Seen: it is in the list at once, before any step, and no longer after the step. Whoever reads the list after each
# step, as the documentation's loop does, never learns that the vehicle left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check eclipse-sumo==1.28.0 libsumo==1.28.0
cat > "$folder/net.nod.xml" <<'XML'
<nodes><node id="a" x="0" y="0"/><node id="b" x="1000" y="0"/></nodes>
XML
cat > "$folder/net.edg.xml" <<'XML'
<edges><edge id="road" from="a" to="b" numLanes="1" speed="20"/></edges>
XML
export SUMO_HOME=$("$folder/venv/bin/python" -c "import sumo; print(sumo.SUMO_HOME)")
"$SUMO_HOME/bin/netconvert" -n "$folder/net.nod.xml" -e "$folder/net.edg.xml" -o "$folder/net.net.xml" >/dev/null
cat > "$folder/demand.rou.xml" <<'XML'
<routes><route id="r" edges="road"/><vehicle id="car" route="r" depart="0"/></routes>
XML
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import libsumo

folder = sys.argv[1]
libsumo.start(["sumo", "-n", f"{folder}/net.net.xml", "-r", f"{folder}/demand.rou.xml", "--no-step-log"])
for _ in range(3):
    libsumo.simulationStep()
assert "car" in libsumo.vehicle.getIDList()
libsumo.vehicle.remove("car")
at_once = "car" in libsumo.simulation.getArrivedIDList()
libsumo.simulationStep()
after = "car" in libsumo.simulation.getArrivedIDList()
print(libsumo.getVersion()[1], "arrived at once:", at_once, "after the next step:", after)
libsumo.close()
assert (at_once, after) == (True, False), "a removed vehicle is now told of in the next step"
PYTHON
