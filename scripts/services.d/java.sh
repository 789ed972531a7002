# What the two Java services share: the JDK's packages and jars resolved by Maven. Sourced by scripts/services.

JAVA_AT_LEAST=17

# java_packages COMMAND…: the Debian packages for the commands that are missing.
java_packages() {
  local command major
  for command in "$@"; do
    if command -v "$command" >/dev/null; then continue; fi
    case $command in
      java) echo default-jre-headless ;;
      javac) echo default-jdk-headless ;;
      mvn) echo maven ;;
    esac
  done
  if command -v java >/dev/null; then
    major=$(java -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p')
    [ "${major:-0}" -ge $JAVA_AT_LEAST ] || die "java on the PATH is version ${major:-unknown}; $JAVA_AT_LEAST or later is needed (apt: default-jre-headless)"
  fi
}

# java_jars_key FILE…: a new pom (or source file) is a new folder of jars, and nothing is fetched twice.
java_jars_key() { cat "$@" | sha256sum | cut -c1-12; }

# java_jars NAME POM FOLDER: copies the jars that the pom names, and all they need, into FOLDER.
java_jars() {
  say "$1: fetching jars…"
  rm -rf "$3"
  if ! mvn -B -ntp -q -f "$2" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$3" >"$3.log" 2>&1 </dev/null; then
    tail -n 15 "$3.log" >&2
    die "$1: mvn could not resolve the jars"
  fi
  rm "$3.log"
}
