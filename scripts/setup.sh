#!/bin/sh
# Makes .venv: a Python of 3.11 to 3.14, every package of requirements.lock by its hash, this package as it stands here,
# and Apache Kafka's jars. Needs nothing but Python and a network; does nothing when all of that is done.
# PYTHON may name the Python to use.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 1; }

# A pyenv shim is there and does not run: only running it tells.
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1; }
makes_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" || die "PYTHON is '$PYTHON', which is no Python of 3.11 to 3.14 that runs; name one that is"
        makes_venvs "$PYTHON" || die "the Python '$PYTHON' lacks ensurepip, and cannot make a virtual environment; on Debian and Ubuntu its package python3-venv brings it"
        python=$PYTHON
        return
    fi
    bare=
    for python in python3.14 python3.13 python3.12 python3.11 python3; do
        if suits "$python"; then
            if makes_venvs "$python"; then return; fi
            bare=$python
        fi
    done
    [ -z "$bare" ] || die "the Python '$bare' lacks ensurepip, and cannot make a virtual environment; install the package python3-venv (Debian, Ubuntu), or name another Python: make PYTHON=/path/to/python3"
    die "no Python of 3.11 to 3.14 found on PATH; install one, or name it: make PYTHON=/path/to/python3"
}

digest() {
    cat requirements.lock pyproject.toml worker/kafka/jars.lock scripts/setup.sh |
        "$1" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

stamp=.venv/.setup
if [ -f "$stamp" ] && suits .venv/bin/python && [ "$(cat "$stamp")" = "$(digest .venv/bin/python)" ]; then
    exit 0
fi

if ! suits .venv/bin/python; then
    find_python
    say "making .venv with $("$python" -c 'import platform, sys; print("Python", platform.python_version(), "of", sys.executable)')"
    rm -rf .venv
    "$python" -m venv .venv
fi
rm -f "$stamp"

count=$(grep -c '^[a-z0-9].*==' requirements.lock)
quiet=--quiet
[ -t 2 ] && quiet=
say "installing the packages of requirements.lock (up to $count, by hash; the first time they are 6 GB and take minutes)"
# uv's own pins are cut out of the lock, so that pip installs it by hash, too.
awk '/^[a-z0-9]/ { uv = /^uv==/ } uv' requirements.lock >.venv/uv.lock
if .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock &&
    UV_SYSTEM_CERTS=1 VIRTUAL_ENV="$PWD/.venv" .venv/bin/uv pip sync $quiet --require-hashes requirements.lock; then
    :
else
    say "uv could not; going on with pip, which is slower"
    .venv/bin/python -m pip install $quiet --disable-pip-version-check --require-hashes -r requirements.lock
fi

say "installing this package, editable"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

say "looking for Apache Kafka"
.venv/bin/python -m worker.kafka.jars && .venv/bin/python -m worker.kafka.aot || say "without them no embedded broker starts; the next 'make demo' or 'make test' tries again"

digest .venv/bin/python >"$stamp"
say "done; 'make help' lists what there is"
