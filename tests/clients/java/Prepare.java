import java.util.*;
import org.apache.kafka.clients.admin.*;

/** Creates the topics given as NAME:PARTITIONS by the admin client. java Prepare BOOTSTRAP NAME:PARTITIONS... */
public class Prepare {
    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            List<NewTopic> topics = new ArrayList<>();
            for (String topic : Arrays.asList(arguments).subList(1, arguments.length)) {
                String[] parts = topic.split(":");
                topics.add(new NewTopic(parts[0], Integer.parseInt(parts[1]), (short) 1));
            }
            admin.createTopics(topics).all().get();
        }
    }
}
