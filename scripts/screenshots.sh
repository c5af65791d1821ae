#!/usr/bin/env bash
# The pictures of docs/tour.md, from real runs: scripts/screenshots.sh [OUT]
# Trains the quickstart in a terminal of tmux and the runs of configs/sweeps/quickstart.txt (a quarter of an hour on two cores), and
# photographs both with headless Chromium. NMT_TRAIN: the program (target/release/nmt-train).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-docs/images}
program=${NMT_TRAIN:-target/release/nmt-train}
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

picture() { # page, picture, width, height
  chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1 --window-size="$3,$4" \
    --screenshot="$2" "file://$1" >/dev/null 2>&1
}

tmux -L screenshots new-session -d -s run -x 118 -y 44 \
  "PS1='\$ ' $program --config configs/quickstart.toml --set run_dir=$scratch/quickstart; touch $scratch/done; sleep 600"
until [ -e "$scratch/done" ]; do sleep 1; done
sleep 1
tmux -L screenshots capture-pane -p -e -t run | sed "s#$scratch#runs#g" >"$scratch/terminal.txt"
tmux -L screenshots kill-server
python3 - "$scratch/terminal.txt" >"$scratch/terminal.html" <<'PYTHON'
import html, re, sys
# the sixteen colours of a terminal, as xterm has them on a dark ground
names = ["#000", "#cd3131", "#0dbc79", "#e5e510", "#2472c8", "#bc3fbc", "#11a8cd", "#e5e5e5"]
def style(codes, now):
    for code in codes:
        if code == 0: now = {}
        elif code == 1: now = {**now, "font-weight": "bold"}
        elif code == 2: now = {**now, "opacity": "0.6"}
        elif 30 <= code <= 37: now = {**now, "color": names[code - 30]}
        elif 90 <= code <= 97: now = {**now, "color": names[code - 90]}
        elif code == 39: now = {k: v for k, v in now.items() if k != "color"}
    return now
text, now, parts = open(sys.argv[1]).read().rstrip("\n"), {}, []
for part in re.split(r"(\x1b\[[0-9;]*m)", text):
    found = re.fullmatch(r"\x1b\[([0-9;]*)m", part)
    if found:
        now = style([int(code or 0) for code in found.group(1).split(";")], now)
    else:
        parts.append(f'<span style="{";".join(f"{k}:{v}" for k, v in now.items())}">{html.escape(part)}</span>')
print('<meta charset="utf-8"><body style="margin:0;background:#1e1e1e"><pre style="margin:12px;color:#d4d4d4;'
      'font:14px/1.25 DejaVu Sans Mono,monospace">' + "".join(parts) + "</pre>")
PYTHON
picture "$scratch/terminal.html" "$out/terminal.png" 1024 800

"$program" sweep configs/sweeps/quickstart.txt --jobs 2 --threads 1 --out "$scratch/sweep-quickstart" --quiet
"$program" report "$scratch/sweep-quickstart" --html "$scratch/report.html" >"$scratch/report.txt"
picture "$scratch/report.html" "$out/report.png" 1100 1400
ls -l "$out"
