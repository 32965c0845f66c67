#!/bin/sh
# Pin what the images install, with hashes, from the ranges of pyproject.toml: `make lock`.
# Usage: lock.sh PYTHON UV. The result holds for x86-64 and ARM64: hashes of every file of a release.
set -eu
cd "$(dirname "$0")"
python=$1 uv=$2

wanted() {
  "$python" -c '
import sys, tomllib
found = tomllib.load(open("../../pyproject.toml", "rb"))
print(*eval(sys.argv[1], {"project": found["project"], "build": found["build-system"]}), sep="\n")
' "$1"
}

lock() {
  wanted "$2" | "$uv" pip compile -q --generate-hashes --no-annotate --python-version 3.11 \
    --python-platform "${PLATFORM:-x86_64-manylinux_2_28}" --no-emit-index-url \
    --custom-compile-command 'make lock' ${UPGRADE:+--upgrade} -o "$1.requirements.txt" -
}

lock agent 'project["optional-dependencies"]["agent"]'
lock analyst 'project["optional-dependencies"]["analyst"]'
lock control 'project["dependencies"] + project["optional-dependencies"]["a2a"]'
lock build 'build["requires"] + ["wheel"]'
