import java.time.Duration;
import java.util.*;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.*;

/**
 * A Kafka Streams application with exactly_once_v2, what feeds it, and what reads what it makes.
 *
 * <pre>java Streams produce BOOTSTRAP              until TERM: numbered lines of words, and keys that come once left and once right; "sent COUNT"
 * java Streams run BOOTSTRAP DIRECTORY REPLICAS  counts the words, and joins left and right, with its state in the directory
 * java Streams read BOOTSTRAP TOPIC              what is committed there now: "key value", a line each</pre>
 *
 * Each count and each pair is written as it comes, none is held back: of a word 1, 2, 3 and so on, of a key one pair.
 */
public class Streams {
    static final int WORDS = 20, WORDS_A_LINE = 5;
    static final long MILLIS_A_RECORD = 10;

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "produce": produce(arguments[1]); break;
            case "run": run(arguments[1], arguments[2], arguments[3]); break;
            case "read": read(arguments[1], arguments[2]); break;
            default: throw new IllegalArgumentException(arguments[0]);
        }
    }

    static Properties settings(String bootstrap) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        return settings;
    }

    static void produce(String bootstrap) throws Exception {
        AtomicBoolean finishing = new AtomicBoolean();
        sun.misc.Signal.handle(new sun.misc.Signal("TERM"), signal -> finishing.set(true));
        Properties settings = settings(bootstrap);
        settings.put("enable.idempotence", "true");
        settings.put("delivery.timeout.ms", "" + Integer.MAX_VALUE);
        settings.put("max.block.ms", "" + Integer.MAX_VALUE);
        long count = 0;
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            Callback settled = (metadata, failed) -> {
                if (failed == null) return;
                failed.printStackTrace();
                Runtime.getRuntime().halt(1);
            };
            for (; !finishing.get(); count++, Thread.sleep(MILLIS_A_RECORD)) {
                StringJoiner line = new StringJoiner(" ");
                for (int i = 0; i < WORDS_A_LINE; i++) line.add("w" + (count * 7 + i * 3) % WORDS);
                producer.send(new ProducerRecord<>("lines", null, line.toString()), settled);
                producer.send(new ProducerRecord<>("left", "k" + count, "l" + count), settled);
                producer.send(new ProducerRecord<>("right", "k" + count, "r" + count), settled);
            }
        }
        System.out.println("sent " + count);
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    static void run(String bootstrap, String directory, String replicas) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream("lines").flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((none, word) -> word).count(Materialized.as("counts")).toStream()
            .to("counted", Produced.with(Serdes.String(), Serdes.Long()));
        KStream<String, String> left = builder.stream("left"), right = builder.stream("right");
        left.join(right, (one, other) -> one + "+" + other, JoinWindows.ofTimeDifferenceWithNoGrace(Duration.ofHours(1))).to("joined");
        Properties settings = settings(bootstrap);
        settings.put("application.id", "streams");
        settings.put("processing.guarantee", "exactly_once_v2");
        settings.put("state.dir", directory);
        settings.put("replication.factor", replicas);
        settings.put("default.key.serde", Serdes.StringSerde.class.getName());
        settings.put("default.value.serde", Serdes.StringSerde.class.getName());
        settings.put("statestore.cache.max.bytes", "0");
        settings.put("commit.interval.ms", "200");
        settings.put("session.timeout.ms", "6000");
        settings.put("heartbeat.interval.ms", "1000");
        settings.put(StreamsConfig.producerPrefix("transaction.timeout.ms"), "10000");
        settings.put(StreamsConfig.topicPrefix("segment.bytes"), "20000");
        settings.put(StreamsConfig.topicPrefix("min.cleanable.dirty.ratio"), "0.1");
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        // As an application does that is to outlive what it cannot get on with.
        streams.setUncaughtExceptionHandler(failed -> StreamThreadExceptionResponse.REPLACE_THREAD);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }

    static void read(String bootstrap, String topic) {
        Properties settings = settings(bootstrap);
        settings.put("isolation.level", "read_committed");
        boolean counts = topic.equals("counted");
        Deserializer<?> values = counts ? new LongDeserializer() : new StringDeserializer();
        try (KafkaConsumer<String, Object> consumer = new KafkaConsumer<>(settings, new StringDeserializer(), (topicOf, bytes) -> values.deserialize(topicOf, bytes))) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream().map(info -> new TopicPartition(topic, info.partition())).collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            StringBuilder lines = new StringBuilder();
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue()))
                for (ConsumerRecord<String, Object> record : consumer.poll(Duration.ofMillis(200))) lines.append(record.key()).append(' ').append(record.value()).append('\n');
            System.out.print(lines);
        }
    }
}
