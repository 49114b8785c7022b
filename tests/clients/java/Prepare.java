import java.util.*;
import org.apache.kafka.clients.admin.*;

/** Creates the topics given as NAME:PARTITIONS by the admin client, with as many replicas as the broker says. java Prepare BOOTSTRAP NAME:PARTITIONS... */
public class Prepare {
    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            List<NewTopic> topics = new ArrayList<>();
            for (String topic : Arrays.asList(arguments).subList(1, arguments.length)) {
                String[] parts = topic.split(":");
                topics.add(new NewTopic(parts[0], Optional.of(Integer.parseInt(parts[1])), Optional.empty()));
            }
            admin.createTopics(topics).all().get();
        }
    }
}
