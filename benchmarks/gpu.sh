#!/usr/bin/env bash
# Everything about speed on a machine with a GPU, unattended, within eight minutes, from the repository's root:
#
#   benchmarks/gpu.sh [--rehearse] [--more] [--python PYTHON] [--data_dir DIR] [--results DIR]
#
# 1. The tests that need a GPU: first steps of every family against the CPU, the same bits after an interruption, a
#    model that moves to a CPU. 2. The study of 100 models, cold and warm, against PyTorch eager, as a CUDA graph and in
#    eight processes; it needs DIR/packed/emodb (made by `launch.py prepare emodb` anywhere, and copied). 3. A step of
#    every family at 1, 10, 50 and 100 runs beside its limit. 4. Encoders against transformers and ONNX Runtime.
# Writes RESULTS/<device>.json and docs/performance.md. What fails or has no time left is named there and at the end, and
# the rest is run. Needs no network, neither TensorFlow nor TFDS, and of PyPI what requirements.txt names beside them,
# with pytest, beartype and hypothesis for the tests. --more runs the longer benchmarks instead, without a limit.
# --rehearse runs it all on a CPU in small, whose figures mean nothing and go to a folder of their own.
set -u
cd "$(dirname "$0")/.."
python=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
data_dir=data results=benchmarks/results page=docs/performance.md set=gpu rehearse="" limit=470
while [ $# -gt 0 ]; do
  case "$1" in
    --rehearse) rehearse=1; set=rehearsal; shift ;;
    --more) set=gpu_more; shift ;;
    --python) python=$2; shift 2 ;;
    --data_dir) data_dir=$2; shift 2 ;;
    --results) results=$2; shift 2 ;;
    *) echo "error: $1: expected --rehearse, --more, --python, --data_dir or --results" >&2; exit 2 ;;
  esac
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" SER_JAX_DATA="$data_dir"
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # PyTorch and the tests' processes are on the same GPU
failed="" SECONDS=0

"$python" - <<'PYTHON' || exit 2
import importlib.util, platform
print("Python", platform.python_version())
wanted = "jax flax optax orbax jaxtyping filelock tqdm soundfile soxr sklearn pandas pyarrow matplotlib jinja2 safetensors"
tests, peers = "pytest beartype hypothesis", "torch transformers onnxruntime librosa opensmile"
missing = {name: [one for one in names.split() if not importlib.util.find_spec(one)]
           for name, names in (("needed", wanted), ("for the tests", tests), ("peers", peers))}
for what, names in missing.items():
    print(f"not installed, {what}: {', '.join(names) or 'nothing'}")
if missing["needed"]:
    raise SystemExit("error: put what is needed on PYTHONPATH")
PYTHON

step() {
  echo; echo "== $* (after $SECONDS s)"
  "$@" || failed="$failed
  $*"
}

if [ -n "$rehearse" ]; then
  [ "$results" = benchmarks/results ] && results=$(mktemp -d)
  page=$results/performance.md
  export JAX_PLATFORMS=cpu SER_JAX_REHEARSE=1
  limit=3600
else
  # Where the CPU is not named too, JAX has it all the same; but the tests' own setting would leave the GPU out.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
fi

[ $set = gpu_more ] || step timeout $((limit / 3)) env JAX_DISABLE_MOST_OPTIMIZATIONS=false \
  "$python" -m pytest -m gpu tests/test_gpu.py -p no:cacheprovider
if [ $set = gpu_more ]; then
  step "$python" -m benchmarks.run --set gpu_more --results "$results" --page "$page"
else
  skip=""
  if [ -z "$rehearse" ] && [ ! -e "$data_dir/packed/emodb/corpus.json" ]; then
    echo "no packed corpus in $data_dir/packed/emodb: the study of 100 models is left out"
    skip="--only steps --only extraction"
  fi
  step "$python" -m benchmarks.run --set $set --limit $((limit - SECONDS)) --results "$results" --page "$page" $skip
fi

echo; echo "after $SECONDS s"; ls -l "$results"
if [ -n "$failed" ]; then echo "failed:$failed"; exit 1; fi
