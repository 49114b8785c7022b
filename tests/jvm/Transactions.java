import java.io.*;
import java.lang.reflect.*;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/**
 * Kafka's transactional producers and consumers, told what to do line by line; each line is answered by one.
 *
 * <pre>java Transactions.java BOOTSTRAP
 * init NAME TRANSACTIONAL_ID TIMEOUT_MS     a producer of that name, ready for transactions
 * identity NAME                             its producer id and epoch
 * resume NAME TRANSACTIONAL_ID PRODUCER_ID EPOCH  one with the transaction of another open, as Flink's two-phase commit makes it
 * begin|commit|abort|flush|close NAME
 * in-sync NAME TOPIC                        how many replicas of each partition the producer knows to be in sync, the fewest
 * send NAME TOPIC PARTITION FIRST COUNT     COUNT records with values FIRST, FIRST+1, ...
 * offsets NAME GROUP TOPIC PARTITION OFFSET a consumer's position, within the transaction
 * read committed|uncommitted TOPIC PARTITION  all values, in order, to the end that such a consumer sees
 * position GROUP TOPIC PARTITION            the committed offset, or none
 * </pre>
 * The answer is "ok", what was asked for, or the simple name of what was thrown.
 */
public class Transactions {
    static final Map<String, KafkaProducer<String, String>> producers = new HashMap<>();
    static String bootstrap;

    public static void main(String[] arguments) throws IOException {
        bootstrap = arguments[0];
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true, "UTF-8");
        System.setOut(System.err);
        out.println("ready");
        for (String line; (line = in.readLine()) != null; ) {
            try {
                out.println(done(line.split(" ")));
            } catch (Throwable thrown) {
                while (thrown instanceof java.util.concurrent.ExecutionException || (thrown.getClass() == org.apache.kafka.common.KafkaException.class && thrown.getCause() != null)) thrown = thrown.getCause();
                System.err.println(line + ": " + thrown);
                out.println(thrown.getClass().getSimpleName());
            }
        }
    }

    static String done(String[] words) throws Exception {
        KafkaProducer<String, String> producer = words.length > 1 ? producers.get(words[1]) : null;
        switch (words[0]) {
            case "init": named(words[1], words[2], words[3]).initTransactions(); return "ok";
            case "identity": {
                Object identity = get(get(producer, "transactionManager"), "producerIdAndEpoch");
                return get(identity, "producerId") + " " + get(identity, "epoch");
            }
            case "resume": {
                // Source: flink-connector-kafka, FlinkKafkaInternalProducer.java (resumeTransaction): nobody asks for an id.
                Object manager = get(named(words[1], words[2], "60000"), "transactionManager");
                synchronized (manager) {
                    transition(manager, "INITIALIZING");
                    Field identity = field(manager, "producerIdAndEpoch");
                    Constructor<?> identify = identity.getType().getConstructor(long.class, short.class);
                    identity.set(manager, identify.newInstance(Long.parseLong(words[3]), Short.parseShort(words[4])));
                    transition(manager, "READY");
                    transition(manager, "IN_TRANSACTION");
                    field(manager, "transactionStarted").set(manager, true);
                }
                return "ok";
            }
            case "begin": producer.beginTransaction(); return "ok";
            case "commit": producer.commitTransaction(); return "ok";
            case "abort": producer.abortTransaction(); return "ok";
            case "flush": producer.flush(); return "ok";
            case "close": producers.remove(words[1]).close(); return "ok";
            case "in-sync": return "" + producer.partitionsFor(words[2]).stream().mapToInt(p -> p.inSyncReplicas().length).min().orElse(0);
            case "send": {
                List<Future<RecordMetadata>> sent = new ArrayList<>();
                long first = Long.parseLong(words[4]), count = Long.parseLong(words[5]);
                for (long value = first; value < first + count; value++)
                    sent.add(producer.send(new ProducerRecord<>(words[2], Integer.parseInt(words[3]), "k", "" + value)));
                for (Future<RecordMetadata> one : sent) one.get();
                return "ok";
            }
            case "offsets": {
                TopicPartition partition = new TopicPartition(words[3], Integer.parseInt(words[4]));
                OffsetAndMetadata offset = new OffsetAndMetadata(Long.parseLong(words[5]));
                producer.sendOffsetsToTransaction(Map.of(partition, offset), new ConsumerGroupMetadata(words[2]));
                return "ok";
            }
            case "read": return read(words[1], new TopicPartition(words[2], Integer.parseInt(words[3])));
            case "position": {
                Properties settings = settings();
                settings.put("group.id", words[1]);
                settings.put("isolation.level", "read_committed");
                TopicPartition partition = new TopicPartition(words[2], Integer.parseInt(words[3]));
                try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
                    OffsetAndMetadata found = consumer.committed(Set.of(partition), Duration.ofSeconds(2)).get(partition);
                    return found == null ? "none" : "" + found.offset();
                }
            }
            default: return "unknown";
        }
    }

    /** A producer of that name, instead of the one that has it. */
    static KafkaProducer<String, String> named(String name, String transactionalId, String timeoutMs) {
        Properties settings = settings();
        settings.put("transactional.id", transactionalId);
        settings.put("transaction.timeout.ms", timeoutMs);
        settings.put("linger.ms", "0");
        settings.put("metadata.max.age.ms", "500");
        KafkaProducer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        KafkaProducer<String, String> before = producers.put(name, producer);
        if (before != null) before.close(Duration.ZERO);
        return producer;
    }

    static Field field(Object of, String name) throws ReflectiveOperationException {
        Field field = of.getClass().getDeclaredField(name);
        field.setAccessible(true);
        return field;
    }

    static Object get(Object of, String name) throws ReflectiveOperationException {
        return field(of, name).get(of);
    }

    static void transition(Object manager, String to) throws ReflectiveOperationException {
        for (Class<?> state : manager.getClass().getDeclaredClasses()) {
            if (!state.getSimpleName().equals("State")) continue;
            Method transition = manager.getClass().getDeclaredMethod("transitionTo", state);
            transition.setAccessible(true);
            for (Object one : state.getEnumConstants()) if (one.toString().equals(to)) transition.invoke(manager, one);
        }
    }

    static Properties settings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        return settings;
    }

    static String read(String isolation, TopicPartition partition) {
        Properties settings = settings();
        settings.put("isolation.level", "read_" + isolation);
        settings.put("auto.offset.reset", "earliest");
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            StringJoiner values = new StringJoiner(",");
            while (consumer.position(partition) < end)
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) values.add(record.value());
            return values.length() == 0 ? "nothing" : values.toString();
        }
    }
}
