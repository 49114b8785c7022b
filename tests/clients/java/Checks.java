import java.lang.reflect.Constructor;
import java.lang.reflect.Method;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/**
 * What an ordinary Java client does with a broker, for clients 0.9.0.1 to 4.x: one source, compiled
 * against each. What a version lacks (timestamps and headers in 0.9, poll(long) in 4.x) is asked of
 * the class by reflection, so that each version does all that it can.
 *
 * <pre>java Checks before|after BOOTSTRAP PREFIX</pre>
 *
 * "before" runs before the broker is restarted, "after" behind it. The topic PREFIX-group must have
 * four partitions; all others are created by use. One line a check: "ok NAME" or "FAILED NAME: why".
 */
public class Checks {
    static final long FIRST_TIMESTAMP = 1_600_000_000_000L;
    static final int RECORDS = 30;
    static String bootstrap, prefix;
    static int failures;

    interface Check { void run() throws Exception; }

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[1];
        prefix = arguments[2];
        if (arguments[0].equals("before")) {
            for (String codec : codecs()) check("produce and read back, " + codec, () -> { produceCodec(codec); readCodec(codec); });
            for (String acks : new String[] {"0", "1", "all"}) check("acks=" + acks, () -> acks(acks));
            if (has("org.apache.kafka.clients.producer.ProducerConfig", "ENABLE_IDEMPOTENCE_CONFIG")) check("idempotent producer", Checks::idempotent);
            if (method(KafkaConsumer.class, "offsetsForTimes", Map.class) != null) check("seek by time", Checks::seekByTime);
            if (TRANSACTIONS) {
                check("transactions, committed and aborted, with offsets", Checks::commitAndAbort);
                check("a zombie is fenced out of its transaction", Checks::fence);
                check("a transaction that is left open is aborted", Checks::fallSilent);
            }
            check("group of two members, rebalance, commit", Checks::group);
        } else {
            for (String codec : codecs()) check("read again after the restart, " + codec, () -> readCodec(codec));
            if (TRANSACTIONS) check("read committed records again", () -> readCommitted(30));
            check("resume at the committed offsets", Checks::resume);
        }
        System.exit(failures == 0 ? 0 : 1);
    }

    static void check(String name, Check check) {
        try {
            check.run();
            System.out.println("ok " + name);
        } catch (Throwable thrown) {
            failures++;
            StringBuilder why = new StringBuilder();
            for (Throwable t = thrown; t != null; t = t.getCause()) why.append(why.length() == 0 ? "" : ", because of ").append(t);
            StackTraceElement[] trace = thrown.getStackTrace();
            System.out.println("FAILED " + name + ": " + why.toString().replace('\n', ' ') + (trace.length > 0 ? " at " + trace[0] : ""));
        }
    }

    static List<String> codecs() {
        List<String> codecs = new ArrayList<>(Arrays.asList("none", "gzip", "snappy", "lz4"));
        try {
            Class<?> type = Class.forName("org.apache.kafka.common.record.CompressionType");
            for (Object constant : type.getEnumConstants()) if (constant.toString().equalsIgnoreCase("zstd")) codecs.add("zstd");
        } catch (ClassNotFoundException old) {
            throw new IllegalStateException(old);
        }
        return codecs;
    }

    // What differs between the versions.

    static boolean has(String type, String field) {
        try {
            Class.forName(type).getField(field);
            return true;
        } catch (ReflectiveOperationException absent) {
            return false;
        }
    }

    static Method method(Class<?> type, String name, Class<?>... parameters) {
        try {
            return type.getMethod(name, parameters);
        } catch (NoSuchMethodException absent) {
            return null;
        }
    }

    static final Method POLL_DURATION = method(KafkaConsumer.class, "poll", Duration.class);
    static final Method POLL_LONG = method(KafkaConsumer.class, "poll", long.class);
    static final Method RECORD_TIMESTAMP = method(ConsumerRecord.class, "timestamp");
    static final Method RECORD_HEADERS = method(ConsumerRecord.class, "headers");
    static final boolean TIMESTAMPS = method(ProducerRecord.class, "timestamp") != null;
    static final boolean HEADERS = method(ProducerRecord.class, "headers") != null;
    static final boolean TRANSACTIONS = method(KafkaProducer.class, "initTransactions") != null;
    static final Method COMMITTED_OF_SOME = method(KafkaConsumer.class, "committed", Set.class);
    static final Method COMMITTED_OF_ONE = method(KafkaConsumer.class, "committed", TopicPartition.class);

    static Object call(Object of, Method method, Object... arguments) throws Exception {
        try {
            return method.invoke(of, arguments);
        } catch (java.lang.reflect.InvocationTargetException wrapped) {
            if (wrapped.getCause() instanceof Exception) throw (Exception) wrapped.getCause();
            throw wrapped;
        }
    }

    @SuppressWarnings("unchecked")
    static ConsumerRecords<String, String> poll(KafkaConsumer<String, String> consumer, long millis) throws Exception {
        return (ConsumerRecords<String, String>) (POLL_DURATION != null
            ? call(consumer, POLL_DURATION, Duration.ofMillis(millis)) : call(consumer, POLL_LONG, millis));
    }

    @SuppressWarnings("unchecked")
    static ProducerRecord<String, String> record(String topic, int partition, int i, String value) throws Exception {
        if (HEADERS) {
            Class<?> header = Class.forName("org.apache.kafka.common.header.internals.RecordHeader");
            List<Object> headers = new ArrayList<>();
            headers.add(header.getConstructor(String.class, byte[].class).newInstance("number", ("" + i).getBytes()));
            headers.add(header.getConstructor(String.class, byte[].class).newInstance("nothing", null));
            Constructor<?> all = ProducerRecord.class.getConstructor(String.class, Integer.class, Long.class, Object.class, Object.class, Iterable.class);
            return (ProducerRecord<String, String>) all.newInstance(topic, partition, FIRST_TIMESTAMP + i * 1000L, key(i), value, headers);
        }
        if (TIMESTAMPS) {
            Constructor<?> stamped = ProducerRecord.class.getConstructor(String.class, Integer.class, Long.class, Object.class, Object.class);
            return (ProducerRecord<String, String>) stamped.newInstance(topic, partition, FIRST_TIMESTAMP + i * 1000L, key(i), value);
        }
        return new ProducerRecord<>(topic, partition, key(i), value);
    }

    /** Every seventh record has no key, every eleventh no value: both are legal. */
    static String key(int i) { return i % 7 == 3 ? null : "key-" + i; }

    static String value(String about, int i) {
        return i % 11 == 5 ? null : about + "-" + i + "-" + String.join("", Collections.nCopies(20, "padding "));
    }

    static KafkaProducer<String, String> producer(String... settings) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("key.serializer", StringSerializer.class.getName());
        p.put("value.serializer", StringSerializer.class.getName());
        p.put("client.id", prefix);
        p.put("linger.ms", "5");
        p.put("acks", "all");
        for (int i = 0; i < settings.length; i += 2) p.put(settings[i], settings[i + 1]);
        return new KafkaProducer<>(p);
    }

    static KafkaConsumer<String, String> consumer(String... settings) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("key.deserializer", StringDeserializer.class.getName());
        p.put("value.deserializer", StringDeserializer.class.getName());
        p.put("client.id", prefix);
        p.put("auto.offset.reset", "earliest");
        p.put("enable.auto.commit", "false");
        p.put("group.id", prefix);
        for (int i = 0; i < settings.length; i += 2) p.put(settings[i], settings[i + 1]);
        return new KafkaConsumer<>(p);
    }

    static void expect(Object expected, Object seen, String what) {
        if (!Objects.equals(expected, seen)) throw new AssertionError(what + ": expected " + expected + ", saw " + seen);
    }

    static void eventually(String what, long seconds, BooleanSupplier probe, java.util.function.Supplier<Object> seen) throws Exception {
        long deadline = System.nanoTime() + seconds * 1_000_000_000L;
        while (!probe.getAsBoolean()) {
            if (System.nanoTime() > deadline) throw new AssertionError("not within " + seconds + " s: " + what + "; last seen: " + seen.get());
            Thread.sleep(20);
        }
    }

    // The checks.

    static void produceCodec(String codec) throws Exception {
        String topic = prefix + "-" + codec;
        try (KafkaProducer<String, String> producer = producer("compression.type", codec)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < RECORDS; i++) sent.add(producer.send(record(topic, 0, i, value(codec, i))));
            for (int i = 0; i < RECORDS; i++) expect((long) i, sent.get(i).get(30, TimeUnit.SECONDS).offset(), "offset of record " + i);
        }
    }

    static List<ConsumerRecord<String, String>> readFrom(String topic, long offset, int count, String... settings) throws Exception {
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = consumer(settings)) {
            TopicPartition partition = new TopicPartition(topic, 0);
            consumer.assign(Arrays.asList(partition));
            consumer.seek(partition, offset);
            long deadline = System.nanoTime() + 30_000_000_000L;
            while (records.size() < count && System.nanoTime() < deadline) for (ConsumerRecord<String, String> r : poll(consumer, 200)) records.add(r);
        }
        return records;
    }

    static void readCodec(String codec) throws Exception {
        List<ConsumerRecord<String, String>> records = readFrom(prefix + "-" + codec, 0, RECORDS);
        expect(RECORDS, records.size(), "records read");
        for (int i = 0; i < RECORDS; i++) {
            ConsumerRecord<String, String> r = records.get(i);
            expect((long) i, r.offset(), "offset");
            expect(key(i), r.key(), "key at " + i);
            expect(value(codec, i), r.value(), "value at " + i);
            if (TIMESTAMPS) expect(FIRST_TIMESTAMP + i * 1000L, RECORD_TIMESTAMP.invoke(r), "timestamp at " + i);
            if (HEADERS) {
                List<String> headers = new ArrayList<>();
                for (Object header : (Iterable<?>) RECORD_HEADERS.invoke(r)) {
                    Class<?> type = Class.forName("org.apache.kafka.common.header.Header");
                    byte[] value = (byte[]) type.getMethod("value").invoke(header);
                    headers.add(type.getMethod("key").invoke(header) + "=" + (value == null ? "null" : new String(value)));
                }
                expect(Arrays.asList("number=" + i, "nothing=null"), headers, "headers at " + i);
            }
        }
    }

    static void acks(String acks) throws Exception {
        String topic = prefix + "-acks-" + acks;
        try (KafkaProducer<String, String> producer = acks.equals("all") ? producer() : has("org.apache.kafka.clients.producer.ProducerConfig", "ENABLE_IDEMPOTENCE_CONFIG")
                ? producer("acks", acks, "enable.idempotence", "false") : producer("acks", acks)) {
            for (int i = 0; i < RECORDS; i++) {
                RecordMetadata metadata = producer.send(record(topic, 0, i, value(acks, i))).get(30, TimeUnit.SECONDS);
                // Without an acknowledgement nobody knows the offset.
                expect(acks.equals("0") ? -1L : (long) i, acks.equals("0") && !TIMESTAMPS ? -1L : metadata.offset(), "offset");
            }
        }
        List<ConsumerRecord<String, String>> records = readFrom(topic, 0, RECORDS);
        expect(RECORDS, records.size(), "records read");
        for (int i = 0; i < RECORDS; i++) expect(value(acks, i), records.get(i).value(), "value at " + i);
    }

    static void idempotent() throws Exception {
        String topic = prefix + "-idempotent";
        try (KafkaProducer<String, String> producer = producer("enable.idempotence", "true", "batch.size", "200", "linger.ms", "0")) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < 300; i++) sent.add(producer.send(record(topic, 0, i, value("idempotent", i))));
            for (int i = 0; i < 300; i++) expect((long) i, sent.get(i).get(30, TimeUnit.SECONDS).offset(), "offset of record " + i);
        }
        List<ConsumerRecord<String, String>> records = readFrom(topic, 0, 300);
        for (int i = 0; i < 300; i++) expect(value("idempotent", i), records.get(i).value(), "value at " + i);
    }

    @SuppressWarnings("unchecked")
    static void seekByTime() throws Exception {
        TopicPartition partition = new TopicPartition(prefix + "-none", 0);
        Method offsetsForTimes = method(KafkaConsumer.class, "offsetsForTimes", Map.class);
        long[][] cases = {{FIRST_TIMESTAMP - 1, 0}, {FIRST_TIMESTAMP + 7000, 7}, {FIRST_TIMESTAMP + 7001, 8}, {FIRST_TIMESTAMP + (RECORDS - 1) * 1000L + 1, -1}};
        try (KafkaConsumer<String, String> consumer = consumer()) {
            for (long[] c : cases) {
                Map<TopicPartition, Object> found = (Map<TopicPartition, Object>) offsetsForTimes.invoke(consumer, Collections.singletonMap(partition, c[0]));
                Object answer = found.get(partition);
                expect(c[1], answer == null ? -1L : (Long) answer.getClass().getMethod("offset").invoke(answer), "offset for time " + c[0]);
            }
        }
        expect(value("none", 8), readFrom(prefix + "-none", 8, 1).get(0).value(), "first record behind the time");
    }

    /** A producer that has its transactional id, whoever had it before. None is closed: that might abort what it has open. */
    static KafkaProducer<String, String> transactional(String id, int timeoutMillis) throws Exception {
        KafkaProducer<String, String> producer = producer("transactional.id", id, "transaction.timeout.ms", "" + timeoutMillis, "enable.idempotence", "true");
        end(producer, "initTransactions");
        return producer;
    }

    static void end(KafkaProducer<String, String> producer, String how) throws Exception {
        call(producer, KafkaProducer.class.getMethod(how));
    }

    static void begin(KafkaProducer<String, String> producer, String word, int from, int to) throws Exception {
        end(producer, "beginTransaction");
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (int i = from; i < to; i++) sent.add(producer.send(new ProducerRecord<>(prefix + "-transactions", 0, "key", word + "-" + i)));
        for (Future<RecordMetadata> one : sent) one.get(30, TimeUnit.SECONDS);
    }

    static void offsets(KafkaProducer<String, String> producer, long position) throws Exception {
        String group = prefix + "-transactions";
        Map<TopicPartition, OffsetAndMetadata> offsets = Collections.singletonMap(new TopicPartition(prefix + "-transactions", 0), new OffsetAndMetadata(position));
        Object whose = group;
        Method send = method(KafkaProducer.class, "sendOffsetsToTransaction", Map.class, String.class);
        if (send == null) {
            Class<?> metadata = Class.forName("org.apache.kafka.clients.consumer.ConsumerGroupMetadata");
            send = KafkaProducer.class.getMethod("sendOffsetsToTransaction", Map.class, metadata);
            whose = metadata.getConstructor(String.class).newInstance(group);
        }
        call(producer, send, offsets, whose);
    }

    static long position() throws Exception {
        TopicPartition partition = new TopicPartition(prefix + "-transactions", 0);
        try (KafkaConsumer<String, String> consumer = consumer("group.id", prefix + "-transactions")) {
            Object found = COMMITTED_OF_SOME != null ? ((Map<?, ?>) call(consumer, COMMITTED_OF_SOME, Collections.singleton(partition))).get(partition)
                : call(consumer, COMMITTED_OF_ONE, partition);
            return found == null ? -1 : ((OffsetAndMetadata) found).offset();
        }
    }

    /** None of those that are not committed is before them or between them. */
    static void readCommitted(int count) throws Exception {
        List<String> expected = new ArrayList<>(), seen = new ArrayList<>();
        for (int i = 0; i < count; i++) expected.add("committed-" + i);
        for (ConsumerRecord<String, String> r : readFrom(prefix + "-transactions", 0, count, "isolation.level", "read_committed")) seen.add(r.value());
        expect(expected, seen, "committed values");
    }

    static void commitAndAbort() throws Exception {
        KafkaProducer<String, String> producer = transactional(prefix, 60_000);
        begin(producer, "committed", 0, 10);
        offsets(producer, 5);
        end(producer, "commitTransaction");
        begin(producer, "aborted", 0, 5);
        offsets(producer, 9);
        end(producer, "abortTransaction");
        begin(producer, "committed", 10, 20);
        end(producer, "commitTransaction");
        // One that is being decided is not told to those that ask for a stable one, and the one before to others.
        for (long deadline = System.nanoTime() + 30_000_000_000L; position() != 5; Thread.sleep(20))
            if (System.nanoTime() > deadline) throw new AssertionError("the group is at " + position() + ", not at 5");
        readCommitted(20);
    }

    static void fence() throws Exception {
        KafkaProducer<String, String> first = transactional(prefix, 60_000);
        begin(first, "open", 0, 3);
        KafkaProducer<String, String> second = transactional(prefix, 60_000);
        begin(second, "committed", 20, 25);
        String refused = "nothing";
        try {
            end(first, "commitTransaction");
        } catch (Exception told) {
            refused = told.getClass().getSimpleName();
        }
        if (!Arrays.asList("ProducerFencedException", "InvalidProducerEpochException").contains(refused)) throw new AssertionError("a zombie commits and is told: " + refused);
        end(second, "commitTransaction");
        readCommitted(25);
    }

    static void fallSilent() throws Exception {
        begin(transactional(prefix + "-silent", 2_000), "silent", 0, 3);
        KafkaProducer<String, String> other = transactional(prefix, 60_000);
        begin(other, "committed", 25, 30);
        end(other, "commitTransaction");
        readCommitted(30);
    }

    /** A member of the group in its own thread: polls, remembers what it got, commits when asked. */
    static class Member extends Thread {
        volatile Set<TopicPartition> assigned = Collections.emptySet();
        volatile int rebalances;
        volatile boolean stop, commit;
        volatile Throwable failure;
        final Queue<ConsumerRecord<String, String>> received = new ConcurrentLinkedQueue<>();

        @Override public void run() {
            // 0.9 heartbeats only while it polls, which is often enough here.
            try (KafkaConsumer<String, String> consumer = consumer("session.timeout.ms", "10000", "heartbeat.interval.ms", "500")) {
                consumer.subscribe(Arrays.asList(prefix + "-group"), new ConsumerRebalanceListener() {
                    @Override public void onPartitionsRevoked(Collection<TopicPartition> partitions) { }
                    @Override public void onPartitionsAssigned(Collection<TopicPartition> partitions) { rebalances++; }
                });
                while (!stop) {
                    for (ConsumerRecord<String, String> r : poll(consumer, 100)) received.add(r);
                    assigned = new HashSet<>(consumer.assignment());
                    if (commit) {
                        consumer.commitSync();
                        commit = false;
                    }
                }
            } catch (Throwable thrown) {
                failure = thrown;
            }
        }
    }

    static void sendToGroup(int from, int to) throws Exception {
        try (KafkaProducer<String, String> producer = producer()) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = from; i < to; i++) sent.add(producer.send(new ProducerRecord<>(prefix + "-group", i % 4, "key-" + i, "group-" + i)));
            for (Future<RecordMetadata> one : sent) one.get(30, TimeUnit.SECONDS);
        }
    }

    static void group() throws Exception {
        Member first = new Member(), second = new Member();
        try {
            first.start();
            eventually("the only member has all four partitions", 30, () -> first.failure != null || first.assigned.size() == 4, () -> first.assigned);
            second.start();
            eventually("both members have two partitions each", 30, () -> first.failure != null || second.failure != null || first.assigned.size() == 2 && second.assigned.size() == 2,
                () -> first.assigned + " and " + second.assigned);
            sendToGroup(0, 200);
            eventually("the two members have 200 records together", 30, () -> first.failure != null || second.failure != null || first.received.size() + second.received.size() >= 200,
                () -> first.received.size() + " and " + second.received.size());
            if (first.failure != null) throw new Exception("first member", first.failure);
            if (second.failure != null) throw new Exception("second member", second.failure);
            Set<String> values = new HashSet<>();
            for (Member member : Arrays.asList(first, second)) for (ConsumerRecord<String, String> r : member.received) values.add(r.value());
            expect(200, values.size(), "different records");
            expect(200, first.received.size() + second.received.size(), "records, each once");
            expect(100, second.received.size(), "records of the second member's two partitions");
            first.commit = second.commit = true;
            eventually("both have committed", 20, () -> first.failure != null || second.failure != null || !first.commit && !second.commit, () -> first.commit + " and " + second.commit);
            second.stop = true;
            second.join(20_000);
            eventually("the first member has all four partitions again", 30, () -> first.failure != null || first.assigned.size() == 4, () -> first.assigned);
        } finally {
            first.stop = second.stop = true;
            first.join(20_000);
            second.join(20_000);
        }
        if (first.failure != null) throw new Exception("first member", first.failure);
        if (second.failure != null) throw new Exception("second member", second.failure);
        sendToGroup(200, 240);
    }

    static void resume() throws Exception {
        Member member = new Member();
        try {
            member.start();
            eventually("the 40 records behind the committed offsets", 40, () -> member.failure != null || member.received.size() >= 40, () -> member.received.size());
        } finally {
            member.stop = true;
            member.join(20_000);
        }
        if (member.failure != null) throw new Exception("member", member.failure);
        expect(40, member.received.size(), "records");
        Map<Integer, Long> next = new HashMap<>();
        for (ConsumerRecord<String, String> r : member.received) {
            expect(next.getOrDefault(r.partition(), 50L), r.offset(), "next offset of partition " + r.partition());
            expect("group-" + (r.offset() * 4 + r.partition()), r.value(), "value");
            next.put(r.partition(), r.offset() + 1);
        }
    }
}
