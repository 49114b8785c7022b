import java.net.InetAddress;

/** Prints the name that a JVM broker advertises for a listener without a host. */
public class LocalHost {
    public static void main(String[] arguments) throws Exception {
        System.out.println(InetAddress.getLocalHost().getCanonicalHostName());
    }
}
