import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/**
 * Kafka's own clients, a new release and an old one in one process, in a cluster whose brokers change; all that they do is
 * written down as clients.py does.
 *
 * <pre>java Clients BOOTSTRAP HISTORY CLASSES NEW_JARS OLD_JARS CHANGELOG TOPIC...</pre>
 *
 * five       a producer that is idempotent and has five requests in flight
 * old        an old one with acks=all and one request in flight: what it sends again may be there twice, in order
 * trio       a group of three members, which never leave: "assigned" says the generation too
 * old-reader an old consumer, by assignment: the broker converts all that it reads
 * changelog  writes new values of the same fifty keys to CHANGELOG, in turn
 * restored   reads CHANGELOG from its beginning, again and again, and finds of each key what was acknowledged
 * admin      creates topics and deletes them
 *
 * They work until TERM comes. Then the producers wait until all that they sent is settled, the consumers read and commit to
 * the end, and the program ends with status 0; with 1 as soon as one of them is told more than such a client bears.
 */
public class Clients {
    static final int IN_FLIGHT_MAX = 100, KEYS = 50;
    static final long MILLIS_A_ROUND = 50, MILLIS_A_COMMIT = 500, MILLIS_BETWEEN_RESTORES = 2000, PATIENCE_MILLIS = 120_000;

    /** What clients of both releases share: the only class that is the same for them. */
    public static final class Journal {
        private final OutputStream out;
        public volatile boolean finishing, readToTheEnd;
        public final Queue<String> failures = new ConcurrentLinkedQueue<>();
        /** Where the readers are: name or group, topic, partition. */
        public final Map<String, Long> reached = new ConcurrentHashMap<>();

        public Journal(String path) throws IOException {
            out = new FileOutputStream(path, true);
        }

        public synchronized void write(String client, String did, String topic, int partition, Object... more) {
            StringBuilder line = new StringBuilder("{\"at\": ").append(System.currentTimeMillis() / 1000.0);
            member(line, "client", client);
            member(line, "did", did);
            member(line, "topic", topic);
            member(line, "partition", partition);
            for (int i = 0; i < more.length; i += 2) member(line, (String) more[i], more[i + 1]);
            try {
                out.write(line.append("}\n").toString().getBytes(StandardCharsets.UTF_8));
            } catch (IOException failed) {
                failures.add("the history: " + failed);
            }
        }

        private static void member(StringBuilder line, String name, Object value) {
            line.append(", \"").append(name).append("\": ");
            if (value instanceof Number) line.append(value);
            else line.append('"').append(value.toString().replaceAll("[\\p{Cntrl}\"\\\\]", " ")).append('"');
        }

        public void reached(String who, String topic, int partition, long offset) {
            reached.merge(who + " " + topic + " " + partition, offset, Math::max);
        }
    }

    /** Each release of the clients has its own copies of the classes below, for which it was not compiled. */
    static final class Release extends URLClassLoader {
        Release(String classes, String jars) throws IOException {
            super(urls(classes, jars), ClassLoader.getPlatformClassLoader());
        }

        private static URL[] urls(String classes, String jars) throws IOException {
            List<URL> urls = new ArrayList<>(List.of(Path.of(classes).toUri().toURL()));
            try (Stream<Path> files = Files.list(Path.of(jars))) {
                for (Path file : (Iterable<Path>) files::iterator) if (file.toString().endsWith(".jar")) urls.add(file.toUri().toURL());
            }
            return urls.toArray(new URL[0]);
        }

        @Override
        protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            return name.equals(Journal.class.getName()) ? Journal.class : super.loadClass(name, resolve);
        }

        Thread start(Journal journal, Class<?> work, String name, Map<String, String> settings, List<String> topics) throws Exception {
            Runnable client = (Runnable) loadClass(work.getName())
                .getConstructor(Journal.class, String.class, Map.class, List.class).newInstance(journal, name, settings, topics);
            Thread thread = new Thread(() -> {
                try {
                    client.run();
                } catch (Throwable thrown) {
                    thrown.printStackTrace();
                    journal.failures.add(name + ": " + thrown);
                }
            }, name);
            thread.setContextClassLoader(this);
            thread.setDaemon(true);
            thread.start();
            return thread;
        }
    }

    public static void main(String[] arguments) throws Exception {
        String changelog = arguments[5];
        List<String> topics = List.of(arguments).subList(6, arguments.length);
        Journal journal = new Journal(arguments[1]);
        sun.misc.Signal.handle(new sun.misc.Signal("TERM"), signal -> journal.finishing = true);
        Release now = new Release(arguments[2], arguments[3]), before = new Release(arguments[2], arguments[4]);
        String max = String.valueOf(Integer.MAX_VALUE);
        Map<String, String> common = Map.of("bootstrap.servers", arguments[0]);
        // Nothing is given up. Small batches, so that as many as may be are in flight.
        Map<String, String> producer = with(common, "acks", "all", "retries", max, "max.block.ms", max, "batch.size", "1000", "linger.ms", "5");
        Map<String, String> five = with(producer, "enable.idempotence", "true", "max.in.flight.requests.per.connection", "5", "delivery.timeout.ms", max);
        Map<String, String> consumer = with(common, "enable.auto.commit", "false", "auto.offset.reset", "none");
        List<Thread> producers = List.of(
            now.start(journal, Producing.class, "five", five, topics),
            before.start(journal, Producing.class, "old",
                with(producer, "max.in.flight.requests.per.connection", "1", "request.timeout.ms", "60000"), topics),
            now.start(journal, Changelog.class, "changelog", five, List.of(changelog)),
            now.start(journal, Administering.class, "admin", common, List.of()));
        now.start(journal, Restoring.class, "restored", consumer, List.of(changelog));
        before.start(journal, Reading.class, "old-reader", with(consumer, "group.id", "old-reader"), topics);
        for (int number = 0; number < 3; number++)
            now.start(journal, Member.class, "trio-" + number, with(consumer, "group.id", "trio", "auto.offset.reset", "earliest"), topics);
        while (!journal.finishing && journal.failures.isEmpty()) Thread.sleep(100);
        for (Thread thread : producers) while (thread.isAlive() && journal.failures.isEmpty()) thread.join(100);
        if (journal.failures.isEmpty()) now.start(journal, Ends.class, "ends", consumer, topics).join();
        journal.readToTheEnd = true;
        journal.failures.forEach(failure -> System.out.println("failed: " + failure));
        System.out.flush();
        Runtime.getRuntime().halt(journal.failures.isEmpty() ? 0 : 1); // a client that hangs must not hold the exit
    }

    static Map<String, String> with(Map<String, String> settings, String... more) {
        Map<String, String> all = new HashMap<>(settings);
        for (int i = 0; i < more.length; i += 2) all.put(more[i], more[i + 1]);
        return all;
    }

    abstract static class Client implements Runnable {
        final Journal journal;
        final String name;
        final Properties settings = new Properties();
        final List<String> topics;

        Client(Journal journal, String name, Map<String, String> settings, List<String> topics) {
            this.journal = journal;
            this.name = name;
            this.topics = topics;
            this.settings.putAll(settings);
            this.settings.put("client.id", name);
        }

        @Override
        public void run() {
            try {
                work();
            } catch (Exception failed) {
                throw new IllegalStateException(failed);
            }
        }

        abstract void work() throws Exception;

        KafkaProducer<String, String> producer() {
            return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        }

        KafkaConsumer<String, String> consumer() {
            return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        }

        List<TopicPartition> partitions(KafkaConsumer<String, String> consumer) {
            List<TopicPartition> all = new ArrayList<>();
            for (String topic : topics) consumer.partitionsFor(topic).forEach(info -> all.add(new TopicPartition(topic, info.partition())));
            return all;
        }

        /** Writes down what was read; the value's first two words say who sent what. */
        void consumed(ConsumerRecord<String, String> record) {
            String[] words = record.value().split(" ", 3);
            journal.write(name, "consumed", record.topic(), record.partition(), "offset", record.offset(), "value", words[0] + " " + words[1]);
        }

        Callback settled(String topic, int partition, long sequence, Runnable then) {
            return (metadata, error) -> {
                if (error == null) journal.write(name, "acknowledged", topic, partition, "sequence", sequence, "offset", metadata.offset());
                else journal.write(name, "failed", topic, partition, "sequence", sequence, "error", error);
                then.run();
            };
        }
    }

    public static final class Producing extends Client {
        public Producing(Journal journal, String name, Map<String, String> settings, List<String> topics) { super(journal, name, settings, topics); }

        @Override
        void work() throws Exception {
            Map<TopicPartition, Long> sent = new HashMap<>();
            Map<TopicPartition, AtomicInteger> inFlight = new HashMap<>();
            try (KafkaProducer<String, String> producer = producer()) {
                for (String topic : topics) producer.partitionsFor(topic).forEach(info -> inFlight.put(new TopicPartition(topic, info.partition()), new AtomicInteger()));
                for (; !journal.finishing; Thread.sleep(MILLIS_A_ROUND)) {
                    for (Map.Entry<TopicPartition, AtomicInteger> of : inFlight.entrySet()) {
                        if (of.getValue().get() >= IN_FLIGHT_MAX) continue;
                        String topic = of.getKey().topic();
                        int partition = of.getKey().partition();
                        long sequence = sent.merge(of.getKey(), 1L, Long::sum) - 1;
                        String value = name + " " + sequence + " " + "x".repeat((int) (sequence % 300));
                        of.getValue().incrementAndGet();
                        journal.write(name, "sent", topic, partition, "sequence", sequence);
                        producer.send(new ProducerRecord<>(topic, partition, null, value), settled(topic, partition, sequence, of.getValue()::decrementAndGet));
                    }
                }
            }
        }
    }

    /** Of each key the last value counts. What is written follows from its sequence: the key, and the value. */
    public static final class Changelog extends Client {
        /** Of each key the last that was acknowledged. */
        static final Map<String, Long> ACKNOWLEDGED = new ConcurrentHashMap<>();

        public Changelog(Journal journal, String name, Map<String, String> settings, List<String> topics) { super(journal, name, settings, topics); }

        @Override
        void work() throws Exception {
            String topic = topics.get(0);
            try (KafkaProducer<String, String> producer = producer()) {
                Semaphore inFlight = new Semaphore(IN_FLIGHT_MAX);
                for (long sequence = 0; !journal.finishing; sequence++) {
                    long now = sequence;
                    String key = String.valueOf(now % KEYS);
                    inFlight.acquire();
                    journal.write(name, "sent", topic, 0, "sequence", now);
                    Callback settled = settled(topic, 0, now, inFlight::release);
                    producer.send(new ProducerRecord<>(topic, 0, key, name + " " + now + " " + "x".repeat(200)), (metadata, error) -> {
                        if (error == null) ACKNOWLEDGED.merge(key, now, Math::max);
                        settled.onCompletion(metadata, error);
                    });
                    if (sequence % 10 == 9) Thread.sleep(MILLIS_A_COMMIT);
                }
            }
        }
    }

    /** Reads the changelog from its beginning to its end, as an application does that has lost its state. */
    public static final class Restoring extends Client {
        public Restoring(Journal journal, String name, Map<String, String> settings, List<String> topics) { super(journal, name, settings, topics); }

        @Override
        void work() throws Exception {
            TopicPartition partition = new TopicPartition(topics.get(0), 0);
            for (; !journal.readToTheEnd; Thread.sleep(MILLIS_BETWEEN_RESTORES)) {
                Map<String, Long> acknowledged = new TreeMap<>(Changelog.ACKNOWLEDGED), restored = new TreeMap<>();
                try (KafkaConsumer<String, String> consumer = consumer()) {
                    consumer.assign(List.of(partition));
                    consumer.seekToBeginning(List.of(partition));
                    // A new leader may learn a moment later what is committed: an acknowledged record is waited for.
                    for (long began = System.currentTimeMillis(); !journal.readToTheEnd && missing(acknowledged, restored) != null;) {
                        for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                            long sequence = Long.parseLong(record.value().split(" ")[1]);
                            Long earlier = restored.put(record.key(), sequence);
                            if (earlier != null && earlier >= sequence) throw new IllegalStateException(record + " comes after " + earlier);
                        }
                        if (System.currentTimeMillis() - began > PATIENCE_MILLIS) throw new IllegalStateException("lost: " + missing(acknowledged, restored));
                    }
                }
                journal.write(name, "restored", topics.get(0), 0);
            }
        }

        private static String missing(Map<String, Long> acknowledged, Map<String, Long> restored) {
            for (Map.Entry<String, Long> of : acknowledged.entrySet())
                if (restored.getOrDefault(of.getKey(), -1L) < of.getValue()) return of + ", found " + restored.get(of.getKey());
            return null;
        }
    }

    public static final class Reading extends Client {
        public Reading(Journal journal, String name, Map<String, String> settings, List<String> topics) { super(journal, name, settings, topics); }

        @Override
        @SuppressWarnings("deprecation") // The old release has no other.
        void work() {
            KafkaConsumer<String, String> consumer = consumer();
            List<TopicPartition> all = partitions(consumer);
            consumer.assign(all);
            consumer.seekToBeginning(all);
            while (!journal.readToTheEnd) {
                for (ConsumerRecord<String, String> record : consumer.poll(200)) {
                    consumed(record);
                    journal.reached(name, record.topic(), record.partition(), record.offset() + 1);
                }
            }
        }
    }

    public static final class Member extends Client {
        /** Of what is not committed. */
        private final Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
        private boolean isCommitting;

        public Member(Journal journal, String name, Map<String, String> settings, List<String> topics) { super(journal, name, settings, topics); }

        @Override
        void work() {
            String group = settings.getProperty("group.id");
            KafkaConsumer<String, String> consumer = consumer();
            consumer.subscribe(topics, new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                    int generation = consumer.groupMetadata().generationId();
                    partitions.forEach(p -> journal.write(name, "assigned", p.topic(), p.partition(), "group", group, "generation", generation));
                }

                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                    positions.keySet().removeAll(partitions);
                }
            });
            long commitsAt = 0;
            while (!journal.readToTheEnd) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                    consumed(record);
                    positions.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
                if (System.currentTimeMillis() >= commitsAt && !isCommitting && !positions.isEmpty()) {
                    commit(consumer, group);
                    commitsAt = System.currentTimeMillis() + MILLIS_A_COMMIT;
                }
            }
        }

        /** One at a time: those that have to be sent again are sent in any order. */
        private void commit(KafkaConsumer<String, String> consumer, String group) {
            isCommitting = true;
            Map<TopicPartition, OffsetAndMetadata> wanted = new HashMap<>(positions);
            wanted.forEach((p, offset) -> journal.write(name, "committing", p.topic(), p.partition(), "group", group, "offset", offset.offset()));
            consumer.commitAsync(wanted, (offsets, error) -> {
                isCommitting = false;
                offsets.forEach((p, offset) -> {
                    if (error != null) {
                        journal.write(name, "not committed", p.topic(), p.partition(), "group", group, "offset", offset.offset(), "error", error);
                        return;
                    }
                    journal.write(name, "committed", p.topic(), p.partition(), "group", group, "offset", offset.offset());
                    journal.reached(group, p.topic(), p.partition(), offset.offset());
                    positions.remove(p, offset);
                });
            });
        }
    }

    public static final class Administering extends Client {
        public Administering(Journal journal, String name, Map<String, String> settings, List<String> topics) { super(journal, name, settings, topics); }

        @Override
        void work() throws Exception {
            try (Admin admin = Admin.create(settings)) {
                for (int number = 0; !journal.finishing; number++) {
                    List<String> topic = List.of("passing-" + number);
                    until("create " + topic, () -> {
                        try {
                            admin.createTopics(List.of(new NewTopic(topic.get(0), 3, (short) 2))).all().get();
                        } catch (ExecutionException failed) {
                            // The answer to an earlier request may have been lost with the broker that was to give it.
                            if (!(failed.getCause() instanceof org.apache.kafka.common.errors.TopicExistsException)) throw failed;
                        }
                        return true;
                    });
                    until(topic + " is led", () -> admin.describeTopics(topic).allTopicNames().get().values().stream()
                        .allMatch(found -> found.partitions().size() == 3 && found.partitions().stream().allMatch(p -> p.leader() != null)));
                    journal.write(name, "created", topic.get(0), 0);
                    until("delete " + topic, () -> {
                        try {
                            admin.deleteTopics(topic).all().get();
                        } catch (ExecutionException failed) {
                            if (!(failed.getCause() instanceof org.apache.kafka.common.errors.UnknownTopicOrPartitionException)) throw failed;
                        }
                        return true;
                    });
                    until(topic + " is gone", () -> !admin.listTopics().names().get().contains(topic.get(0)));
                    journal.write(name, "deleted", topic.get(0), 0);
                    Thread.sleep(MILLIS_A_COMMIT);
                }
            }
        }

        private static void until(String what, Callable<Boolean> done) throws Exception {
            for (long began = System.currentTimeMillis(); ; Thread.sleep(MILLIS_A_ROUND)) {
                String seen = "not yet";
                try {
                    if (done.call()) return;
                } catch (ExecutionException failed) {
                    seen = failed.getCause().toString();
                    // A broker that has just started may know less than the others; one that gives way may be asked too late.
                    if (!(failed.getCause() instanceof org.apache.kafka.common.errors.RetriableException)) throw failed;
                }
                if (System.currentTimeMillis() - began > PATIENCE_MILLIS) throw new IllegalStateException(what + ": " + seen);
            }
        }
    }

    /** Waits until all readers are at the ends. */
    public static final class Ends extends Client {
        public Ends(Journal journal, String name, Map<String, String> settings, List<String> topics) { super(journal, name, settings, topics); }

        @Override
        void work() throws Exception {
            try (KafkaConsumer<String, String> consumer = consumer()) {
                Map<TopicPartition, Long> ends = consumer.endOffsets(partitions(consumer));
                for (; journal.failures.isEmpty(); Thread.sleep(1000)) { // What is missing is said once a second.
                    List<String> missing = new ArrayList<>();
                    for (String who : List.of("trio", "old-reader")) {
                        ends.forEach((of, end) -> {
                            long reached = journal.reached.getOrDefault(who + " " + of.topic() + " " + of.partition(), 0L);
                            if (reached < end) missing.add(who + " " + of + " " + reached + " of " + end);
                        });
                    }
                    if (missing.isEmpty()) return;
                    System.out.println("not yet at the end: " + missing);
                }
            }
        }
    }
}
