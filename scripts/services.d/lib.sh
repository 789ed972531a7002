# Shared by scripts/services and scripts/test: messages, packages, ports, processes. Sourced with ROOT set, never run.
#
# A running service is known by three files in its folder under target/services/<name>/:
#   pid   "<pid> <start time>": the start time tells our process from a later one that was given the same pid
#   port  the port it listens on; kept over restarts while nobody else takes it
#   log   what it printed

# Where the services keep their files, for the checkout in ROOT. Cargo takes a relative CARGO_TARGET_DIR from wherever it
# is called; here, and in the tests' search for the addresses, it is taken from the root of the repository.
TARGET=${CARGO_TARGET_DIR:-target}
case $TARGET in /*) ;; *) TARGET=$ROOT/$TARGET ;; esac
STATE=$TARGET/services

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# --- packages ------------------------------------------------------------------------------------------------------

# need_packages NAME…: installs Debian packages, or stops with the command that would.
need_packages() {
  [ $# -gt 0 ] || return 0
  local sudo=()
  command -v apt-get >/dev/null || die "missing on this machine (named as Debian packages): $*; install them and run this again"
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      sudo=(sudo -n)
    else
      die "packages are missing; run: sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
    fi
  fi
  say "installing packages: $*"
  local log apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  log=$(mktemp)
  # The lists of a fresh image are empty and those of an old one name files that are gone. Once per run is enough:
  # the variable is exported so that scripts/services, called by scripts/test, does not do it again.
  if [ -z "${OUTBOX_APT_UPDATED:-}" ]; then
    "${apt[@]}" update >"$log" 2>&1 </dev/null || { tail -n 5 "$log" >&2; say "apt-get update failed; trying with the lists at hand"; }
    export OUTBOX_APT_UPDATED=1
  fi
  # confold: a configuration file that was put in place beforehand must not raise a question nobody can answer.
  "${apt[@]}" -o Dpkg::Options::=--force-confold install --no-install-recommends "$@" >"$log" 2>&1 </dev/null ||
    { tail -n 15 "$log" >&2; rm -f "$log"; die "apt-get could not install: $*"; }
  rm -f "$log"
}

# c_packages: the Debian packages for compiling C that are missing.
c_packages() {
  command -v cc >/dev/null || echo gcc libc6-dev
  command -v make >/dev/null || echo make
}

# header_package HEADER PACKAGE: the package, unless its header is there.
header_package() { echo "#include <$1>" | cc -E -x c - >/dev/null 2>&1 || echo "$2"; }

# --- ports ---------------------------------------------------------------------------------------------------------

# port_open PORT: does anyone accept connections there?
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port [TAKEN…]: a port nobody listens on. Below the range from which the kernel takes ports for outgoing
# connections, so that a client's socket is not sitting on it when the service is restarted.
free_port() {
  local port
  while :; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    case " $* " in *" $port "*) continue ;; esac
    port_open "$port" || break
  done
  echo "$port"
}

# --- processes -----------------------------------------------------------------------------------------------------

# start_time PID: when the process was started, in clock ticks since boot; empty when it is gone. A zombie counts as
# gone, unless it still has threads: a killed JVM is a zombie with threads until they have all ended.
start_time() {
  local stat fields
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  read -ra fields <<<"${stat##*) }" # the name before the bracket may hold spaces
  if [ "${fields[0]}" != Z ] || [ "${fields[17]}" -gt 1 ]; then echo "${fields[19]}"; fi
}

# alive DIR: does the process that was recorded in DIR/pid still run?
alive() {
  local pid start
  { read -r pid start <"$1/pid"; } 2>/dev/null || return 1
  [ -n "$start" ] && [ "$(start_time "$pid")" = "$start" ]
}

# zombie PID: dead, but its parent has not asked for its exit status yet.
zombie() { grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null && [ -z "$(start_time "$1")" ]; }

# detach DIR COMMAND…: starts a server that outlives this script and records it in DIR/pid. The command runs in a
# session of its own (a Ctrl-C here does not reach it), without the lock on descriptor 9. The variable marks the
# process as ours even when the pid file is lost, for instance to `cargo clean`: see stop_strays.
detach() {
  local dir=$1
  shift
  OUTBOX_SERVICE_DIR=$dir setsid "$@" >>"$dir/log" 2>&1 </dev/null 9>&- &
  echo "$! $(start_time $!)" >"$dir/pid"
}

# stop_pid PID START SIGNAL: SIGNAL, 30 s of patience, then SIGKILL; returns when the process is gone.
stop_pid() {
  local pid=$1 start=$2 signal=$3 i
  kill -CONT "$pid" 2>/dev/null || true # a stopped process would not see the signal
  kill "-$signal" "$pid" 2>/dev/null || true
  for ((i = 0; i < 300; i++)); do
    [ "$(start_time "$pid")" = "$start" ] || return 0
    sleep 0.1
  done
  say "pid $pid ignored SIG$signal for 30 s; killing it"
  kill -KILL "$pid" 2>/dev/null || true
  for ((i = 0; i < 100; i++)); do
    [ "$(start_time "$pid")" = "$start" ] || return 0
    sleep 0.1
  done
  die "pid $pid does not die"
}

# strays DIR: processes that were started for DIR and are recorded nowhere (the pid file went with the target folder,
# or the script was killed before it could write it). Their own children carry the mark too and are left to them.
strays() {
  local mark="OUTBOX_SERVICE_DIR=$1" recorded='' environ pid parent
  { read -r recorded _ <"$1/pid"; } 2>/dev/null || true
  for environ in $(grep -slzxF "$mark" /proc/[0-9]*/environ); do
    pid=${environ#/proc/} pid=${pid%/environ}
    [ "$pid" != "$recorded" ] || continue
    parent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) || continue
    grep -sqzxF "$mark" "/proc/$parent/environ" || echo "$pid"
  done
}

# stop_strays DIR SIGNAL
stop_strays() {
  local pid start
  for pid in $(strays "$1"); do
    start=$(start_time "$pid")
    [ -n "$start" ] || continue
    say "stopping pid $pid, left over from an earlier start in $1"
    stop_pid "$pid" "$start" "$2"
  done
}

# --- time ----------------------------------------------------------------------------------------------------------

# now_ms: milliseconds, for durations.
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# seconds_since MS: "4.1"
seconds_since() {
  local ms=$(($(now_ms) - $1))
  printf '%d.%d' $((ms / 1000)) $((ms % 1000 / 100))
}
