# OpenSearch, one node, started from its jars by a small main class (opensearch/OsNode.java). Sourced by scripts/services.

OPENSEARCH_D=$SERVICES_D/opensearch

opensearch_libs() { echo "$CACHE/opensearch-$(java_jars_key "$OPENSEARCH_D/pom.xml" "$OPENSEARCH_D/OsNode.java")"; }

opensearch_packages() {
  if [ -d "$(opensearch_libs)" ]; then java_packages java; else java_packages java javac mvn; fi
}

opensearch_fetch() {
  local libs classes
  libs=$(opensearch_libs)
  [ ! -d "$libs" ] || return 0
  java_jars opensearch "$OPENSEARCH_D/pom.xml" "$libs.part"
  classes=$libs.part/classes
  javac --release "$JAVA_AT_LEAST" -cp "$libs.part/*" -d "$classes" "$OPENSEARCH_D/OsNode.java" >&2 ||
    die "opensearch: OsNode.java does not compile"
  mv "$libs.part" "$libs" # in one step: a half-filled folder must not be mistaken for all of it
}

opensearch_start() {
  local dir libs
  dir=$(service_dir opensearch) libs=$(opensearch_libs)
  mkdir -p "$dir/tmp"
  # Started often and for little work, the JVM uses its first compiler only. The netty and log4j flags are those that
  # OpenSearch's own launcher passes.
  detach "$dir" java -Xms512m -Xmx512m -XX:+UseG1GC -XX:TieredStopAtLevel=1 -Djava.io.tmpdir="$dir/tmp" \
    -Djava.awt.headless=true -Dio.netty.noUnsafe=true -Dio.netty.noKeySetOptimization=true \
    -Dio.netty.recycler.maxCapacityPerThread=0 -Dio.netty.allocator.numDirectArenas=0 \
    -Dlog4j.shutdownHookEnabled=false -Dlog4j2.disable.jmx=true \
    -cp "$libs/classes:$libs/*" OsNode "$dir" "$(<"$dir/port")"
}

# The HTTP port opens before the node has a cluster to serve. Asked over a plain socket: curl need not be there.
opensearch_answers() { # PORT
  timeout 5 bash -c '
    exec 3<>"/dev/tcp/127.0.0.1/$0" || exit 1
    printf "GET /_cluster/health?wait_for_status=yellow&timeout=3s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n" >&3
    read -r _ status _ <&3 && [ "$status" = 200 ]' "$1" 2>/dev/null
}

opensearch_env() { # PORT
  echo "OUTBOX_TEST_OPENSEARCH_URL=http://127.0.0.1:$1"
  echo "OUTBOX_TEST_OPENSEARCH_LIBS=$(opensearch_libs)"
}
opensearch_purge() { :; }
