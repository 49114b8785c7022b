import java.time.Duration;
import java.util.*;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/**
 * Two instances that consume, transform and produce as transform.py does, with Kafka's own client of a release that follows
 * version 2 of the transaction protocol while the cluster has it. Their lives are threads of one JVM.
 *
 * <pre>java Transform BOOTSTRAP GROUP SEED OUTPUT PARTITIONS TOPIC...</pre>
 *
 * It says on its output, a word a line, what transform.py says of each life, and "zombie fenced" of one that hung with a
 * transaction open and was let go on once the next had its transactional id. It is wild until TERM comes, and then calm; it
 * works until it is killed, and ends with status 1 if anything happens that must not.
 */
public class Transform {
    // As transform.py has them.
    static final String[] FATES = {"commit", "abort", "dawdle", "die", "hang", "leave"};
    static final int[] OFTEN = {83, 10, 2, 2, 1, 2};
    static final int RECORDS_MAX = 200;
    static final long MILLIS_A_BATCH = 300, MILLIS_OF_DAWDLING = 8000, PATIENCE_MILLIS = 120_000;
    static final String MILLIS_BETWEEN_POLLS_MAX = "6000", TRANSACTION_TIMEOUT_MS = "15000", MILLIS_A_CALL = "5000";

    static String bootstrap, group, seed, output;
    static int partitions;
    static List<String> topics;
    static volatile boolean isCalm;

    public static void main(String[] arguments) {
        bootstrap = arguments[0];
        group = arguments[1];
        seed = arguments[2];
        output = arguments[3];
        partitions = Integer.parseInt(arguments[4]);
        topics = List.of(arguments).subList(5, arguments.length);
        sun.misc.Signal.handle(new sun.misc.Signal("TERM"), signal -> isCalm = true);
        for (int number = 0; number < 2; number++) {
            String instance = group + "-" + number;
            new Thread(() -> {
                try {
                    keepTransforming(instance);
                } catch (Throwable failed) {
                    failed.printStackTrace();
                    Runtime.getRuntime().halt(1);
                }
            }, instance).start();
        }
    }

    static synchronized void say(String what) {
        System.out.println(what);
    }

    static void complain(Life life, String what, Throwable error) {
        System.err.printf("%.3f %s: %s: %s, because of %s%n", System.currentTimeMillis() / 1000.0, life, what, error, error.getCause());
    }

    /** Is one life of an instance after the other. Who hangs with a transaction open is let go once the next is ready. */
    static void keepTransforming(String instance) throws InterruptedException {
        Life zombie = null;
        for (int number = 1; ; number++) {
            Life life = new Life(instance, number);
            life.thread.start();
            life.isReady.await();
            // It may have been fenced before it was.
            if (zombie != null && life.end == null) {
                zombie.goesOn.countDown();
                zombie.thread.join(PATIENCE_MILLIS);
                if (!"fenced".equals(zombie.end)) throw new IllegalStateException(zombie + " is a zombie, and its end is: " + zombie.end);
                say("zombie fenced");
                zombie = null;
            }
            life.isOver.await();
            if (life.end == null) zombie = life;
        }
    }

    interface Call {
        void make();
    }

    static final class Life {
        final String name;
        final Thread thread;
        /** It has its transactional id, or has ended. */
        final CountDownLatch isReady = new CountDownLatch(1);
        /** It has ended, or hangs. */
        final CountDownLatch isOver = new CountDownLatch(1);
        final CountDownLatch goesOn = new CountDownLatch(1);
        volatile String end;
        private final Random chance;
        private final KafkaProducer<String, String> producer;
        private final KafkaConsumer<String, String> consumer;
        private final List<ConsumerRecord<String, String>> batch = new ArrayList<>();

        Life(String instance, int number) {
            name = instance + "." + number;
            chance = new Random((seed + " " + name).hashCode());
            Properties common = new Properties();
            common.putAll(Map.of("bootstrap.servers", bootstrap, "request.timeout.ms", MILLIS_A_CALL, "default.api.timeout.ms", MILLIS_A_CALL,
                "metadata.max.age.ms", "2000", "reconnect.backoff.max.ms", "1000"));
            Properties ofProducer = new Properties();
            ofProducer.putAll(common);
            ofProducer.remove("default.api.timeout.ms");
            ofProducer.putAll(Map.of("client.id", name, "transactional.id", instance, "transaction.timeout.ms", TRANSACTION_TIMEOUT_MS,
                "max.block.ms", MILLIS_A_CALL, "delivery.timeout.ms", "20000", "linger.ms", "5", "buffer.memory", "4000000"));
            Properties ofConsumer = new Properties();
            ofConsumer.putAll(common);
            ofConsumer.putAll(Map.of("client.id", name, "group.id", group, "isolation.level", "read_committed", "enable.auto.commit", "false",
                "auto.offset.reset", "earliest", "fetch.max.wait.ms", "200", "max.poll.records", "100"));
            ofConsumer.putAll(Map.of("session.timeout.ms", "6000", "heartbeat.interval.ms", "1000", "max.poll.interval.ms", MILLIS_BETWEEN_POLLS_MAX));
            ofConsumer.put("partition.assignment.strategy", CooperativeStickyAssignor.class.getName());
            producer = new KafkaProducer<>(ofProducer, new StringSerializer(), new StringSerializer());
            consumer = new KafkaConsumer<>(ofConsumer, new StringDeserializer(), new StringDeserializer());
            thread = new Thread(this::run, name);
        }

        @Override
        public String toString() {
            return name;
        }

        private void run() {
            String what = "failed";
            try {
                what = live();
            } catch (KafkaException failed) {
                if (!isFenced(failed)) {
                    failed.printStackTrace();
                    Runtime.getRuntime().halt(1);
                }
                complain(this, "it ends", failed);
                what = "fenced";
            } catch (InterruptedException | RuntimeException failed) {
                failed.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
            // Of one that dies nobody hears: neither the transaction's coordinator nor the group's.
            boolean leaves = what.equals("left");
            producer.close(Duration.ZERO);
            consumer.close(CloseOptions.timeout(Duration.ofMillis(leaves ? 5000 : 0)).withGroupMembershipOperation(
                leaves ? CloseOptions.GroupMembershipOperation.LEAVE_GROUP : CloseOptions.GroupMembershipOperation.REMAIN_IN_GROUP));
            say(what);
            end = what;
            isReady.countDown();
            isOver.countDown();
        }

        private static boolean isFenced(Throwable failed) {
            for (Throwable cause = failed; cause != null; cause = cause.getCause())
                if (cause instanceof ProducerFencedException || cause instanceof InvalidProducerEpochException) return true;
            return false;
        }

        /** Makes a call again that may succeed yet. */
        private void untilSettled(String what, Call call) {
            for (long began = System.currentTimeMillis(); ; ) {
                try {
                    call.make();
                    return;
                } catch (TimeoutException late) {
                    if (System.currentTimeMillis() - began > PATIENCE_MILLIS) throw new IllegalStateException(name + ": " + what + " does not come back", late);
                    complain(this, what, late);
                }
            }
        }

        private String live() throws InterruptedException {
            untilSettled("initTransactions", producer::initTransactions);
            say("ready");
            isReady.countDown();
            consumer.subscribe(topics, new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> assigned) { }

                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> revoked) {
                    batch.removeIf(record -> revoked.contains(partition(record)));
                }
            });
            for (int serial = 1; ; serial++) {
                do nextBatch(); while (batch.isEmpty());
                String fate = isCalm ? "commit" : fate();
                String what;
                try {
                    what = transact(serial, fate);
                } catch (KafkaException failed) {
                    if (fate.equals("hang") && isFenced(failed)) throw failed;
                    // A new generation of the group, or a record that could not be sent. Who cannot abort is fenced.
                    complain(this, "a transaction", failed);
                    untilSettled("abortTransaction", producer::abortTransaction);
                    what = "refused";
                }
                if (what.equals("dies")) return what;
                say(what);
                if (fate.equals("leave") || !what.equals("committed") && !rewind()) return "left";
            }
        }

        private String fate() {
            int left = chance.nextInt(Arrays.stream(OFTEN).sum()), at = 0;
            while ((left -= OFTEN[at]) >= 0) at++;
            return FATES[at];
        }

        /** Records that nobody else can have: rebalances happen while it polls. */
        private void nextBatch() {
            batch.clear();
            long endsAt = System.currentTimeMillis() + MILLIS_A_BATCH;
            for (long left; batch.size() < RECORDS_MAX && (left = endsAt - System.currentTimeMillis()) > 0; )
                consumer.poll(Duration.ofMillis(left)).forEach(batch::add);
        }

        private static TopicPartition partition(ConsumerRecord<String, String> record) {
            return new TopicPartition(record.topic(), record.partition());
        }

        /** Goes back to where the batch began, with what is still ours; says whether that was possible. */
        private boolean rewind() {
            Map<TopicPartition, Long> began = new HashMap<>();
            for (ConsumerRecord<String, String> record : batch) began.putIfAbsent(partition(record), record.offset());
            for (TopicPartition assigned : consumer.assignment()) {
                if (!began.containsKey(assigned)) continue;
                try {
                    consumer.seek(assigned, began.get(assigned));
                } catch (IllegalStateException gone) {
                    complain(this, "seek " + assigned, gone);
                    return false;
                }
            }
            return true;
        }

        /** Writes what the batch becomes, and ends it as its fate has it. */
        private String transact(int serial, String fate) throws InterruptedException {
            // As whom it has the batch, as in transform.py.
            ConsumerGroupMetadata member = consumer.groupMetadata();
            producer.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
            for (ConsumerRecord<String, String> record : batch) {
                write(record, serial, fate);
                ends.put(partition(record), new OffsetAndMetadata(record.offset() + 1));
            }
            if (fate.equals("dawdle")) Thread.sleep(MILLIS_OF_DAWDLING); // So that others have the partitions, and the same batch.
            untilSettled("sendOffsetsToTransaction", () -> producer.sendOffsetsToTransaction(ends, member));
            if (List.of("abort", "die", "hang").contains(fate)) producer.flush(); // Its records lie in the log.
            switch (fate) {
                case "abort":
                    untilSettled("abortTransaction", producer::abortTransaction);
                    return "aborted";
                case "die":
                    return "dies";
                case "hang":
                    say("hangs");
                    isOver.countDown();
                    goesOn.await();
                    // Whoever has the id now may have a transaction, to which this must not be added.
                    write(batch.get(0), serial, fate);
                    untilSettled("commitTransaction", producer::commitTransaction);
                    throw new IllegalStateException(name + " hung, another began, and it has committed");
                default:
                    untilSettled("commitTransaction", producer::commitTransaction);
                    return "committed";
            }
        }

        private void write(ConsumerRecord<String, String> record, int serial, String fate) {
            String value = partition(record) + " " + record.offset() + " " + name + "." + serial + " " + fate;
            producer.send(new ProducerRecord<>(output, chance.nextInt(partitions), null, value));
        }
    }
}
