#!/bin/bash
# make bench: orbit beside heap in one server; `make bench HELP=1` or bench/run.sh --help says
# what can be chosen.  The work is done by the Python package in suite/.
set -u
here=$(cd "$(dirname "$0")" && pwd -P)
command -v python3 >/dev/null || { echo "orbit_fdw: python3 is missing: run make deps" >&2; exit 1; }
run() { PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 exec python3 -m suite "$@"; }

case ${1:-} in -h | --help) run --help ;; esac
[ -z "${HELP:-}" ] || run --help
. "$here/installed.sh"
export BINDIR OWNER LIBRARY TOP
run "$@"
