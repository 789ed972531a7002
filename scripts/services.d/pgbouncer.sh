# PgBouncer, of which tests start their own: 1.21 or later, for those before keep no track of prepared statements. The
# installed one where it is new enough, else one built from source. Sourced by scripts/services after postgres.sh.

PGBOUNCER_VERSION=1.24.1
PGBOUNCER_SHA256=da72a3aba13072876d055a3e58dd4aba4a5de4ed6148e73033185245598fd3e0
# Debian's copy of the release, below the address of a mirror.
PGBOUNCER_SOURCE=pool/main/p/pgbouncer/pgbouncer_$PGBOUNCER_VERSION.orig.tar.gz
# Downloads one file by the transports and the proxy that apt is set up with, and checks its sum.
APT_HELPER=/usr/lib/apt/apt-helper

# Like the servers, it refuses to run as root.
pgbouncer_home() { echo "$(program_cache "$(postgres_user '')")/pgbouncer-$PGBOUNCER_VERSION"; }

# pgbouncer_usable PROGRAM: does it run, and is it 1.21 or later?
pgbouncer_usable() {
  local said major minor
  said=$("$1" --version 2>/dev/null) || return 1
  read -r major minor <<<"$(sed -nE 's/^PgBouncer ([0-9]+)\.([0-9]+).*/\1 \2/p' <<<"$said")"
  [ -n "$minor" ] && [ $((major * 1000 + minor)) -ge 1021 ]
}

# The one that is named, is on the PATH, is the package's (not every user's PATH has that folder) or was built here.
pgbouncer_program() {
  local program places=("${OUTBOX_TEST_PGBOUNCER:-}")
  places+=("$(command -v pgbouncer || true)" /usr/sbin/pgbouncer "$(pgbouncer_home)/pgbouncer")
  for program in "${places[@]}"; do
    if [ -n "$program" ] && pgbouncer_usable "$program"; then
      echo "$program"
      return
    fi
  done
  return 1
}

# The mirrors of Debian that apt is set up with; on another distribution, or before the first `apt-get update`, none.
pgbouncer_mirrors() {
  # shellcheck disable=SC2016 # apt's variable, not the shell's
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sort -u
  echo http://deb.debian.org/debian/
}

# pgbouncer_download FILE LOG
pgbouncer_download() {
  local mirror url
  for mirror in $(pgbouncer_mirrors); do
    url=${mirror%/}/$PGBOUNCER_SOURCE
    if "$APT_HELPER" download-file "$url" "$1" "SHA256:$PGBOUNCER_SHA256" >>"$2" 2>&1 </dev/null; then return; fi
  done
  return 1
}

# pgbouncer_build FOLDER: without what the tests do not use, so libevent is all it needs. With the variables set,
# configure does not ask pkg-config, which is then not needed either.
pgbouncer_build() {
  cd "$1" &&
    ./configure --without-openssl --without-cares LIBEVENT_CFLAGS=' ' LIBEVENT_LIBS=-levent &&
    make -j "$(nproc)" pgbouncer
}

# --- what scripts/services calls -----------------------------------------------------------------------------------

pgbouncer_packages() {
  if pgbouncer_program >/dev/null; then return; fi
  [ -x "$APT_HELPER" ] ||
    die "without apt no PgBouncer is built here; install 1.21 or later, or name it in OUTBOX_TEST_PGBOUNCER"
  c_packages
  header_package event2/event.h libevent-dev
}
pgbouncer_fetch() {
  local home log
  if pgbouncer_program >/dev/null; then return; fi
  home=$(pgbouncer_home) log=$(service_dir pgbouncer)/log
  say "pgbouncer: building $PGBOUNCER_VERSION…"
  rm -rf "$home.part" "$home"
  mkdir -p "$home.part/source"
  : >"$log"
  pgbouncer_download "$home.part/source.tar.gz" "$log" || die "pgbouncer: no mirror gave the $PGBOUNCER_SOURCE that is wanted"
  tar -xzf "$home.part/source.tar.gz" -C "$home.part/source" --strip-components=1
  (pgbouncer_build "$home.part/source") >>"$log" 2>&1 </dev/null || die "pgbouncer: the build failed"
  mkdir -p "$home"
  chmod a+rx "$(dirname "$home")" "$home"
  install -m 755 "$home.part/source/pgbouncer" "$home/pgbouncer.part"
  mv "$home/pgbouncer.part" "$home/pgbouncer" # in one step: half a program must not be mistaken for all of it
  rm -rf "$home.part"
  pgbouncer_program >/dev/null || die "pgbouncer: $home/pgbouncer was built and does not run"
}
pgbouncer_env() { echo "OUTBOX_TEST_PGBOUNCER=$(pgbouncer_program)"; }
pgbouncer_purge() { :; }
