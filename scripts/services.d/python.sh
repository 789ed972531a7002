# Python with a Kafka client and the CloudEvents SDK, in a virtual environment of its own, for the tests in which a
# program that knows nothing of this library reads what it wrote. Sourced by scripts/services.

PYTHON_REQUIREMENTS=$SERVICES_D/python/requirements.txt

python_home() { echo "$CACHE/python-$(sha256sum <"$PYTHON_REQUIREMENTS" | cut -c1-12)"; }

# The one that is named, or of the environment made here, if it still finds its packages: when the system's Python is
# replaced by a later one, it does not.
python_program() {
  local program=${OUTBOX_TEST_PYTHON:-$(python_home)/bin/python}
  "$program" -c 'from importlib.util import find_spec
assert find_spec("cloudevents") and find_spec("kafka")' 2>/dev/null && echo "$program"
}

# --- what scripts/services calls -----------------------------------------------------------------------------------

# The packages want 3.11; Debian keeps what makes environments in a package of its own.
python_packages() {
  if python_program >/dev/null; then return; fi
  python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || echo python3 python3-venv
}
python_fetch() {
  local home log
  if python_program >/dev/null; then return; fi
  home=$(python_home) log=$(service_dir python)/log
  say "python: installing what $PYTHON_REQUIREMENTS names…"
  rm -rf "$home.part" "$home"
  {
    python3 -m venv "$home.part" &&
      "$home.part/bin/python" -m pip install --no-input --require-hashes -r "$PYTHON_REQUIREMENTS" &&
      "$home.part/bin/python" -c 'import cloudevents.core.bindings.kafka, kafka'
  } >"$log" 2>&1 </dev/null || die "python: the packages could not be installed"
  mv "$home.part" "$home"
}
python_env() { echo "OUTBOX_TEST_PYTHON=$(python_program)"; }
python_purge() { :; }
