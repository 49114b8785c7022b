import java.io.File;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import kafka.log.LogToClean;
import kafka.log.UnifiedLog;
import kafka.server.BrokerTopicStats;
import kafka.server.RequestLocal;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.common.MetadataVersion;
import org.apache.kafka.server.util.KafkaScheduler;
import org.apache.kafka.storage.internals.log.AppendOrigin;
import org.apache.kafka.storage.internals.log.FetchIsolation;
import org.apache.kafka.storage.internals.log.LogConfig;
import org.apache.kafka.storage.internals.log.LogDirFailureChannel;
import org.apache.kafka.storage.internals.log.LogOffsetsListener;
import org.apache.kafka.storage.internals.log.LogStartOffsetIncrementReason;
import org.apache.kafka.storage.internals.log.ProducerStateManagerConfig;
import org.apache.kafka.storage.internals.log.SkimpyOffsetMap;
import org.apache.kafka.storage.internals.log.VerificationGuard;
import org.apache.kafka.storage.internals.utils.Throttler;

class Release extends Everything.TheLog {
    final KafkaScheduler scheduler = new KafkaScheduler(1);
    UnifiedLog log;

    static Everything.TheLog log() {
        return new Release();
    }

    static Compression codec(int number) {
        return Compression.of(CompressionType.forId(number)).build();
    }

    MemoryRecords old(byte magic, long offset, int codec, TimestampType type, SimpleRecord... records) {
        return MemoryRecords.withRecords(magic, offset, codec(codec), type, records);
    }

    MemoryRecords plain(int codec, SimpleRecord... records) {
        return MemoryRecords.withRecords(codec(codec), records);
    }

    MemoryRecords idempotent(int codec, long producer, int sequence, SimpleRecord... records) {
        return MemoryRecords.withIdempotentRecords(codec(codec), producer, (short) 2, sequence, records);
    }

    MemoryRecords transactional(int codec, long producer, int sequence, SimpleRecord... records) {
        return MemoryRecords.withTransactionalRecords(codec(codec), producer, (short) 0, sequence, records);
    }

    void open(File dir, long start, boolean clean) throws Exception {
        scheduler.startup();
        LogConfig config = new LogConfig(Map.of("cleanup.policy", "compact,delete", "segment.bytes", "16384", "index.interval.bytes", "1000", "retention.ms", "-1"));
        log = UnifiedLog.apply(dir, config, start, clean ? Long.MAX_VALUE : 0L, scheduler, new BrokerTopicStats(false),
            Time.SYSTEM, 900000, new ProducerStateManagerConfig(Integer.MAX_VALUE, false), 600000, new LogDirFailureChannel(1),
            clean, scala.Option.empty(), true, new ConcurrentHashMap<>(), false, LogOffsetsListener.NO_OP_OFFSETS_LISTENER);
    }

    void append(MemoryRecords records, int epoch, boolean fromCoordinator) {
        AppendOrigin origin = fromCoordinator ? AppendOrigin.COORDINATOR : AppendOrigin.CLIENT;
        log.appendAsLeader(records, epoch, origin, MetadataVersion.latestProduction(), RequestLocal.NoCaching(), VerificationGuard.SENTINEL);
    }

    void truncate(long offset) {
        log.truncateTo(offset);
    }

    void deleteBelow(long offset) {
        log.maybeIncrementLogStartOffset(offset, LogStartOffsetIncrementReason.ClientRecordDeletion);
    }

    void roll() {
        log.roll(scala.Option.empty());
    }

    void clean(long nowMs) throws Exception {
        kafka.log.Cleaner cleaner = new kafka.log.Cleaner(0, new SkimpyOffsetMap(1 << 20, "MD5"), 1 << 18, 1 << 20, 0.9,
            new Throttler(Double.MAX_VALUE, 300, "cleaner-io", "bytes", Time.SYSTEM), Time.SYSTEM, tp -> scala.runtime.BoxedUnit.UNIT);
        cleaner.doClean(new LogToClean(log.topicPartition(), log, log.logStartOffset(), log.activeSegment().baseOffset(), false), nowMs);
    }

    void close() throws Exception {
        log.flush(true);
        log.close();
        scheduler.shutdown();
    }

    void commitAll() {
        log.updateHighWatermark(log.logEndOffset());
    }

    long start() {
        return log.logStartOffset();
    }

    long end() {
        return log.logEndOffset();
    }

    long stable() {
        return log.lastStableOffset();
    }

    int segments() {
        return log.numberOfSegments();
    }

    List<String> epochs() {
        List<String> epochs = new ArrayList<>();
        log.leaderEpochCache().get().epochEntries().forEach(entry -> epochs.add(entry.epoch + ":" + entry.startOffset));
        return epochs;
    }

    List<String> producers() {
        List<String> producers = new ArrayList<>();
        log.producerStateManager().activeProducers().values().forEach(p -> producers.add(p.producerId() + ":" + p.producerEpoch()
            + ":" + p.lastSeq() + ":" + p.coordinatorEpoch() + ":" + p.currentTxnFirstOffset().orElse(-1)));
        return producers;
    }

    List<String> aborted() {
        List<String> aborted = new ArrayList<>();
        scala.jdk.javaapi.CollectionConverters.asJava(log.collectAbortedTransactions(log.logStartOffset(), log.logEndOffset()))
            .forEach(txn -> aborted.add(txn.producerId() + ":" + txn.firstOffset() + "-" + txn.lastOffset()));
        return aborted;
    }

    Iterable<? extends RecordBatch> read(long from) throws Exception {
        return log.read(from, 1 << 20, FetchIsolation.LOG_END, true).records.batches();
    }
}
