#!/usr/bin/env bash
# Everything about speed on a machine with a GPU, unattended, from the repository's root:
#
#   benchmarks/gpu.sh [--only PART ...] [--limit SECONDS] [--rehearse] [--more] [--python PYTHON] [--data_dir DIR]
#                     [--results DIR]
#
# What decides comes first, and a row is kept as soon as it is measured. A part ends after its own limit, or when --limit
# (470) seconds are over for all. What is expected was measured on an H200 with 16 cores, or is reckoned from that:
#
#   part        limit  expected  what it is
#   study         230       220  100 models, cold (99 s); PyTorch eager, as a CUDA graph, and that in bfloat16 (25 s);
#                                ours warm (71 s); PyTorch eager in eight processes (25 s)
#   steps         140       115  K = 50: start (18 s), four families in two precisions (55 s), the others in tf32 (40 s)
#   tests         150       100  17 tests of 15 to 50 s each, six at once: first steps of every family against the CPU,
#                                kernels, the same bits after an interruption, a model that moves to a CPU
#   steps-more    130       125  K = 1, 10, 100: start (18 s), 55 s for four families at each K; in 130 s K = 1 and 10
#   extraction    130         ?  two large encoders against transformers; never measured there
#
# Eight minutes hold the first three parts. Two calls of six minutes hold all of them:
#
#   benchmarks/gpu.sh --limit 370 --only study --only steps
#   benchmarks/gpu.sh --limit 370 --only tests --only steps-more --only extraction
#
# The study needs DIR/packed/emodb (made by `launch.py prepare emodb` anywhere, and copied). Writes RESULTS/<device>.json
# and, at the end, docs/performance.md. The last line says how it ended: with status 0 all was measured; with 3 the rows
# that decide were, and time was up for others; with 1 something failed, or time was up before. Needs no network, neither
# TensorFlow nor TFDS, and of PyPI what requirements.txt names, with pytest, pytest-xdist, beartype and psutil for the
# tests. --more runs the longer benchmarks instead, without a limit unless one is given. --rehearse runs it all on a CPU
# in small, whose figures mean nothing and go to a folder of their own.
set -u
cd "$(dirname "$0")/.."
python=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
data_dir=data results=benchmarks/results page=docs/performance.md set=gpu rehearse="" only="" limit=""
parts="study:230 steps:140 tests:150 steps-more:130 extraction:130"
while [ $# -gt 0 ]; do
  case "$1" in
    --rehearse) rehearse=1; set=rehearsal; shift ;;
    --more) set=gpu_more; shift ;;
    --only | --limit | --python | --data_dir | --results)
      [ -n "${2:-}" ] || { echo "error: $1: expected a value after it" >&2; exit 2; }
      if [ "$1" = --only ]; then only="$only $2"; else declare "${1#--}=$2"; fi
      shift 2 ;;
    *) echo "error: $1: expected --only, --limit, --rehearse, --more, --python, --data_dir or --results" >&2; exit 2 ;;
  esac
done
[[ ${limit:-470} =~ ^[1-9][0-9]*$ ]] || { echo "error: --limit $limit: expected whole seconds above 0" >&2; exit 2; }
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" SER_JAX_DATA="$data_dir"
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # PyTorch and the tests' processes are on the same GPU
failed="" cut="" SECONDS=0

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

if [ -n "$rehearse" ]; then
  [ "$results" = benchmarks/results ] && results=$(mktemp -d)
  page=$results/performance.md
  export JAX_PLATFORMS=cpu SER_JAX_REHEARSE=1
else
  # Where the CPU is not named too, JAX has it all the same; but the tests' own setting would leave the GPU out.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
fi

benchmark() { "$python" -m benchmarks.run --set $set --results "$results" --page "$page" "$@"; }

part() {  # NAME LIMIT
  local left=$((limit - SECONDS - 5)) status  # of which the page takes some
  local seconds=$(($2 < left ? $2 : left))
  [ -n "$rehearse" ] && seconds=1800
  echo; echo "== $1 (after $SECONDS s, for at most $seconds s)"
  if [ "$1" = study ] && [ -z "$rehearse" ] && [ ! -e "$data_dir/packed/emodb/corpus.json" ]; then
    echo "no packed corpus in $data_dir/packed/emodb"; failed="$failed $1"; return
  elif [ $seconds -lt 20 ]; then  # without study, steps or tests nothing is decided: see `decides` in run.py
    case $1 in study | steps | tests) status=1 ;; *) status=3 ;; esac
  elif [ "$1" = tests ]; then
    JAX_DISABLE_MOST_OPTIMIZATIONS=false timeout -k 5 $seconds "$python" -m pytest -m gpu tests/test_gpu.py -vv \
      -p no:cacheprovider -n $(($(nproc) / 3 + 1)) --dist worksteal
    status=$(($? > 0))
  else
    benchmark --no_page --only "$1" --limit $seconds
    status=$?
  fi
  case $status in
    0) ;;
    3) cut="$cut $1" ;;
    *) failed="$failed $1" ;;
  esac
}

if [ $set = gpu_more ]; then
  benchmark ${only// / --only } ${limit:+--limit $limit}
  case $? in 0) ;; 3) echo "time was up for --more (after $SECONDS s)"; exit 3 ;; *) failed=" --more" ;; esac
else
  limit=${limit:-470}
  for name in $only; do
    case " $parts" in *" $name:"*) ;; *) echo "error: --only $name: expected one of ${parts//:[0-9][0-9][0-9]/}" >&2; exit 2 ;; esac
  done
  for own in $parts; do
    [ -n "$only" ] && [[ " $only " != *" ${own%:*} "* ]] || part ${own%:*} ${own#*:}
  done
  "$python" -m benchmarks.run --set none --results "$results" --page "$page" || failed="$failed page"
fi

echo; ls -l "$results"
if [ -n "$failed" ]; then echo "failed:$failed${cut:+; time was up for:$cut} (after $SECONDS s)"; exit 1; fi
if [ -n "$cut" ]; then echo "what decides was measured; time was up for:$cut (after $SECONDS s)"; exit 3; fi
echo "all was measured (after $SECONDS s)"
