// The log of a JVM broker, without the broker: writes a partition's directory, or opens one that somebody else wrote.
//
//   java -cp <kafka 3.9.1 jars> LogDir.java write DIR/topic-0
//   java -cp <kafka 3.9.1 jars> LogDir.java open DIR/topic-0 clean|crashed
//
// Both end with what the log holds, one fact a line, for the caller to compare.
import java.io.File;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import kafka.log.UnifiedLog;
import kafka.server.BrokerTopicStats;
import kafka.server.RequestLocal;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.EndTransactionMarker;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.common.MetadataVersion;
import org.apache.kafka.server.util.KafkaScheduler;
import org.apache.kafka.storage.internals.log.AppendOrigin;
import org.apache.kafka.storage.internals.log.FetchIsolation;
import org.apache.kafka.storage.internals.log.LogConfig;
import org.apache.kafka.storage.internals.log.LogDirFailureChannel;
import org.apache.kafka.storage.internals.log.LogOffsetsListener;
import org.apache.kafka.storage.internals.log.ProducerStateManagerConfig;
import org.apache.kafka.storage.internals.log.VerificationGuard;

public class LogDir {
    static final long T0 = 4_000_000_000_000L;
    static UnifiedLog log;

    public static void main(String[] args) throws Exception {
        KafkaScheduler scheduler = new KafkaScheduler(1);
        scheduler.startup();
        boolean clean = args.length < 3 || args[2].equals("clean");
        LogConfig config = new LogConfig(Map.of("segment.bytes", "16384", "index.interval.bytes", "1000", "retention.ms", "-1"));
        log = UnifiedLog.apply(new File(args[1]), config, 0L, clean ? Long.MAX_VALUE : 0L, scheduler, new BrokerTopicStats(false),
            Time.SYSTEM, 900000, new ProducerStateManagerConfig(Integer.MAX_VALUE, false), 600000, new LogDirFailureChannel(1),
            clean, scala.Option.empty(), true, new ConcurrentHashMap<>(), false, LogOffsetsListener.NO_OP_OFFSETS_LISTENER);
        if (args[0].equals("write")) write();
        log.updateHighWatermark(log.logEndOffset());
        describe();
        log.flush(true);
        log.close();
        scheduler.shutdown();
    }

    static void append(MemoryRecords records, int epoch, AppendOrigin origin) {
        log.appendAsLeader(records, epoch, origin, MetadataVersion.latestProduction(), RequestLocal.NoCaching(), VerificationGuard.SENTINEL);
    }

    static void write() {
        Compression[] codecs = {Compression.NONE, Compression.gzip().build(), Compression.snappy().build(), Compression.lz4().build(), Compression.zstd().build()};
        for (int i = 0; i < 400; i++) {
            int epoch = i / 150;
            SimpleRecord[] records = new SimpleRecord[3];
            for (int r = 0; r < 3; r++) records[r] = new SimpleRecord(T0 + (i * 7919L) % 5000 * 10 + r, "key".getBytes(), new byte[60]);
            append(MemoryRecords.withIdempotentRecords(codecs[i % 5], 1000 + i % 3, (short) 2, i / 3 * 3, records), epoch, AppendOrigin.CLIENT);
            if (i % 50 == 10)
                append(MemoryRecords.withTransactionalRecords(Compression.NONE, 7, (short) 0, i / 50, new SimpleRecord(T0 + i, "in a transaction".getBytes())), epoch, AppendOrigin.CLIENT);
            if (i % 50 == 30)
                append(MemoryRecords.withEndTransactionMarker(T0 + i, 7, (short) 0, new EndTransactionMarker(i % 100 == 30 ? ControlRecordType.COMMIT : ControlRecordType.ABORT, 3)), epoch, AppendOrigin.COORDINATOR);
        }
    }

    static void describe() throws Exception {
        System.out.println("start " + log.logStartOffset());
        System.out.println("end " + log.logEndOffset());
        System.out.println("segments " + log.numberOfSegments());
        System.out.println("epochs " + log.leaderEpochCache().get().epochEntries().stream().map(e -> e.epoch + ":" + e.startOffset).toList());
        long next = log.logStartOffset(), count = 0, digest = 0;
        while (next < log.logEndOffset()) {
            for (Record record : log.read(next, 1 << 20, FetchIsolation.LOG_END, true).records.records()) {
                digest = digest * 31 + record.offset() * 7 + record.timestamp();
                next = record.offset() + 1;
                count++;
            }
        }
        System.out.println("records " + count + " " + digest);
        System.out.println("producers " + log.producerStateManager().activeProducers().values().stream()
            .map(p -> p.producerId() + ":" + p.producerEpoch() + ":" + p.lastSeq() + ":" + p.coordinatorEpoch()).sorted().toList());
        log.fetchOffsetByTimestamp(T0 + 20000, scala.Option.empty()).foreach(found -> { System.out.println("at " + found.offset + " " + found.timestamp); return null; });
        System.out.println("aborted " + log.collectAbortedTransactions(0, log.logEndOffset()).size());
    }
}
