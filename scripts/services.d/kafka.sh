# Apache Kafka, one node that is broker and controller (KRaft). Sourced by scripts/services.

KAFKA_POM=$SERVICES_D/kafka/pom.xml

kafka_libs() { echo "$CACHE/kafka-$(java_jars_key "$KAFKA_POM")"; }

kafka_packages() {
  if [ -d "$(kafka_libs)" ]; then java_packages java; else java_packages java mvn; fi
}

kafka_fetch() {
  local libs
  libs=$(kafka_libs)
  if [ ! -d "$libs" ]; then
    java_jars kafka "$KAFKA_POM" "$libs.part"
    mv "$libs.part" "$libs" # in one step: a half-filled folder must not be mistaken for all of it
  fi
  kafka_classes "$libs" || say "kafka: no archive of classes could be made; each broker takes longer to start"
}

# Classes as a broker has them in memory, in $libs/classes.jsa: tests start many brokers, and with it one is up in half
# the time. The JVM writes it at the end of a first, short run; one of another Java or of other jars fails the check.
kafka_classes() ( # LIBS
  libs=$1 archive=$1/classes.jsa
  java -Xshare:on -XX:SharedArchiveFile="$archive" -cp "$libs/*" -version >/dev/null 2>&1 && exit
  say "kafka: archiving classes…"
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  rm -f "$archive" "$archive.part"
  port=$(free_port)
  kafka_configure "$dir" "$port" "$(free_port "$port")" >"$dir/log" 2>&1 </dev/null || exit
  timeout 60 "${JAVA[@]}" -XX:ArchiveClassesAtExit="$archive.part" kafka.Kafka "$dir/server.properties" \
    >>"$dir/log" 2>&1 </dev/null 9>&- &
  until kafka_answers "$port"; do
    kill -0 $! 2>/dev/null || exit
    sleep 0.1
  done
  kill $!
  wait $! || true
  mv "$archive.part" "$archive" # in one step: half an archive crashes the JVM that maps it
)

kafka_start() {
  local dir port
  dir=$(service_dir kafka) port=$(<"$dir/port")
  kafka_configure "$dir" "$port" "$(free_port "$port" "${TAKEN[@]}")" >"$dir/log" 2>&1 </dev/null
  detach "$dir" "${JAVA[@]}" kafka.Kafka "$dir/server.properties"
}

# Writes the settings, formats the storage of a new broker, and sets JAVA to what runs it.
kafka_configure() { # DIR PORT CONTROLLER-PORT
  local dir=$1 port=$2 controller=$3 libs archive
  libs=$(kafka_libs) archive=$libs/classes.jsa

  cat >"$dir/log4j2.properties" <<-END
	status=error
	appender.console.type=Console
	appender.console.name=console
	appender.console.layout.type=PatternLayout
	appender.console.layout.pattern=%d{HH:mm:ss.SSS} %p %c{1} %m%n
	rootLogger.level=warn
	rootLogger.appenderRef.console.ref=console
	END
  # One node: everything that is replicated by default has one copy. A group's first assignment is made at
  # once rather than after seconds, for a test waits for it. Few partitions of the internal topics and
  # a small deduplication buffer: less to create, less memory. A long session: on a loaded machine the only broker would
  # miss heartbeats and be fenced, and everything with it; the price is half a minute after a kill -9.
  cat >"$dir/server.properties" <<-END
	process.roles=broker,controller
	node.id=1
	controller.quorum.voters=1@127.0.0.1:$controller
	listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
	advertised.listeners=PLAINTEXT://127.0.0.1:$port
	listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
	controller.listener.names=CONTROLLER
	inter.broker.listener.name=PLAINTEXT
	log.dirs=$dir/data
	auto.create.topics.enable=true
	num.partitions=1
	default.replication.factor=1
	min.insync.replicas=1
	offsets.topic.replication.factor=1
	offsets.topic.num.partitions=4
	transaction.state.log.replication.factor=1
	transaction.state.log.min.isr=1
	transaction.state.log.num.partitions=4
	share.coordinator.state.topic.replication.factor=1
	share.coordinator.state.topic.min.isr=1
	group.initial.rebalance.delay.ms=0
	broker.session.timeout.ms=30000
	broker.heartbeat.interval.ms=1000
	num.network.threads=2
	num.io.threads=4
	num.recovery.threads.per.data.dir=2
	log.retention.hours=24
	log.cleaner.dedupe.buffer.size=8388608
	END

  JAVA=(java -Xmx512m -XX:+UseSerialGC -Djava.awt.headless=true -Dlog4j2.disable.jmx=true
    -Dlog4j2.configurationFile="$dir/log4j2.properties" -Dkafka.logs.dir="$dir" -cp "$libs/*")
  if [ -f "$archive" ]; then JAVA+=(-XX:SharedArchiveFile="$archive"); fi
  if [ ! -s "$dir/data/meta.properties" ]; then
    "${JAVA[@]}" kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAQ -c "$dir/server.properties"
  fi
}

# An open port is not enough: the listener is bound before the broker serves. It serves when it answers an
# ApiVersions request (key 18, version 0, correlation id 90, no client id) with that id and error code 0.
kafka_answers() { # PORT
  timeout 2 bash -c '
    exec 3<>"/dev/tcp/127.0.0.1/$0" || exit 1
    printf "\0\0\0\x0a\0\x12\0\0\0\0\0\x5a\xff\xff" >&3
    [ "$(head -c 10 <&3 | od -An -tx1 -j4 | tr -d " \n")" = 0000005a0000 ]' "$1" 2>/dev/null
}

kafka_env() { # PORT
  echo "OUTBOX_TEST_KAFKA_BOOTSTRAP=127.0.0.1:$1"
  echo "OUTBOX_TEST_KAFKA_LIBS=$(kafka_libs)"
}
kafka_purge() { :; }
