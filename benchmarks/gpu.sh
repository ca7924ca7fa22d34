#!/usr/bin/env bash
# Everything about speed on a machine with a GPU, unattended, in one command from the repository's root:
#
#   benchmarks/gpu.sh [--small] [--python PYTHON] [--data_dir DIR] [--results DIR]
#
# Checks the training step on the GPU against the CPU in float32; runs the benchmarks with the peers that are installed
# there; and, where DIR holds a packed corpus `emodb` (made by `launch.py prepare emodb` anywhere, and copied), the study
# of 100 models. Writes RESULTS/<device>.json. What fails is named at the end, and the rest is run. Needs neither
# TensorFlow nor TFDS. --small is a rehearsal of it all in a few minutes, on a CPU too, whose figures
# mean nothing and go to a folder of their own.
set -u
cd "$(dirname "$0")/.."
python=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
data_dir=data results=benchmarks/results small=""
while [ $# -gt 0 ]; do
  case "$1" in
    --small) small=1; shift ;;
    --python) python=$2; shift 2 ;;
    --data_dir) data_dir=$2; shift 2 ;;
    --results) results=$2; shift 2 ;;
    *) echo "error: $1: expected --small, --python, --data_dir or --results" >&2; exit 2 ;;
  esac
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # PyTorch is on the same GPU
failed=""

step() {
  echo; echo "== $*"
  "$@" || failed="$failed
  $*"
}

"$python" - <<'PYTHON'
import importlib.util, jax, platform
print("Python", platform.python_version(), "jax", jax.__version__, jax.devices())
wanted = ("flax", "optax", "orbax", "jaxtyping", "filelock", "tqdm", "soundfile", "soxr", "sklearn", "torch", "librosa", "opensmile", "onnxruntime")
print("not installed:", ", ".join(name for name in wanted if not importlib.util.find_spec(name)) or "nothing")
PYTHON

if [ -n "$small" ]; then
  [ "$results" = benchmarks/results ] && results=$(mktemp -d)
  options="--results $results --page $results/performance.md"
  step "$python" -m benchmarks.correctness --option width=tiny --batch 4
  step "$python" -m benchmarks.run --set small $options
  step "$python" -m benchmarks.run --set small_study $options
else
  options="--results $results --page docs/performance.md"
  step "$python" -m benchmarks.correctness
  if [ -e "$data_dir/packed/emodb/corpus.json" ]; then
    SER_JAX_DATA="$data_dir" step "$python" -m benchmarks.run --set gpu_study $options
  else
    echo "no packed corpus in $data_dir/packed/emodb: the study of 100 models is left out"
  fi
  step "$python" -m benchmarks.run --set gpu $options
fi

echo; ls -l "$results"
if [ -n "$failed" ]; then echo "failed:$failed"; exit 1; fi
