#!/usr/bin/env bash
# What made street.safetensors and its figures, from the repository's root, in about a CPU hour:
# single frames first, then clips; and as long on single frames again, for the baseline.
set -euo pipefail
out=${1:-out/sample}
export OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000

common=(
  --dataset 'synthetic:street?size=128x256&scenes=400&frames=48' --cache "$out/cache"
  --encoder mit_b0 --embed-dim 64 --drop-path 0
  --crop 128x256 --scale 1-1.25 --no-photometric --class-weights log
  --power 0.9 --weight-decay 0.02 --clip-norm 1 --precision bf16 --threads 1 --half --license Apache-2.0
)
streamseg train "${common[@]}" --model segformer --offsets 0 --batch 12 --steps 2700 \
  --lr 8e-4 --head-lr 2.5 --warmup 100 --ema 0.995 --seed 1 -o "$out/frames"

# The same 12,000 frames' worth of steps from the same weights, as clips and as single frames.
second=(--init "$out/frames/weights.safetensors" --steps 1000 --lr 3e-4 --head-lr 6 --warmup 50 --ema 0.99 --seed 2)
streamseg train "${common[@]}" "${second[@]}" --model tv3s --layers 4 --window 2 --shift 1 \
  --offsets=-5,-4,-3,-2,-1,0 --batch 2 --supervise all --auxiliary 0.05 -o "$out/street"
streamseg train "${common[@]}" "${second[@]}" --model segformer --offsets 0 --batch 12 -o "$out/baseline"

held_out='synthetic:street?size=128x256&scenes=20&frames=40'
street=("$out/street/weights.safetensors" --size 128x256 --window 2 --shift 1)
streamseg eval "${street[@]}" --dataset "$held_out" --json "$out/street.json"
streamseg eval "${street[@]}" --dataset "$held_out" --stateless --json "$out/reset.json"
streamseg eval "$out/baseline/weights.safetensors" --size 128x256 --dataset "$held_out" --json "$out/baseline.json"
