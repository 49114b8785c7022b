import java.io.File;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import kafka.api.ApiVersion;
import kafka.log.AbortedTxn;
import kafka.log.AppendOrigin;
import kafka.log.ClientRecordDeletion$;
import kafka.log.Log;
import kafka.log.LogConfig;
import kafka.log.LogToClean;
import kafka.log.ProducerStateEntry;
import kafka.log.SkimpyOffsetMap;
import kafka.server.BrokerTopicStats;
import kafka.server.FetchLogEnd$;
import kafka.server.LogDirFailureChannel;
import kafka.utils.KafkaScheduler;
import kafka.utils.Throttler;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.utils.Time;
import scala.jdk.javaapi.CollectionConverters;

class Release extends Everything.TheLog {
    final KafkaScheduler scheduler = new KafkaScheduler(1, "test-", true);
    Log log;

    static Everything.TheLog log() {
        return new Release();
    }

    static CompressionType codec(int number) {
        return CompressionType.forId(number);
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
        LogConfig config = new LogConfig(Map.of("cleanup.policy", "compact,delete", "segment.bytes", "16384", "index.interval.bytes", "1000", "retention.ms", "-1"),
            scala.collection.immutable.Set$.MODULE$.<String>empty());
        log = Log.apply(dir, config, start, clean ? Long.MAX_VALUE : 0L, scheduler, new BrokerTopicStats(), Time.SYSTEM, Integer.MAX_VALUE, 600000,
            new LogDirFailureChannel(1), clean, true);
    }

    void append(MemoryRecords records, int epoch, boolean fromCoordinator) {
        AppendOrigin origin = fromCoordinator ? AppendOrigin.Coordinator$.MODULE$ : AppendOrigin.Client$.MODULE$;
        log.appendAsLeader(records, epoch, origin, ApiVersion.latestVersion());
    }

    void truncate(long offset) {
        log.truncateTo(offset);
    }

    void deleteBelow(long offset) {
        log.maybeIncrementLogStartOffset(offset, ClientRecordDeletion$.MODULE$);
    }

    void roll() {
        log.roll(scala.Option.empty());
    }

    void clean(long nowMs) throws Exception {
        kafka.log.Cleaner cleaner = new kafka.log.Cleaner(0, new SkimpyOffsetMap(1 << 20, "MD5"), 1 << 18, 1 << 20, 0.9,
            new Throttler(Double.MAX_VALUE, 300, true, "cleaner-io", "bytes", Time.SYSTEM), Time.SYSTEM, tp -> scala.runtime.BoxedUnit.UNIT);
        cleaner.doClean(new LogToClean(log.topicPartition(), log, log.logStartOffset(), log.activeSegment().baseOffset(), false), nowMs);
    }

    void close() throws Exception {
        log.flush();
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
        CollectionConverters.asJava(log.leaderEpochCache().get().epochEntries()).forEach(entry -> epochs.add(entry.epoch() + ":" + entry.startOffset()));
        return epochs;
    }

    List<String> producers() {
        List<String> producers = new ArrayList<>();
        for (Object value : CollectionConverters.asJava(log.producerStateManager().activeProducers()).values()) {
            ProducerStateEntry p = (ProducerStateEntry) value;
            Object open = p.currentTxnFirstOffset().isEmpty() ? -1 : p.currentTxnFirstOffset().get();
            producers.add(p.producerId() + ":" + p.producerEpoch() + ":" + p.lastSeq() + ":" + p.coordinatorEpoch() + ":" + open);
        }
        return producers;
    }

    List<String> aborted() {
        List<String> aborted = new ArrayList<>();
        for (AbortedTxn txn : CollectionConverters.asJava(log.collectAbortedTransactions(log.logStartOffset(), log.logEndOffset())))
            aborted.add(txn.producerId() + ":" + txn.firstOffset() + "-" + txn.lastOffset());
        return aborted;
    }

    Iterable<? extends RecordBatch> read(long from) throws Exception {
        return log.read(from, 1 << 20, FetchLogEnd$.MODULE$, true).records().batches();
    }
}
