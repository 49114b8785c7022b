// The cleaner of a JVM broker, without the broker: one pass over one partition's directory.
//
//   java -cp <kafka 3.9.1 jars> Cleaner.java clean DIR/topic-0 FIRST_DIRTY NOW_MS DEDUPE_BYTES SEGMENT_BYTES [WARM_UP_DIR/topic-0]
//   java -cp <kafka 3.9.1 jars> Cleaner.java old DIR/topic-0
//
// The first prints where the pass ended, what it read and wrote, and its time; the second writes segments of old formats.
import java.io.File;
import java.lang.management.ManagementFactory;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import kafka.log.LogToClean;
import kafka.log.UnifiedLog;
import kafka.server.BrokerTopicStats;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.util.KafkaScheduler;
import org.apache.kafka.storage.internals.log.LogConfig;
import org.apache.kafka.storage.internals.log.LogDirFailureChannel;
import org.apache.kafka.storage.internals.log.LogOffsetsListener;
import org.apache.kafka.storage.internals.log.ProducerStateManagerConfig;
import org.apache.kafka.storage.internals.log.SkimpyOffsetMap;
import org.apache.kafka.storage.internals.utils.Throttler;

public class Cleaner {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("old")) {
            old(new File(args[1]));
            return;
        }
        // What the virtual machine compiles on the way is not the cleaner's work.
        if (args.length > 6) clean(args, args[6]);
        System.out.println(clean(args, args[1]));
    }

    static String clean(String[] args, String dir) throws Exception {
        KafkaScheduler scheduler = new KafkaScheduler(1);
        scheduler.startup();
        LogConfig config = new LogConfig(Map.of("cleanup.policy", "compact", "segment.bytes", args[5], "index.interval.bytes", "1000",
            "delete.retention.ms", "60000", "retention.ms", "-1"));
        UnifiedLog log = UnifiedLog.apply(new File(dir), config, 0L, Long.MAX_VALUE, scheduler, new BrokerTopicStats(false),
            Time.SYSTEM, 900000, new ProducerStateManagerConfig(Integer.MAX_VALUE, false), 600000, new LogDirFailureChannel(1),
            true, scala.Option.empty(), true, new ConcurrentHashMap<>(), false, LogOffsetsListener.NO_OP_OFFSETS_LISTENER);
        log.updateHighWatermark(log.logEndOffset());
        kafka.log.Cleaner cleaner = new kafka.log.Cleaner(0, new SkimpyOffsetMap(Integer.parseInt(args[4]), "MD5"), 1 << 18, 1 << 20, 0.9,
            new Throttler(Double.MAX_VALUE, 300, "cleaner-io", "bytes", Time.SYSTEM), Time.SYSTEM, tp -> scala.runtime.BoxedUnit.UNIT);
        LogToClean toClean = new LogToClean(log.topicPartition(), log, Long.parseLong(args[2]), log.activeSegment().baseOffset(), false);
        var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        long began = System.nanoTime(), cpu = system.getProcessCpuTime();
        var ended = cleaner.doClean(toClean, Long.parseLong(args[3]));
        long took = System.nanoTime() - began, worked = system.getProcessCpuTime() - cpu;
        String said = "cleaned " + ended._1() + " read " + ended._2().bytesRead() + " written " + ended._2().bytesWritten() + " ns " + took + " cpu " + worked;
        log.flush(true);
        log.close();
        scheduler.shutdown();
        return said;
    }

    static void old(File dir) throws Exception {
        dir.mkdirs();
        Compression[] codecs = {Compression.NONE, Compression.gzip().build(), Compression.snappy().build(), Compression.lz4().build()};
        long offset = 0;
        for (int segment = 0; segment < 5; segment++) {
            FileRecords file = FileRecords.open(new File(dir, String.format("%020d.log", offset)), true);
            for (int i = 0; i < 24; i++) {
                byte magic = (byte) (segment == 4 ? 2 : segment % 2);
                SimpleRecord[] records = new SimpleRecord[4];
                for (int r = 0; r < 4; r++) {
                    int key = (int) ((offset + r) * 7919 % 60);
                    byte[] value = (offset + r) % 11 == 0 ? null : ("value " + (offset + r)).repeat(3).getBytes();
                    records[r] = new SimpleRecord(magic == 0 ? -1 : 1_600_000_000_000L + offset * 10 - r, ("key " + key).getBytes(), value);
                }
                TimestampType type = magic > 0 && i % 5 == 3 ? TimestampType.LOG_APPEND_TIME : TimestampType.CREATE_TIME;
                file.append(MemoryRecords.withRecords(magic, offset, codecs[i % 4], type, records));
                offset += 4;
            }
            file.close();
        }
    }
}
