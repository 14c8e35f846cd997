#!/bin/bash
# Checks and measures all kernels on a machine with a GPU, in about five minutes.
# Usage: benchmarks/gpu_ops.sh FOLDER [OPTIONS OF lightllm bench ops]; pytest-xdist and pytest-timeout are needed for it
# Kernels are compiled by many processes side by side, those that check among them; then one process measures.
out=$1
shift
export PYTHONPATH=. PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/triton-cache} OMP_NUM_THREADS=1
tests="python3 -m pytest -c /dev/null --rootdir=. -q -m gpu -p no:cacheprovider tests/compute/kernels/test_on_gpu.py"
timeout -k 5 170 $tests -k "long_chunks" -n 6 --timeout 160 >"$out/long_chunks.txt" 2>&1 &
timeout -k 5 170 $tests -k "not long_chunks" -n 8 --timeout 120 >"$out/parity.txt" 2>&1 &
for i in 0 1 2 3; do
  timeout -k 5 170 python3 -m lightllm bench ops --warm $i/4 "$@" >"$out/warm$i" 2>&1 &
done
wait
echo "prepared after $SECONDS s"
cat "$out"/warm* | grep -v Warning | cut -c1-300 | head -20
rm "$out"/warm*
grep -hE "^(FAILED|ERROR|E  )|passed|failed" "$out/long_chunks.txt" "$out/parity.txt" | cut -c1-250 | head -40
timeout -k 5 120 python3 -m lightllm bench ops --output-json "$out/ops.json" "$@" >"$out/ops.txt" 2>&1
echo "all measured after $SECONDS s"
tail -3 "$out/ops.txt" | cut -c1-200
