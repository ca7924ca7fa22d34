#!/usr/bin/env bash
# Everything about speed on a machine with a GPU, unattended, within eight minutes, from the repository's root:
#
#   benchmarks/gpu.sh [--rehearse] [--more] [--only NAME ...] [--python PYTHON] [--data_dir DIR] [--results DIR]
#
# 1. The tests that need a GPU: first steps of every family against the CPU, the same bits after an interruption, a
#    model that moves to a CPU. 2. The study of 100 models, cold and warm, against PyTorch eager, as a CUDA graph and in
#    eight processes; it needs DIR/packed/emodb (made by `launch.py prepare emodb` anywhere, and copied). 3. A step of
#    every family at 1, 10, 50 and 100 runs beside its limit. 4. Encoders against transformers and ONNX Runtime.
# Writes RESULTS/<device>.json, figure by figure, and docs/performance.md. What fails or has no time left is named there
# and at the end, and the rest is run. Needs no network, neither TensorFlow nor TFDS, and of PyPI what requirements.txt
# names, with pytest, pytest-xdist, beartype and psutil for the tests. --only study, steps or extraction runs that
# without the tests, as for what had no time left. --more runs the longer benchmarks instead, without a limit.
# --rehearse runs it all on a CPU in small, whose figures mean nothing and go to a folder of their own.
set -u
cd "$(dirname "$0")/.."
python=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
data_dir=data results=benchmarks/results page=docs/performance.md set=gpu rehearse="" only="" limit=470
while [ $# -gt 0 ]; do
  case "$1" in
    --rehearse) rehearse=1; set=rehearsal; shift ;;
    --more) set=gpu_more; shift ;;
    --only) only="$only --only $2"; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --data_dir) data_dir=$2; shift 2 ;;
    --results) results=$2; shift 2 ;;
    *) echo "error: $1: expected --rehearse, --more, --only, --python, --data_dir or --results" >&2; exit 2 ;;
  esac
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" SER_JAX_DATA="$data_dir"
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # PyTorch and the tests' processes are on the same GPU
failed="" SECONDS=0

"$python" - <<'PYTHON' || exit 2
import importlib.metadata, pathlib, platform, re
print("Python", platform.python_version())
wanted = {
    "needed": re.findall(r"^[\w-]+", pathlib.Path("requirements.txt").read_text(), re.MULTILINE),
    "for the tests": ["pytest", "pytest-xdist", "beartype", "psutil"],
    "peers": ["torch", "transformers", "onnxruntime", "librosa", "opensmile"],
}
installed = {re.sub("[-_.]+", "-", one.name or "").lower() for one in importlib.metadata.distributions()}
missing = {what: [name for name in names if re.sub("[-_.]+", "-", name).lower() not in installed]
           for what, names in wanted.items()}
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

[ $set = gpu_more ] || [ -n "$only" ] || step timeout $((limit / 3)) env JAX_DISABLE_MOST_OPTIMIZATIONS=false \
  "$python" -m pytest -m gpu tests/test_gpu.py -p no:cacheprovider -n 3 --dist loadgroup
if [ $set = gpu_more ]; then
  step "$python" -m benchmarks.run --set gpu_more --results "$results" --page "$page" $only
else
  if [ -z "$rehearse$only" ] && [ ! -e "$data_dir/packed/emodb/corpus.json" ]; then
    echo "no packed corpus in $data_dir/packed/emodb: the study of 100 models is left out"
    only="--only steps --only extraction"
  fi
  step "$python" -m benchmarks.run --set $set --limit $((limit - SECONDS)) --results "$results" --page "$page" $only
fi

echo; echo "after $SECONDS s"; ls -l "$results"
if [ -n "$failed" ]; then echo "failed:$failed"; exit 1; fi
