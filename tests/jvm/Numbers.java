import java.util.*;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.source.*;

/** A Connect source that counts: each of its tasks from 0 on, a number a record, from where it was when it starts again. */
public class Numbers extends SourceConnector {
    static final int NUMBERS_A_POLL = 10;
    static final long MILLIS_A_POLL = 100;
    private Map<String, String> settings;

    @Override public void start(Map<String, String> settings) { this.settings = settings; }
    @Override public void stop() { }
    @Override public String version() { return "1"; }
    @Override public ConfigDef config() { return new ConfigDef().define("topic", ConfigDef.Type.STRING, ConfigDef.Importance.HIGH, "Where the numbers go."); }
    @Override public Class<? extends Task> taskClass() { return Counting.class; }
    @Override public ExactlyOnceSupport exactlyOnceSupport(Map<String, String> settings) { return ExactlyOnceSupport.SUPPORTED; }

    @Override
    public List<Map<String, String>> taskConfigs(int tasks) {
        List<Map<String, String>> all = new ArrayList<>();
        for (int task = 0; task < tasks; task++) all.add(Map.of("topic", settings.get("topic"), "name", "t" + task));
        return all;
    }

    public static class Counting extends SourceTask {
        private String topic, name;
        private long next;

        @Override
        public void start(Map<String, String> settings) {
            topic = settings.get("topic");
            name = settings.get("name");
            Map<String, Object> offset = context.offsetStorageReader().offset(Map.of("name", name));
            next = offset == null ? 0 : (Long) offset.get("number") + 1;
        }

        @Override
        public List<SourceRecord> poll() throws InterruptedException {
            Thread.sleep(MILLIS_A_POLL);
            List<SourceRecord> records = new ArrayList<>();
            for (int i = 0; i < NUMBERS_A_POLL; i++, next++)
                records.add(new SourceRecord(Map.of("name", name), Map.of("number", next), topic, Schema.STRING_SCHEMA, name, Schema.STRING_SCHEMA, "" + next));
            return records;
        }

        @Override public void stop() { }
        @Override public String version() { return "1"; }
    }
}
