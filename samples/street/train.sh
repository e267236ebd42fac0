#!/usr/bin/env bash
# What made street.safetensors and its figures, from the repository's root, on two cores: single frames first,
# small and then doubled, then clips; and single frames again, as many and for as long, for the baselines.
set -euo pipefail
out=${1:-out/sample}
export OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000

common=(
  --dataset 'synthetic:street?size=128x256&scenes=400&frames=48' --cache "$out/cache"
  --encoder mit_b0 --embed-dim 64 --drop-path 0 --no-photometric --class-weights log
  --power 0.9 --weight-decay 0.02 --clip-norm 1 --precision bf16 --threads 1 --half --license Apache-2.0
)
two_processes() { torchrun --nproc-per-node 2 -m streamseg.cli.main train "${common[@]}" "$@"; }

streamseg train "${common[@]}" --model segformer --offsets 0 --batch 12 --crop 128x256 --scale 1-1.25 \
  --steps 2700 --lr 8e-4 --head-lr 2.5 --warmup 100 --ema 0.995 --seed 1 -o "$out/frames"

# Doubled frames: the network's map is an eighth of what it sees, a quarter of the frame.
two_processes --model segformer --offsets 0 --batch 16 --crop 192x384 --scale 1.75-2.25 \
  --steps 5000 --stop-at 2608 --lr 8e-4 --head-lr 2.5 --warmup 100 --ema 0.998 --seed 11 \
  --init "$out/frames/weights.safetensors" -o "$out/doubled"
two_processes --model segformer --offsets 0 --batch 8 --crop 256x512 --scale 2-2.25 \
  --steps 4300 --stop-at 2404 --lr 6e-4 --head-lr 2.5 --warmup 50 --ema 0.998 --seed 12 \
  --init "$out/doubled/weights.safetensors" -o "$out/whole"

# From the same weights: clips, as many single frames, and single frames for as long by the clock.
last=(--init "$out/whole/weights.safetensors" --crop 256x512 --scale 2-2.25
  --lr 3e-4 --head-lr 6 --warmup 50 --ema 0.995 --seed 13 --silence-absent)
two_processes "${last[@]}" --model tv3s --layers 4 --set window=2 --set shift=1 --steps 1600 \
  --offsets=-5,-4,-3,-2,-1,0 --batch 2 --supervise all --auxiliary 0.05 -o "$out/street"
frames=(--model segformer --offsets 0 --batch 12)
streamseg train "${common[@]}" "${last[@]}" "${frames[@]}" --steps 1600 -o "$out/baseline"
two_processes "${last[@]}" "${frames[@]}" --steps 3000 -o "$out/longer"

held_out='synthetic:street?size=128x256&scenes=20&frames=40'
street=("$out/street/weights.safetensors" --size 256x512)
streamseg eval "${street[@]}" --dataset "$held_out" --json "$out/street.json"
streamseg eval "${street[@]}" --dataset "$held_out" --stateless --json "$out/reset.json"
for run in baseline longer; do
  streamseg eval "$out/$run/weights.safetensors" --size 256x512 --dataset "$held_out" --json "$out/$run.json"
done
