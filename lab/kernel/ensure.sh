#!/bin/bash
# Prints the directory of the lab kernel, and builds it first where it is not in the cache yet (see README.md).
# Usage: ensure.sh           FABRIC_CACHE: where built kernels are kept (/var/cache/fabric-lab)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
hash=$(cat "$here"/kernel.config "$here"/xstate.patch "$here"/build.sh | sha256sum | cut -c1-16)
cache=${FABRIC_CACHE:-/var/cache/fabric-lab}
dir=$cache/linux-lab-$hash
if [ ! -x "$dir"/linux ]; then
  mkdir -p "$cache"
  # One builder at a time; who waited finds the kernel there
  exec 9>"$cache"/build.lock
  flock 9
  if [ ! -x "$dir"/linux ]; then
    echo "building the lab kernel in $dir (once, about 9 minutes on 2 cores)" >&2
    bash "$here"/build.sh "$dir" >&2 9>&-
  fi
fi
echo "$dir"
