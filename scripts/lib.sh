# Sourced by the scripts beside it: messages, stages with times, and what a run may leave behind.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# The programs that are shipped, and the profile that everything in scripts/ runs: built once.
programs=(fabric-rr fabric-leaf routerctl)
target=${CARGO_TARGET_DIR:-$root/target}
profile=release
bin=$target/$profile

say() { printf '%s\n' "$*"; }
head_line() { printf '\n== %s\n' "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$1" >&2; [ $# -lt 2 ] || printf '  fix: %s\n' "$2" >&2; exit 1; }
now_ms() { date +%s%3N; }
seconds() { awk -v ms="$1" 'BEGIN { printf "%.1f s", ms / 1000 }'; }

need_root() {
    [ "$(id -u)" = 0 ] || fail "$1 needs root (it makes network namespaces)" "sudo $0"
}

need_cargo() {
    if ! command -v cargo >/dev/null && [ -x "${HOME:-/root}/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
    command -v cargo >/dev/null || fail "no Rust toolchain" "install the one that rust-version in Cargo.toml names, see https://rustup.rs"
}

# The programs that are shipped, and what else is named: `build_programs -p fabric-bench`.
build_programs() {
    need_cargo
    cargo build --locked --profile "$profile" -p fabric-rr -p fabric-leaf -p fabric-cli "$@"
}

# What a run must not leave behind, one thing a line. Namespaces, interfaces and tables are the machine's;
# processes are those started from this build; temporary files are those in TMPDIR (the caller points it at a
# folder of its own) and whatever has the fabric's name in the usual places.
snapshot() {
    ip netns list 2>/dev/null | awk '{ print "namespace " $1 }' || true
    ip -o link 2>/dev/null | awk '{ sub(/[:@].*/, "", $2); print "interface " $2 }' || true
    nft list tables 2>/dev/null | awk '{ print "nft " $0 }' || true
    ip route show table all proto 84 2>/dev/null | awk '{ print "route " $0 }' || true
    local exe pid
    for pid in /proc/[0-9]*; do
        exe=$(readlink "$pid/exe" 2>/dev/null) || continue
        case $exe in
        "$bin"/*) case $(cat "$pid/stat" 2>/dev/null) in *") Z "*) ;; *) say "process ${pid#/proc/} $exe" ;; esac ;;
        esac
    done
    find /run/fabric-lab -mindepth 1 -maxdepth 1 2>/dev/null | sed 's/^/file /' || true
    find /tmp /var/tmp -mindepth 1 -maxdepth 1 \( -name '*fabric*' -o -name '*routerctl*' \) 2>/dev/null | sed 's/^/file /' || true
    [ -z "${TMPDIR:-}" ] || find "$TMPDIR" -mindepth 1 2>/dev/null | sed 's/^/file /' || true
}

# Prints what is there now and was not in the snapshot file $1; what belongs to another lab (one that $2 does not
# name) is that lab's. Status 1 when there is any.
left_behind() {
    local mine=$2 left others
    others=$(find /run/fabric-lab -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | grep -vxF "$mine" | paste -sd'|' || true)
    left=$(comm -13 <(sort -u "$1") <(snapshot | sort -u))
    [ -z "$others" ] || left=$(grep -vE "^(namespace ($others)-|file /run/fabric-lab/($others)$|process )" <<<"$left" || true)
    [ -z "$left" ] || { printf '%s\n' "$left"; return 1; }
}

# A lab of this script's own, taken down when the script ends. `lab up` prints how it went.
lab_begin() {
    need_root "the lab"
    scripts/setup demo
    build_programs 2>&1 | grep -E '^error|Finished' || fail "the build failed" "cargo build --release"
    lab=$1-$$
    trap '"$bin/routerctl" lab down --name "$lab" >/dev/null 2>&1 || true' EXIT
    trap 'exit 130' INT TERM
    "$bin/routerctl" lab up --name "$lab" --hubs "${2:-1}" -o json >"$target/$1.json" || fail "the lab did not come up" "look into $target/$1.json"
}

on() { local node=$1; shift; "$bin/routerctl" lab exec --name "$lab" "$node" -- "$@"; }
seconds_now() { date +%s.%N; }
# Milliseconds from moment $1 to the first reply in the ping log $2, `none` without one.
first_reply_ms() { awk -v t="$1" '/bytes from/ { s = $1; gsub(/[][]/, "", s); if (s > t) { printf "%d", (s - t) * 1000; found = 1; exit } } END { if (!found) printf "none" }' "$2"; }
