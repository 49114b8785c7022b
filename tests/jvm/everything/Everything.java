// The log of a JVM broker, without the broker, and in it everything that one may have. What differs between the releases stands
// in Release.java.
//
//   javac -cp <kafka jars> -d OUT Everything.java 2.8.2/Release.java, and then java -cp OUT:<kafka jars>
//   Everything write DIR/topic-0                         makes it
//   Everything read  DIR/topic-0 START clean|crashed     opens what somebody has made
//   Everything go-on DIR/topic-0 START EPOCH             and appends, ends what is open, rolls, and compacts
//
// Each ends with what the log holds, one fact a line, for the caller to compare. START is what the checkpoint says.
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.EndTransactionMarker;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.record.TimestampType;

public class Everything {
    static final long T0 = 4_000_000_000_000L;
    /** All of them, by the numbers that batches have. */
    static final int CODECS = 5;

    /** A log, and how this release makes batches. */
    public abstract static class TheLog {
        abstract MemoryRecords old(byte magic, long offset, int codec, TimestampType type, SimpleRecord... records);
        abstract MemoryRecords plain(int codec, SimpleRecord... records);
        abstract MemoryRecords idempotent(int codec, long producer, int sequence, SimpleRecord... records);
        abstract MemoryRecords transactional(int codec, long producer, int sequence, SimpleRecord... records);
        abstract void open(File dir, long start, boolean clean) throws Exception;
        abstract void append(MemoryRecords records, int epoch, boolean fromCoordinator);
        abstract void truncate(long offset);
        abstract void deleteBelow(long offset);
        abstract void roll();
        abstract void clean(long nowMs) throws Exception;
        abstract void close() throws Exception;
        abstract void commitAll();
        abstract long start();
        abstract long end();
        abstract long stable();
        abstract int segments();
        abstract List<String> epochs();
        abstract List<String> producers();
        abstract List<String> aborted();
        abstract Iterable<? extends RecordBatch> read(long from) throws Exception;
    }

    static TheLog log;

    public static void main(String[] args) throws Exception {
        log = Release.log();
        File dir = new File(args[1]);
        switch (args[0]) {
            case "write":
                dir.mkdirs();
                writeOld(dir);
                log.open(dir, 0, false);
                write();
                break;
            case "go-on":
                log.open(dir, Long.parseLong(args[2]), true);
                goOn(Integer.parseInt(args[3]));
                break;
            default:
                log.open(dir, Long.parseLong(args[2]), args[3].equals("clean"));
        }
        log.commitAll();
        describe();
        long start = log.start();
        log.close();
        if (!args[0].equals("read"))
            Files.writeString(new File(dir.getParentFile(), "log-start-offset-checkpoint").toPath(), "0\n1\nt 0 " + start + "\n");
    }

    static SimpleRecord record(long n, long timestamp) {
        byte[] value = n % 11 == 0 ? null : ("value " + n).repeat(3).getBytes();
        return new SimpleRecord(timestamp, ("key " + n * 7919 % 601).getBytes(), value);
    }

    static SimpleRecord[] records(long n, int count) {
        SimpleRecord[] records = new SimpleRecord[count];
        for (int at = 0; at < count; at++) records[at] = record(n * count + at, T0 + n * 7919 % 5000 * 10 + at);
        return records;
    }

    /** Segments of brokers before 0.11. */
    static void writeOld(File dir) throws Exception {
        long offset = 0;
        for (int segment = 0; segment < 4; segment++) {
            FileRecords file = FileRecords.open(new File(dir, String.format("%020d.log", offset)), true);
            byte magic = (byte) (segment % 2);
            for (int i = 0; i < 24; i++) {
                SimpleRecord[] records = new SimpleRecord[4];
                for (int at = 0; at < 4; at++) records[at] = record(offset + at, magic == 0 ? -1 : 1_600_000_000_000L + offset * 10 - at);
                TimestampType type = magic > 0 && i % 5 == 3 ? TimestampType.LOG_APPEND_TIME : TimestampType.CREATE_TIME;
                // These formats know no zstd.
                file.append(log.old(magic, offset, i % 4, type, records));
                offset += 4;
            }
            file.close();
        }
    }

    static void end(long producer, boolean commits, int epoch) {
        ControlRecordType type = commits ? ControlRecordType.COMMIT : ControlRecordType.ABORT;
        log.append(MemoryRecords.withEndTransactionMarker(T0, producer, (short) 0, new EndTransactionMarker(type, 3)), epoch, true);
        log.commitAll();
    }

    /** So many batches: of all codecs, of producers of each kind, of transactions that are committed and aborted. */
    static void append(int from, int count, int epoch, long firstProducer) {
        for (int i = 0; i < count; i++) {
            int n = from + i;
            if (i % 4 == 0) log.append(log.plain(n % CODECS, records(n, 3)), epoch, false);
            else log.append(log.idempotent(n % CODECS, firstProducer + i % 4, i / 4 * 3, records(n, 3)), epoch, false);
            if (i % 20 == 3)
                for (int other = 7; other < 9; other++)
                    log.append(log.transactional(n % CODECS, firstProducer + other, i / 20, record(n, T0 + n)), epoch, false);
            if (i % 20 == 13) {
                end(firstProducer + 7, i % 40 == 13, epoch);
                end(firstProducer + 8, false, epoch);
            }
        }
        log.commitAll();
    }

    static void write() throws Exception {
        append(0, 100, 0, 1000);
        append(100, 100, 1, 2000);
        // What another leader has instead.
        log.truncate(log.end() - 7);
        append(200, 100, 4, 3000);
        log.roll();
        log.clean(T0);
        log.deleteBelow(101);
        append(300, 60, 5, 4000);
        log.roll();
        append(400, 20, 6, 5000);
        // Nobody ends it.
        log.append(log.transactional(0, 9, 0, record(1, T0 + 1)), 6, false);
    }

    static void goOn(int epoch) throws Exception {
        end(9, false, epoch);
        append(1000, 100, epoch, 10_000);
        log.roll();
        log.clean(T0);
        append(1100, 60, epoch + 1, 11_000);
        log.roll();
        append(1200, 7, epoch + 2, 12_000);
        log.append(log.transactional(0, 19, 0, record(1, T0 + 1)), epoch + 2, false);
    }

    static long hash(ByteBuffer bytes) {
        if (bytes == null) return 7;
        byte[] all = new byte[bytes.remaining()];
        bytes.duplicate().get(all);
        return Arrays.hashCode(all);
    }

    static void describe() throws Exception {
        System.out.println("start " + log.start());
        System.out.println("end " + log.end());
        System.out.println("stable " + log.stable());
        System.out.println("segments " + log.segments());
        System.out.println("epochs " + log.epochs());
        long next = log.start(), count = 0, digest = 0;
        while (next < log.end()) {
            long before = next;
            for (RecordBatch batch : log.read(next)) {
                for (Record record : batch) {
                    if (record.offset() < next) continue;
                    for (long part : new long[] {record.offset(), record.timestamp(), hash(record.key()), hash(record.value())}) digest = digest * 31 + part;
                    count++;
                }
                next = batch.nextOffset();
            }
            // Compaction may have left nothing at the end.
            if (next == before) break;
        }
        System.out.println("records " + count + " " + digest);
        List<String> producers = new ArrayList<>(log.producers());
        producers.sort(null);
        System.out.println("producers " + producers);
        List<String> aborted = new ArrayList<>(log.aborted());
        aborted.sort(null);
        System.out.println("aborted " + aborted);
    }
}
