#!/usr/bin/env bash
# `make demo` runs this: install, export, a picture, a drive, a cut. Prints the time of each step.
# Usage: samples/demo.sh PYTHON VENV. TORCH_INDEX names an index of PyTorch's CPU builds.
set -euo pipefail
python=$1 venv=$2
begun=$SECONDS
mkdir -p out
log=out/demo.log
: > "$log"

phase() { # title, command...
  local title=$1 start=$SECONDS
  shift
  printf '%-44s ' "$title"
  "$@" >> "$log" 2>&1 || { echo failed; tail -20 "$log"; exit 1; }
  printf '%4d s\n' $((SECONDS - start))
}

compile() { # the native operators, which the install below uses; it builds missing ones
  local version
  version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/streamseg/_version.py)
  cmake -S . -B build/native -DSTREAMSEG_VERSION="$version" && cmake --build build/native --parallel 2
}

install() {
  compile &
  local compiler=$! pip=("$venv/bin/python" -m pip install -q --no-compile)
  test -x "$venv/bin/python" || "$python" -m venv "$venv"
  "${pip[@]}" "torch==2.13.0" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
  wait "$compiler" || true
  "${pip[@]}" -e '.[cpu,export]'
}

streamseg=$venv/bin/streamseg
phase 'install the runtime and the exporter' install
phase 'export the sample checkpoint' "$streamseg" export samples/street/street.safetensors --size 256x512 -o out/street
phase 'segment one frame' "$streamseg" run out/street 'synthetic:clean?size=256x512&seed=2000000&frames=1' --sheet out/first.png
echo "  first picture after $((SECONDS - begun)) s: out/first.png"
phase 'segment a drive of 60 frames' "$streamseg" run out/street 'synthetic:clean?size=256x512&seed=2000000&frames=60' -o out/drive.mp4 --sheet out/drive.png
phase 'join two drives with a cut' "$venv/bin/python" samples/two_drives.py out/two_drives.mp4
phase 'segment them' "$streamseg" run out/street out/two_drives.mp4 -o out/cut.mp4 --events out/cut.jsonl
cat <<'END'

Look at:
  out/drive.mp4   a drawn street; each picture says how many of its pixels are right
  out/drive.png   twelve of its pictures
  out/cut.mp4     two streets; at the cut the state is reset, as out/cut.jsonl says
The weights know drawn streets only. With a checkpoint of your own:
  streamseg export CHECKPOINT --size HxW -o out/own, then: streamseg run out/own VIDEO -o out/own.mp4
`make demo-page` shows a drive on a web page.
END
