// What a JVM broker answers to batches that are damaged, odd or at the edge of what is allowed: one line for each, with
// the batch and the answers of a topic that keeps the producer's codec and of one that has its own. The lines are
// tests/golden/records/bad-batches.txt.
//
//   java -cp <kafka 3.9.1 jars> BadBatches.java > bad-batches.txt
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.zip.CRC32;
import java.util.zip.Checksum;
import kafka.log.UnifiedLog;
import kafka.server.BrokerTopicStats;
import kafka.server.RequestLocal;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.requests.ProduceRequest;
import org.apache.kafka.common.utils.ByteBufferOutputStream;
import org.apache.kafka.common.utils.Crc32C;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.common.MetadataVersion;
import org.apache.kafka.server.record.BrokerCompressionType;
import org.apache.kafka.server.util.KafkaScheduler;
import org.apache.kafka.storage.internals.log.*;

public class BadBatches {
    static UnifiedLog[] logs;
    static final byte[] NOTHING = {};

    public static void main(String[] args) throws Exception {
        KafkaScheduler scheduler = new KafkaScheduler(1);
        scheduler.startup();
        logs = new UnifiedLog[] {log("producer", scheduler), log("gzip", scheduler)};
        for (CompressionType codec : CompressionType.values()) if (codec != CompressionType.NONE) codec(codec);
        gzip();
        snappy();
        lz4();
        zstd();
        records(CompressionType.NONE);
        records(CompressionType.GZIP);
        headers();
        old();
        scheduler.shutdown();
        System.exit(0);
    }

    static UnifiedLog log(String compression, KafkaScheduler scheduler) throws Exception {
        File dir = new File(Files.createTempDirectory("bad-batches").toFile(), "t-0");
        LogConfig config = new LogConfig(Map.of("compression.type", compression, "retention.ms", "-1"));
        return UnifiedLog.apply(dir, config, 0L, 0L, scheduler, new BrokerTopicStats(false), Time.SYSTEM, 900000,
            new ProducerStateManagerConfig(Integer.MAX_VALUE, false), 600000, new LogDirFailureChannel(1), true, scala.Option.empty(),
            true, new ConcurrentHashMap<>(), false, LogOffsetsListener.NO_OP_OFFSETS_LISTENER);
    }

    // As KafkaApis.handleProduceRequest and ReplicaManager.appendToLocalLog do it.
    static String answer(UnifiedLog log, int version, byte[] bytes) {
        long end = log.logEndOffset();
        try {
            MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(bytes.clone()));
            ProduceRequest.validateRecords((short) version, records);
            log.appendAsLeader(records, 0, AppendOrigin.CLIENT, MetadataVersion.latestProduction(), RequestLocal.NoCaching(), VerificationGuard.SENTINEL);
            return "NONE:" + (log.logEndOffset() - end);
        } catch (RecordValidationException e) {
            return Errors.forException(e.invalidException()).name();
        } catch (Throwable e) {
            if (System.getenv("WHY") != null) e.printStackTrace();
            return Errors.forException(e).name();
        }
    }

    static void ask(String name, int version, byte[] bytes) {
        System.out.println(name.replace(' ', '_') + " " + version + " " + answer(logs[0], version, bytes) + " " + answer(logs[1], version, bytes)
            + " " + HexFormat.of().formatHex(bytes));
    }

    static void ask(String name, byte[] batch) { ask(name, 9, batch); }

    static byte[] cat(byte[]... parts) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (byte[] part : parts) out.writeBytes(part);
        return out.toByteArray();
    }

    static byte[] bytes(int... values) {
        byte[] bytes = new byte[values.length];
        for (int i = 0; i < values.length; i++) bytes[i] = (byte) values[i];
        return bytes;
    }

    static byte[] flipped(byte[] bytes, int at) {
        byte[] flipped = bytes.clone();
        flipped[at < 0 ? bytes.length + at : at] ^= 0x55;
        return flipped;
    }

    static byte[] set(byte[] bytes, int at, int... values) {
        byte[] changed = bytes.clone();
        for (int i = 0; i < values.length; i++) changed[(at < 0 ? bytes.length + at : at) + i] = (byte) values[i];
        return changed;
    }

    static byte[] cut(byte[] bytes, int less) { return Arrays.copyOf(bytes, Math.max(0, bytes.length - less)); }

    static byte[] varint(long value) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        long v = (value << 1) ^ (value >> 63);
        while ((v & ~0x7fL) != 0) { out.write((int) (v & 0x7f) | 0x80); v >>>= 7; }
        out.write((int) v);
        return out.toByteArray();
    }

    static byte[] field(String value) { return cat(varint(value.length()), value.getBytes()); }

    static byte[] record(byte[] body) { return cat(varint(body.length), body); }

    static byte[] record(int offsetDelta) {
        return record(cat(bytes(0), varint(offsetDelta), varint(offsetDelta), field("key"), field("value".repeat(2)), bytes(0)));
    }

    static byte[] three() { return cat(record(0), record(1), record(2)); }

    static byte[] compress(CompressionType codec, int magic, byte[] payload) {
        try (ByteBufferOutputStream out = new ByteBufferOutputStream(1 << 16)) {
            try (OutputStream stream = Compression.of(codec).build().wrapForOutput(out, (byte) magic)) { stream.write(payload); }
            out.buffer().flip();
            byte[] bytes = new byte[out.buffer().remaining()];
            out.buffer().get(bytes);
            return bytes;
        } catch (Exception e) { throw new RuntimeException(e); }
    }

    static byte[] batch(int attributes, int count, byte[] body) { return batch(attributes, count, count - 1, body); }

    static byte[] batch(int attributes, int count, int lastOffsetDelta, byte[] body) {
        return sealed(ByteBuffer.allocate(61 + body.length).putLong(0).putInt(49 + body.length).putInt(-1).put((byte) 2).putInt(0)
            .putShort((short) attributes).putInt(lastOffsetDelta).putLong(1000).putLong(1002).putLong(-1).putShort((short) -1).putInt(-1)
            .putInt(count).put(body).array());
    }

    static byte[] sealed(byte[] batch) {
        Checksum crc = Crc32C.create();
        crc.update(batch, 21, batch.length - 21);
        ByteBuffer.wrap(batch).putInt(17, (int) crc.getValue());
        return batch;
    }

    // Where a flip makes other records and not another stream, it is no matter of the codec.
    static void flip(String name, CompressionType codec, byte[] good, int at) {
        byte[] flipped = flipped(good, at);
        byte[] out = NOTHING;
        try (var in = Compression.of(codec).build().wrapForInput(ByteBuffer.wrap(flipped), (byte) 2, org.apache.kafka.common.utils.BufferSupplier.NO_CACHING)) {
            out = in.readAllBytes();
        } catch (Throwable e) {
            out = NOTHING;
        }
        if (out.length != three().length || Arrays.equals(out, three())) ask(name + " flipped at " + at, batch(codec.id, 3, flipped));
    }

    // What every codec can be given.
    static void codec(CompressionType codec) {
        byte[] good = compress(codec, 2, three());
        byte[] empty = compress(codec, 2, NOTHING);
        String name = codec.name;
        ask(name + " whole", batch(codec.id, 3, good));
        for (int garbage : new int[] {1, 2, 3, 4, 5, 8, 40}) {
            byte[] trailing = new byte[garbage];
            ask(name + " then " + garbage + " zeros", batch(codec.id, 3, cat(good, trailing)));
            Arrays.fill(trailing, (byte) 'x');
            ask(name + " then " + garbage + " x", batch(codec.id, 3, cat(good, trailing)));
            Arrays.fill(trailing, (byte) 0xff);
            ask(name + " then " + garbage + " ff", batch(codec.id, 3, cat(good, trailing)));
        }
        for (int less : new int[] {1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 20, good.length / 2, good.length - 4, good.length - 1, good.length})
            ask(name + " cut by " + less, batch(codec.id, 3, cut(good, less)));
        for (int at = 0; at < good.length; at++) flip(name, codec, good, at);
        ask(name + " twice, records of one", batch(codec.id, 3, cat(good, good)));
        ask(name + " twice, records of both", batch(codec.id, 6, cat(good, compress(codec, 2, cat(record(3), record(4), record(5))))));
        ask(name + " record over two streams", batch(codec.id, 3, cat(compress(codec, 2, Arrays.copyOf(three(), 20)), compress(codec, 2, Arrays.copyOfRange(three(), 20, three().length)))));
        ask(name + " an empty stream before", batch(codec.id, 3, cat(empty, good)));
        ask(name + " an empty stream behind", batch(codec.id, 3, cat(good, empty)));
        ask(name + " half a stream behind", batch(codec.id, 3, cat(good, cut(good, good.length / 2))));
        ask(name + " an empty stream alone", batch(codec.id, 3, empty));
        ask(name + " not compressed at all", batch(codec.id, 3, three()));
        ask(name + " fewer records", batch(codec.id, 4, good));
        ask(name + " more records", batch(codec.id, 2, good));
        ask(name + " a byte behind the records", batch(codec.id, 3, compress(codec, 2, cat(three(), bytes(0)))));
        ask(name + " large", batch(codec.id, 1, compress(codec, 2, record(cat(bytes(0, 0, 0), field("k"), field("value".repeat(4000)), bytes(0))))));
        for (CompressionType other : CompressionType.values()) if (other != codec) ask(name + " in name, " + other.name + " in truth", batch(codec.id, 3, compress(other, 2, three())));
    }

    static void gzip() {
        byte[] good = compress(CompressionType.GZIP, 2, three());
        int id = CompressionType.GZIP.id;
        byte[] head = Arrays.copyOf(good, 10), rest = Arrays.copyOfRange(good, 10, good.length);
        ask("gzip with a name", batch(id, 3, cat(set(head, 3, 8), "name\0".getBytes(), rest)));
        ask("gzip with a comment", batch(id, 3, cat(set(head, 3, 16), "comment\0".getBytes(), rest)));
        ask("gzip with extra", batch(id, 3, cat(set(head, 3, 4), bytes(3, 0, 1, 2, 3), rest)));
        ask("gzip with extra cut short", batch(id, 3, cat(set(head, 3, 4), bytes(255, 255, 1, 2, 3), rest)));
        byte[] withCrc = set(head, 3, 2);
        CRC32 crc = new CRC32();
        crc.update(withCrc);
        ask("gzip with header crc", batch(id, 3, cat(withCrc, bytes((int) crc.getValue() & 0xff, (int) crc.getValue() >> 8 & 0xff), rest)));
        ask("gzip with wrong header crc", batch(id, 3, cat(withCrc, bytes((int) crc.getValue() & 0xff ^ 1, (int) crc.getValue() >> 8 & 0xff), rest)));
        byte[] all = set(head, 3, 31);
        byte[] everything = cat(all, bytes(2, 0, 9, 9), "n\0c\0".getBytes());
        crc.reset();
        crc.update(everything);
        ask("gzip with everything", batch(id, 3, cat(everything, bytes((int) crc.getValue() & 0xff, (int) crc.getValue() >> 8 & 0xff), rest)));
        ask("gzip with reserved flags", batch(id, 3, cat(set(head, 3, 0xe0), rest)));
        ask("gzip with a name without end", batch(id, 3, cat(set(head, 3, 8), "name".getBytes())));
        for (int length = 1; length < 30; length++) {
            ask("gzip then " + length + " bytes of another", batch(id, 3, cat(good, Arrays.copyOf(good, length))));
            ask("gzip then " + length + " bytes, a magic first", batch(id, 3, cat(good, Arrays.copyOf(bytes(0x1f, 0x8b), length))));
            ask("gzip then " + length + " bytes, a magic and method first", batch(id, 3, cat(good, Arrays.copyOf(bytes(0x1f, 0x8b, 8), length))));
        }
        ask("gzip member of another method behind", batch(id, 3, cat(good, set(good, 2, 7))));
        ask("gzip member with a wrong crc behind", batch(id, 6, cat(good, flipped(compress(CompressionType.GZIP, 2, cat(record(3), record(4), record(5))), -8))));
        ask("gzip length wrong in the trailer", batch(id, 3, flipped(good, -1)));
        ask("gzip crc wrong in the trailer", batch(id, 3, flipped(good, -5)));
        ask("gzip stored blocks", batch(id, 3, cat(head, bytes(1, three().length, 0, ~three().length, 0xff), three(), Arrays.copyOfRange(good, good.length - 8, good.length))));
        ask("gzip with wrong stored length", batch(id, 3, cat(head, bytes(1, three().length, 0, three().length, 0xff), three(), Arrays.copyOfRange(good, good.length - 8, good.length))));
        ask("zlib instead of gzip", batch(id, 3, cat(bytes(0x78, 0x9c), rest)));
        ask("gzip of three empty members", batch(id, 3, cat(compress(CompressionType.GZIP, 2, NOTHING), compress(CompressionType.GZIP, 2, NOTHING), compress(CompressionType.GZIP, 2, NOTHING))));
    }

    static void snappy() throws Exception {
        int id = CompressionType.SNAPPY.id;
        byte[] raw = org.xerial.snappy.Snappy.compress(three());
        byte[] head = bytes(0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1);
        byte[] chunk = cat(ByteBuffer.allocate(4).putInt(raw.length).array(), raw);
        ask("snappy raw", batch(id, 3, raw));
        ask("snappy raw twice", batch(id, 3, cat(raw, raw)));
        ask("snappy raw cut", batch(id, 3, cut(raw, 1)));
        ask("snappy raw and a byte", batch(id, 3, cat(raw, bytes(0))));
        for (int at = 0; at < Math.min(raw.length, 16); at++) flip("snappy raw", CompressionType.SNAPPY, raw, at);
        ask("snappy raw that claims 2 GB", batch(id, 3, cat(bytes(0xff, 0xff, 0xff, 0xff, 7), Arrays.copyOfRange(raw, 1, raw.length))));
        ask("snappy raw that claims 4 GB", batch(id, 3, cat(bytes(0xff, 0xff, 0xff, 0xff, 0x0f), Arrays.copyOfRange(raw, 1, raw.length))));
        ask("snappy raw of nothing", batch(id, 3, bytes(0)));
        ask("snappy one chunk", batch(id, 3, cat(head, chunk)));
        ask("snappy header alone", batch(id, 3, head));
        for (int length = 1; length < 16; length++) ask("snappy header of " + length + " bytes", batch(id, 3, Arrays.copyOf(head, length)));
        ask("snappy version 0", batch(id, 3, cat(set(head, 11, 0), chunk)));
        ask("snappy version 2", batch(id, 3, cat(set(head, 11, 2), chunk)));
        ask("snappy version negative", batch(id, 3, cat(set(head, 8, 0xff), chunk)));
        ask("snappy compatible 0", batch(id, 3, cat(set(head, 15, 0), chunk)));
        ask("snappy compatible 9", batch(id, 3, cat(set(head, 15, 9), chunk)));
        ask("snappy chunk of nothing", batch(id, 3, cat(head, bytes(0, 0, 0, 0), chunk)));
        ask("snappy chunk of nothing last", batch(id, 3, cat(head, chunk, bytes(0, 0, 0, 0))));
        ask("snappy empty chunk", batch(id, 3, cat(head, bytes(0, 0, 0, 1, 0), chunk)));
        ask("snappy empty chunk last", batch(id, 3, cat(head, chunk, bytes(0, 0, 0, 1, 0))));
        ask("snappy chunk of negative length", batch(id, 3, cat(head, bytes(0xff, 0xff, 0xff, 0xff), chunk)));
        ask("snappy chunk of negative length last", batch(id, 3, cat(head, chunk, bytes(0xff, 0xff, 0xff, 0xff))));
        ask("snappy chunk longer than all", batch(id, 3, cat(head, set(chunk, 3, raw.length + 1))));
        ask("snappy chunk shorter than all", batch(id, 3, cat(head, set(chunk, 3, raw.length - 1))));
        ask("snappy chunk of 2 GB", batch(id, 3, cat(head, set(chunk, 0, 0x7f, 0xff, 0xff, 0xff))));
        ask("snappy header within", batch(id, 6, cat(head, chunk, head, cat(ByteBuffer.allocate(4).putInt(org.xerial.snappy.Snappy.compress(cat(record(3), record(4), record(5))).length).array(), org.xerial.snappy.Snappy.compress(cat(record(3), record(4), record(5)))))));
        ask("snappy header last", batch(id, 3, cat(head, chunk, head)));
        for (int length = 1; length < 16; length++) ask("snappy then " + length + " bytes of a header", batch(id, 3, cat(head, chunk, Arrays.copyOf(head, length))));
        ask("snappy two headers first", batch(id, 3, cat(head, head, chunk)));
    }

    static byte[] lz4Frame(int flags, int sizes, byte[] size, byte[]... blocks) {
        byte[] descriptor = cat(bytes(flags, sizes), size);
        int hash = net.jpountz.xxhash.XXHashFactory.fastestInstance().hash32().hash(descriptor, 0, descriptor.length, 0);
        return cat(bytes(0x04, 0x22, 0x4d, 0x18), descriptor, bytes(hash >> 8), cat(blocks));
    }

    static byte[] le(int value) { return bytes(value, value >> 8, value >> 16, value >> 24); }

    static byte[] stored(byte[] content) { return cat(le(content.length | 1 << 31), content); }

    static void lz4() {
        int id = CompressionType.LZ4.id;
        byte[] end = le(0), block = stored(three());
        byte[] packed = net.jpountz.lz4.LZ4Factory.fastestInstance().fastCompressor().compress(three());
        int blockHash = net.jpountz.xxhash.XXHashFactory.fastestInstance().hash32().hash(three(), 0, three().length, 0);
        int packedHash = net.jpountz.xxhash.XXHashFactory.fastestInstance().hash32().hash(packed, 0, packed.length, 0);
        ask("lz4 stored", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, block, end)));
        ask("lz4 packed", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, le(packed.length), packed, end)));
        for (int code = 0; code < 16; code++) ask("lz4 block size code " + code, batch(id, 3, lz4Frame(0x60, code << 4, NOTHING, block, end)));
        for (int bit = 0; bit < 8; bit++) ask("lz4 flag " + bit, batch(id, 3, lz4Frame(0x60 ^ 1 << bit, 0x40, NOTHING, block, end)));
        for (int bit = 0; bit < 4; bit++) ask("lz4 reserved size bit " + bit, batch(id, 3, lz4Frame(0x60, 0x40 | 1 << bit, NOTHING, block, end)));
        ask("lz4 without an end", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, block)));
        ask("lz4 with half an end", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, block, bytes(0, 0))));
        ask("lz4 with a stored end", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, block, le(1 << 31))));
        ask("lz4 with content checksum", batch(id, 3, lz4Frame(0x64, 0x40, NOTHING, block, end, le(blockHash))));
        ask("lz4 with wrong content checksum", batch(id, 3, lz4Frame(0x64, 0x40, NOTHING, block, end, le(blockHash ^ 1))));
        ask("lz4 without its content checksum", batch(id, 3, lz4Frame(0x64, 0x40, NOTHING, block, end)));
        ask("lz4 with content size", batch(id, 3, lz4Frame(0x68, 0x40, cat(le(three().length), le(0)), block, end)));
        ask("lz4 with wrong content size", batch(id, 3, lz4Frame(0x68, 0x40, cat(le(3), le(0)), block, end)));
        ask("lz4 with block checksum", batch(id, 3, lz4Frame(0x70, 0x40, NOTHING, block, le(blockHash), end)));
        ask("lz4 with wrong block checksum", batch(id, 3, lz4Frame(0x70, 0x40, NOTHING, block, le(blockHash ^ 1), end)));
        ask("lz4 packed with block checksum", batch(id, 3, lz4Frame(0x70, 0x40, NOTHING, le(packed.length), packed, le(packedHash), end)));
        ask("lz4 packed with the checksum of the content", batch(id, 3, lz4Frame(0x70, 0x40, NOTHING, le(packed.length), packed, le(blockHash), end)));
        ask("lz4 dependent blocks", batch(id, 3, lz4Frame(0x40, 0x40, NOTHING, block, end)));
        ask("lz4 block longer than all", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, le(three().length + 9 | 1 << 31), three())));
        ask("lz4 empty packed block", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, cat(le(1), bytes(0)), block, end)));
        ask("lz4 packed block of garbage", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, cat(le(5), bytes(0xff, 0xff, 0xff, 0xff, 0xff)), end)));
        ask("lz4 packed block that expands too far", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, cat(le(305), bytes(0x1f, 'x', 1, 0), new byte[0], filled(300, 0xff), bytes(0)), end)));
        ask("lz4 skippable frame first", batch(id, 3, cat(le(0x184d2a50), le(2), bytes(1, 2), lz4Frame(0x60, 0x40, NOTHING, block, end))));
        ask("lz4 record over two blocks", batch(id, 3, lz4Frame(0x60, 0x40, NOTHING, stored(Arrays.copyOf(three(), 20)), stored(Arrays.copyOfRange(three(), 20, three().length)), end)));
        ask("lz4 wrong header checksum", batch(id, 3, flipped(lz4Frame(0x60, 0x40, NOTHING, block, end), 6)));
    }

    static byte[] filled(int length, int value) {
        byte[] bytes = new byte[length];
        Arrays.fill(bytes, (byte) value);
        return bytes;
    }

    static byte[] zstdFrame(byte[] header, byte[]... content) { return cat(bytes(0x28, 0xb5, 0x2f, 0xfd), header, cat(content)); }

    static byte[] zstdRaw(byte[] content) {
        int head = content.length << 3 | 1;
        return cat(bytes(head, head >> 8, head >> 16), content);
    }

    static void zstd() throws Exception {
        int id = CompressionType.ZSTD.id;
        byte[] block = zstdRaw(three());
        ask("zstd raw block without content size", batch(id, 3, zstdFrame(bytes(0, 0), block)));
        ask("zstd single segment with content size", batch(id, 3, zstdFrame(bytes(0x20, three().length), block)));
        ask("zstd wrong content size", batch(id, 3, zstdFrame(bytes(0x20, three().length - 1), block)));
        ask("zstd larger content size", batch(id, 3, zstdFrame(bytes(0x20, three().length + 1), block)));
        for (int log = 10; log < 42; log += log < 20 ? 5 : 1) ask("zstd window of 2^" + log, batch(id, 3, zstdFrame(bytes(0, log - 10 << 3), block)));
        ask("zstd window a little above 2^27", batch(id, 3, zstdFrame(bytes(0, 17 << 3 | 1), block)));
        ask("zstd reserved bit", batch(id, 3, zstdFrame(bytes(8, 0), block)));
        ask("zstd unused bit", batch(id, 3, zstdFrame(bytes(16, 0), block)));
        ask("zstd dictionary", batch(id, 3, zstdFrame(bytes(1, 0, 7), block)));
        ask("zstd dictionary 0", batch(id, 3, zstdFrame(bytes(1, 0, 0), block)));
        ask("zstd with wrong checksum", batch(id, 3, zstdFrame(bytes(4, 0), block, le(7))));
        ask("zstd without its checksum", batch(id, 3, zstdFrame(bytes(4, 0), block)));
        byte[] skippable = cat(le(0x184d2a53), le(3), bytes(1, 2, 3));
        byte[] good = zstdFrame(bytes(0, 0), block);
        ask("zstd skippable frame first", batch(id, 3, cat(skippable, good)));
        ask("zstd skippable frame last", batch(id, 3, cat(good, skippable)));
        ask("zstd skippable frame cut", batch(id, 3, cat(good, cut(skippable, 1))));
        ask("zstd skippable frame alone", batch(id, 3, skippable));
        ask("zstd reserved block type", batch(id, 3, zstdFrame(bytes(0, 0), bytes(7, 0, 0), three())));
        ask("zstd no last block", batch(id, 3, zstdFrame(bytes(0, 0), set(block, 0, block[0] & ~1))));
        ask("zstd block longer than all", batch(id, 3, zstdFrame(bytes(0, 0), cut(block, 1))));
        ask("zstd repeated byte", batch(id, 3, zstdFrame(bytes(0, 0), bytes(0x23, 0, 0, 7))));
        ask("zstd legacy 0.7", batch(id, 3, cat(bytes(0x27, 0xb5, 0x2f, 0xfd), bytes(0, 0), block)));
        ask("zstd many empty frames first", batch(id, 3, cat(zstdFrame(bytes(0, 0), bytes(1, 0, 0)), zstdFrame(bytes(0, 0), bytes(1, 0, 0)), good)));
        ask("zstd half a magic behind", batch(id, 3, cat(good, bytes(0x28, 0xb5))));
        ask("zstd half a header behind", batch(id, 3, cat(good, bytes(0x28, 0xb5, 0x2f, 0xfd, 0))));
        ask("zstd with checksum", batch(id, 3, com.github.luben.zstd.Zstd.compress(three(), 3)));
    }

    static byte[] body(CompressionType codec, byte[] records) { return codec == CompressionType.NONE ? records : compress(codec, 2, records); }

    static byte[] deltas(int... deltas) {
        byte[][] records = new byte[deltas.length][];
        for (int i = 0; i < deltas.length; i++) records[i] = record(deltas[i]);
        return cat(records);
    }

    // Records that are not what they should be.
    static void records(CompressionType codec) {
        String name = codec.name + " records: ";
        int id = codec.id;
        byte[] zero = bytes(0, 0, 0);
        byte[] key = field("key"), value = field("value"), none = bytes(0);
        Object[][] single = {
            {"plain", record(cat(zero, key, value, none))},
            {"null key and value", record(cat(zero, bytes(1, 1), none))},
            {"key of length -2", record(cat(zero, varint(-2), value, none))},
            {"value of length -2", record(cat(zero, key, varint(-2), none))},
            {"key of length -2^31", record(cat(zero, varint(Integer.MIN_VALUE), value, none))},
            {"key longer than the record", record(cat(zero, varint(50), value, none))},
            {"key longer than the record by one", record(cat(zero, varint(8), key, none))},
            {"value longer than the record", record(cat(zero, key, varint(50), none))},
            {"value of 2 GB", record(cat(zero, key, varint(Integer.MAX_VALUE), none))},
            {"no headers at all", record(cat(zero, key, value))},
            {"-1 headers", record(cat(zero, key, value, varint(-1)))},
            {"1 header of none", record(cat(zero, key, value, varint(1)))},
            {"2^31 - 1 headers", record(cat(zero, key, value, varint(Integer.MAX_VALUE)))},
            {"a header", record(cat(zero, key, value, varint(1), field("h"), field("v")))},
            {"a header with null value", record(cat(zero, key, value, varint(1), field("h"), bytes(1)))},
            {"a header with null key", record(cat(zero, key, value, varint(1), bytes(1), field("v")))},
            {"a header with an empty key", record(cat(zero, key, value, varint(1), bytes(0), field("v")))},
            {"a header with key of length -2", record(cat(zero, key, value, varint(1), varint(-2), field("v")))},
            {"a header with value of length -2", record(cat(zero, key, value, varint(1), field("h"), varint(-2)))},
            {"a header key beyond the record", record(cat(zero, key, value, varint(1), varint(9), bytes('h')))},
            {"a header value beyond the record", record(cat(zero, key, value, varint(1), field("h"), varint(9), bytes('v')))},
            {"a header key that is no text", record(cat(zero, key, value, varint(1), varint(2), bytes(0xff, 0xfe), bytes(1)))},
            {"a byte behind the headers", record(cat(zero, key, value, none, bytes(0)))},
            {"attributes", record(cat(bytes(0xff, 0, 0), key, value, none))},
            {"length 0", bytes(0)},
            {"length 1", bytes(2, 0)},
            {"length 5", record(zero)},
            {"length -1", cat(varint(-1), zero, key, value, none)},
            {"length -2^31", cat(varint(Integer.MIN_VALUE), zero, key, value, none)},
            {"longer by one", cat(varint(3 + 4 + 6 + 1 + 1), zero, key, value, none)},
            {"shorter by one", cat(varint(3 + 4 + 6 + 1 - 1), zero, key, value, none)},
            {"length of 2 GB", cat(varint(Integer.MAX_VALUE), zero, key, value, none)},
            {"length in five bytes", cat(bytes(0x9c, 0x80, 0x80, 0x80, 0), zero, key, value, none)},
            {"length in six bytes", cat(bytes(0x9c, 0x80, 0x80, 0x80, 0x80, 0), zero, key, value, none)},
            {"length with more than 32 bits", cat(bytes(0x9c, 0x80, 0x80, 0x80, 0x70), zero, key, value, none)},
            {"no bytes", NOTHING},
            {"half a length", bytes(0x80)},
            {"key length in five bytes", record(cat(zero, bytes(0x86, 0x80, 0x80, 0x80, 0), "key".getBytes(), value, none))},
            {"key length in six bytes", record(cat(zero, bytes(0x86, 0x80, 0x80, 0x80, 0x80, 0), "key".getBytes(), value, none))},
            {"offset in five bytes", record(cat(bytes(0, 0), bytes(0x80, 0x80, 0x80, 0x80, 0), key, value, none))},
            {"offset in six bytes", record(cat(bytes(0, 0), bytes(0x80, 0x80, 0x80, 0x80, 0x80, 0), key, value, none))},
            {"timestamp in ten bytes", record(cat(bytes(0), bytes(0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0), none, key, value, none))},
            {"timestamp in eleven bytes", record(cat(bytes(0), bytes(0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0), none, key, value, none))},
            {"timestamp with more than 64 bits", record(cat(bytes(0), bytes(0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f), none, key, value, none))},
            {"timestamp of 2^63 - 1 more", record(cat(bytes(0), varint(Long.MAX_VALUE), none, key, value, none))},
            {"timestamp before 1970", record(cat(bytes(0), varint(-5000), none, key, value, none))},
            {"offset of 2^31 - 1", record(cat(bytes(0, 0), varint(Integer.MAX_VALUE), key, value, none))},
            {"offset of -1", record(cat(bytes(0, 0), varint(-1), key, value, none))},
        };
        for (Object[] one : single) {
            ask(name + one[0], batch(id, 1, body(codec, (byte[]) one[1])));
            ask(name + one[0] + ", then two good", batch(id, 3, body(codec, cat((byte[]) one[1], record(1), record(2)))));
        }
        ask(name + "three, but two declared", batch(id, 2, body(codec, three())));
        ask(name + "three, but four declared", batch(id, 4, body(codec, three())));
        ask(name + "three, but none declared", batch(id, 0, body(codec, three())));
        ask(name + "none, and none declared", batch(id, 0, body(codec, NOTHING)));
        ask(name + "none, and none declared, offsets of one", batch(id, 0, 0, body(codec, NOTHING)));
        ask(name + "three, but -1 declared", batch(id, -1, body(codec, three())));
        ask(name + "three, but -1 declared, offsets of three", batch(id, -1, 2, body(codec, three())));
        ask(name + "three, but 2^31 - 1 declared", batch(id, Integer.MAX_VALUE, body(codec, three())));
        ask(name + "three, offsets of four", batch(id, 3, 3, body(codec, three())));
        ask(name + "three, offsets of two", batch(id, 3, 1, body(codec, three())));
        ask(name + "three, last offset 2^31 - 1", batch(id, 3, Integer.MAX_VALUE, body(codec, three())));
        ask(name + "a gap", batch(id, 3, body(codec, deltas(0, 1, 3))));
        ask(name + "a gap, last offset right", batch(id, 3, 3, body(codec, deltas(0, 1, 3))));
        ask(name + "offsets from 1 on", batch(id, 3, body(codec, deltas(1, 2, 3))));
        ask(name + "offsets backwards", batch(id, 3, body(codec, deltas(2, 1, 0))));
        ask(name + "offsets all the same", batch(id, 3, body(codec, deltas(0, 0, 0))));
        ask(name + "offsets negative", batch(id, 3, body(codec, deltas(-3, -2, -1))));
        ask(name + "a byte behind the records", batch(id, 3, body(codec, cat(three(), bytes(0)))));
        ask(name + "cut by one", batch(id, 3, body(codec, cut(three(), 1))));
    }

    // Batches whose heads are not what they should be.
    static void headers() {
        byte[] good = batch(0, 3, three());
        for (int bit = 0; bit < 16; bit++) ask("head: attribute bit " + bit, batch(1 << bit, 3, three()));
        for (int codec = 5; codec < 8; codec++) ask("head: codec " + codec, batch(codec, 3, three()));
        for (int at = 0; at < 61; at++) ask("head: byte " + at + " flipped", flipped(good, at));
        for (int at = 0; at < 61; at++) if (at < 17 || at > 20) ask("head: byte " + at + " changed", sealed(flipped(good, at)));
        ask("head: base offset 1", set(good, 7, 1));
        ask("head: base offset -1", set(good, 0, 255, 255, 255, 255, 255, 255, 255, 255));
        for (int size : new int[] {-1, 0, 13, 14, 48, 49, 49 + three().length - 1, 49 + three().length + 1, Integer.MAX_VALUE}) {
            byte[] sized = good.clone();
            ByteBuffer.wrap(sized).putInt(8, size);
            ask("head: size " + size, sized);
        }
        for (int magic : new int[] {-1, 0, 1, 3, 4, 127}) ask("head: magic " + magic, sealed(set(good, 16, magic)));
        for (int length = 0; length < good.length; length++) ask("head: first " + length + " bytes", Arrays.copyOf(good, length));
        ask("head: two batches", cat(good, good));
        for (int more : new int[] {1, 11, 12, 13, 16, 17, 18, 60, 61, 62, 80}) ask("head: then " + more + " bytes of another", cat(good, Arrays.copyOf(good, more)));
        for (int more : new int[] {1, 11, 12, 13, 17, 18, 61, 80}) ask("head: then " + more + " zeros", cat(good, new byte[more]));
        for (int more : new int[] {1, 11, 12, 13, 17, 18, 61, 80}) ask("head: then " + more + " ff", cat(good, filled(more, 0xff)));
        ask("head: log append time", batch(8, 3, three()));
        ask("head: control", batch(32, 3, three()));
        ask("head: transactional without a producer", batch(16, 3, three()));
        ask("head: delete horizon", batch(64, 3, three()));
        ask("head: producer id without sequence", sealed(set(good, 43, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0)));
        ask("head: producer id without epoch", sealed(set(good, 43, 0, 0, 0, 0, 0, 0, 0, 10, 255, 255, 0, 0, 0, 0)));
        ask("head: producer id, epoch and sequence", sealed(set(good, 43, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0)));
        ask("head: producer id -2", sealed(set(good, 43, 255, 255, 255, 255, 255, 255, 255, 254, 0, 0, 0, 0, 0, 0)));
        ask("head: first sequence is 7", sealed(set(good, 43, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 7)));
        ask("head: sequence without producer id", sealed(set(good, 53, 0, 0, 0, 0)));
        ask("head: largest timestamp too small", sealed(set(good, 35, 0, 0, 0, 0, 0, 0, 0, 0)));
        ask("head: largest timestamp too large", sealed(set(good, 35, 0x7f, 0, 0, 0, 0, 0, 0, 0)));
        ask("head: no date", sealed(set(good, 27, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255)));
        ask("head: a date before none", sealed(set(good, 27, 255, 255, 255, 255, 255, 255, 255, 200)));
        for (int version : new int[] {0, 1, 2, 3, 6, 7, 8}) {
            ask("version " + version + ": plain", version, good);
            ask("version " + version + ": two batches", version, cat(good, good));
            ask("version " + version + ": nothing", version, NOTHING);
            ask("version " + version + ": zstd", version, batch(4, 3, compress(CompressionType.ZSTD, 2, three())));
            ask("version " + version + ": snappy", version, batch(2, 3, compress(CompressionType.SNAPPY, 2, three())));
            ask("version " + version + ": old", version, message(1, 0, 0, "key".getBytes(), "value".getBytes()));
        }
    }

    static byte[] nullable(byte[] field) { return field == null ? le(-1) : cat(ByteBuffer.allocate(4).putInt(field.length).array(), field); }

    static byte[] message(int magic, int attributes, long offset, byte[] key, byte[] value) { return message(magic, attributes, offset, 1000, key, value); }

    static byte[] message(int magic, int attributes, long offset, long timestamp, byte[] key, byte[] value) {
        byte[] date = magic == 0 ? NOTHING : ByteBuffer.allocate(8).putLong(timestamp).array();
        byte[] content = cat(bytes(magic, attributes), date, nullable(key), nullable(value));
        CRC32 crc = new CRC32();
        crc.update(content);
        return ByteBuffer.allocate(16 + content.length).putLong(offset).putInt(4 + content.length).putInt((int) crc.getValue()).put(content).array();
    }

    static byte[] recrc(byte[] message) {
        CRC32 crc = new CRC32();
        crc.update(message, 16, message.length - 16);
        ByteBuffer.wrap(message).putInt(12, (int) crc.getValue());
        return message;
    }

    // Message sets of magic 0 and 1, which Produce 0 to 2 bring.
    static void old() {
        byte[] k = "key".getBytes(), v = "value".repeat(10).getBytes();
        for (int magic = 0; magic < 2; magic++) {
            String name = "v" + magic + " ";
            byte[] one = message(magic, 0, 0, k, v), two = message(magic, 0, 1, k, v), three = message(magic, 0, 2, k, v);
            byte[] set = cat(one, two, three);
            old(name + "set", set);
            old(name + "one", one);
            old(name + "null key and value", message(magic, 0, 0, null, null));
            old(name + "wrong crc", flipped(one, 12));
            old(name + "second with a wrong crc", cat(one, flipped(two, 12)));
            old(name + "cut", cut(set, 1));
            old(name + "cut to one and a half", cut(set, 100));
            old(name + "key of length -2", recrc(set(one, magic == 0 ? 18 : 26, 255, 255, 255, 254)));
            old(name + "key too long", recrc(set(one, magic == 0 ? 18 : 26, 0, 0, 1, 0)));
            old(name + "value too long", recrc(set(one, magic == 0 ? 25 : 33, 0, 0, 1, 0)));
            old(name + "value too short", recrc(set(one, magic == 0 ? 25 : 33, 0, 0, 0, 1)));
            old(name + "value of length -2", recrc(set(one, magic == 0 ? 25 : 33, 255, 255, 255, 254)));
            old(name + "codec 5", recrc(set(one, 17, 5)));
            old(name + "log append time", recrc(set(one, 17, 8)));
            old(name + "attribute bits", recrc(set(one, 17, 0xf0)));
            old(name + "two magics", cat(one, message(1 - magic, 0, 1, k, v)));
            old(name + "and a v2 batch", cat(one, batch(0, 3, three())));
            old(name + "offsets backwards", cat(three, two, one));
            old(name + "offsets all the same", cat(one, one, one));
            old(name + "no date", message(magic, 0, 0, -1, k, v));
            old(name + "a date before none", message(magic, 0, 0, -5, k, v));
            for (CompressionType codec : CompressionType.values()) {
                if (codec == CompressionType.NONE) continue;
                String with = name + codec.name + " ";
                byte[] packed;
                try { packed = compress(codec, magic, set); } catch (Throwable e) { packed = compress(codec, 2, set); }
                final byte[] good = packed;
                old(with + "whole", message(magic, codec.id, 2, null, good));
                old(with + "twice", cat(message(magic, codec.id, 2, null, good), message(magic, codec.id, 5, null, good)));
                old(with + "and a plain one", cat(message(magic, codec.id, 2, null, good), one));
                old(with + "after a plain one", cat(one, message(magic, codec.id, 2, null, good)));
                old(with + "with a key", message(magic, codec.id, 2, k, good));
                old(with + "offset 0", message(magic, codec.id, 0, null, good));
                old(with + "offset 1", message(magic, codec.id, 1, null, good));
                old(with + "offset 9", message(magic, codec.id, 9, null, good));
                old(with + "null value", message(magic, codec.id, 2, null, null));
                old(with + "empty value", message(magic, codec.id, 2, null, NOTHING));
                old(with + "cut", message(magic, codec.id, 2, null, cut(good, 1)));
                old(with + "cut in half", message(magic, codec.id, 2, null, cut(good, good.length / 2)));
                old(with + "no stream", message(magic, codec.id, 2, null, set));
                for (int at : new int[] {0, 4, 6, 10, good.length / 2, good.length - 5, good.length - 1})
                    if (at < good.length) old(with + "flipped at " + at, message(magic, codec.id, 2, null, flipped(good, at)));
                if (codec == CompressionType.ZSTD) continue;
                Inner inner = content -> message(magicOf(name), codec.id, 2, null, compress(codec, magicOf(name), content));
                old(with + "of none", inner.of(NOTHING));
                old(with + "inner of the other magic", inner.of(cat(one, two, message(1 - magic, 0, 2, k, v))));
                old(with + "inner wrong crc", inner.of(cat(one, flipped(two, 12), three)));
                old(with + "inner cut", inner.of(cut(set, 1)));
                old(with + "inner cut to a head", inner.of(cat(one, two, Arrays.copyOf(three, 12))));
                old(with + "inner size 13", inner.of(cat(one, set(two, 8, 0, 0, 0, 13))));
                old(with + "inner size -1", inner.of(cat(one, set(two, 8, 255, 255, 255, 255))));
                old(with + "inner size of 2 GB", inner.of(cat(one, set(two, 8, 0x7f, 255, 255, 255))));
                old(with + "inner compressed", inner.of(message(magic, codec.id, 2, null, good)));
                old(with + "inner offsets backwards", inner.of(cat(three, two, one)));
                old(with + "inner offsets all 0", inner.of(cat(one, one, one)));
                old(with + "inner offsets with a gap", inner.of(cat(one, three)));
                old(with + "inner key too long", inner.of(cat(one, recrc(set(two, magic == 0 ? 18 : 26, 0, 0, 1, 0)))));
                old(with + "inner key of length -2", inner.of(cat(one, recrc(set(two, magic == 0 ? 18 : 26, 255, 255, 255, 254)))));
                old(with + "inner codec 5", inner.of(cat(one, recrc(set(two, 17, 5)))));
                old(with + "inner log append time", inner.of(cat(one, recrc(set(two, 17, 8)))));
                old(with + "a byte behind the stream", message(magic, codec.id, 2, null, cat(good, bytes('x'))));
                old(with + "a byte behind the messages", inner.of(cat(set, bytes(0))));
            }
            if (magic == 0) {
                old("v0 lz4 with the checksum of v1", message(0, CompressionType.LZ4.id, 2, null, compress(CompressionType.LZ4, 1, set)));
            } else {
                old("v1 lz4 with the checksum of v0", message(1, CompressionType.LZ4.id, 2, null, compress(CompressionType.LZ4, 0, set)));
            }
        }
    }

    interface Inner { byte[] of(byte[] content); }

    static int magicOf(String name) { return name.charAt(1) - '0'; }

    static void old(String name, byte[] set) { ask(name, 2, set); }
}
