#!/usr/bin/env python3
"""How fast the roads run, beside highway-env, as one JSON line: see ``scenarios.cav_merging.bench``.

.venv/bin/python scripts/reproduce cav_speed --anchor "PYTHON highway_merge_speed.py" --out FILE.json
"""

if __name__ == "__main__":
    # Worker processes import this file too; they are to stay free of torch.
    from scenarios.cav_merging.bench import main

    main()
