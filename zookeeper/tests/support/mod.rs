//! A real ZooKeeper server, and a proxy before it that can be cut like a network cable.
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::settings::{Settings, Tls};
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

/// The server's tick; sessions may be as short as two of them.
const TICK_MS: u32 = 250;
/// Source: ZooKeeper 3.8.4 ClientCnxn.java, NOTIFICATION_XID.
const NOTIFICATION_XID: i32 = -1;
pub const SESSION_TIMEOUT: Duration = Duration::from_millis(1000);

pub struct Server {
    process: Child,
    port: u16,
    data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What tests/deps.sh installed under this name.
fn jars(name: &str) -> PathBuf {
    let deps = std::env::var_os("ODRADEK_TEST_DEPS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/test-deps"), PathBuf::from);
    let dir = deps.join(name);
    assert!(
        std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()),
        "no ZooKeeper jars in {}: run tests/deps.sh, which installs them",
        dir.display()
    );
    dir
}

impl Server {
    /// One server for all tests that run at the same time; each uses a chroot of its own.
    pub fn shared() -> Arc<Server> {
        static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        running.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start(""));
            *running = Arc::downgrade(&server);
            server
        })
    }

    /// A server of its own, of the version that was installed as `zookeeper-<version>`.
    pub fn of_version(version: &str) -> Server {
        let data = tempfile::tempdir().expect("a temporary directory");
        Server::run(&format!("zookeeper-{version}"), data, free_port(), &[], "clientPort")
    }

    /// A server of its own that knows one user.
    pub fn with_user(name: &str, password: &str) -> Server {
        Server::start(&format!(
            "Server {{ org.apache.zookeeper.server.auth.DigestLoginModule required user_{name}=\"{password}\"; }};"
        ))
    }

    fn start(jaas: &str) -> Server {
        let data = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let jaas_file = data.path().join("jaas.conf");
        std::fs::write(&jaas_file, jaas).expect("a writable directory");
        let security = match jaas {
            "" => Vec::new(),
            _ => vec![
                format!("-Djava.security.auth.login.config={}", jaas_file.display()),
                "-Dzookeeper.authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider".to_owned(),
            ],
        };
        Server::run("zookeeper", data, port, &security, "clientPort")
    }

    /// A server of its own that speaks TLS only and has a certificate for 127.0.0.1. `client_auth` is `none` or `need`.
    pub fn with_tls(client_auth: &str) -> Server {
        let data = tempfile::tempdir().expect("a temporary directory");
        for (name, san) in [("server", "ip:127.0.0.1"), ("client", "dns:client")] {
            make_certificate(data.path(), name, san);
        }
        let client = data.path().join("client.crt");
        keytool(data.path(), "truststore", "client", &["-importcert", "-noprompt", "-file", &client.to_string_lossy()]);
        let store = |name: &str| data.path().join(name).with_extension("p12").display().to_string();
        let security = [
            "-Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned(),
            format!("-Dzookeeper.ssl.keyStore.location={}", store("server")),
            format!("-Dzookeeper.ssl.keyStore.password={STORE_PASSWORD}"),
            format!("-Dzookeeper.ssl.trustStore.location={}", store("truststore")),
            format!("-Dzookeeper.ssl.trustStore.password={STORE_PASSWORD}"),
            format!("-Dzookeeper.ssl.clientAuth={client_auth}"),
        ];
        Server::run("zookeeper", data, free_port(), &security, "secureClientPort")
    }

    fn run(jars_of: &str, data: tempfile::TempDir, port: u16, security: &[String], port_setting: &str) -> Server {
        let config = data.path().join("zoo.cfg");
        let text = format!(
            "dataDir={}\n{port_setting}={port}\ntickTime={TICK_MS}\n4lw.commands.whitelist=srvr\n",
            data.path().display()
        );
        std::fs::write(&config, text).expect("a writable directory");
        let process = Command::new("java")
            .args(["-Xmx128m", "-Dzookeeper.admin.enableServer=false", "-Dzookeeper.forceSync=no"])
            .args(security)
            .arg("-cp")
            .arg(jars(jars_of).join("*"))
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("java starts; install a Java runtime");
        Server { process, port, data }
    }

    /// How many packets the server has received, this question among them.
    pub async fn received(&self) -> u64 {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.expect("the server runs");
        socket.write_all(b"srvr").await.expect("it takes the question");
        let mut said = String::new();
        socket.read_to_string(&mut said).await.expect("it answers in text");
        let line = said.lines().find_map(|line| line.strip_prefix("Received: "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("it said: {said}"))
    }

    /// What a client of a server with TLS is told; `client` says whether it has a certificate.
    pub fn tls(&self, client: bool) -> Tls {
        let pem = |name: &str| std::fs::read_to_string(self.data.path().join(name)).expect("it was made at the start");
        Tls {
            truststore_pem: pem("server.crt"),
            keystore_pem: client.then(|| (pem("client.crt"), pem("client.key"))),
            verify_hostname: true,
        }
    }

    pub fn settings(&self, chroot: &str) -> Settings {
        settings(self.port, chroot)
    }

    pub async fn connect(&self, chroot: &str) -> ZooKeeper {
        ZooKeeper::connect(self.settings(chroot)).await.expect("the server answers")
    }

    /// A session that runs through a proxy.
    pub async fn connect_through_proxy(&self, chroot: &str) -> (ZooKeeper, Proxy) {
        self.connect_through_narrow_proxy(chroot, u32::MAX).await
    }

    /// A session that runs through a proxy, which closes the connection for an answer of more than so many bytes.
    pub async fn connect_through_narrow_proxy(&self, chroot: &str, answer_bytes_max: u32) -> (ZooKeeper, Proxy) {
        let proxy = Proxy::start(self.port, answer_bytes_max).await;
        let zk = ZooKeeper::connect(settings(proxy.port, chroot)).await.expect("the server answers");
        (zk, proxy)
    }
}

const STORE_PASSWORD: &str = "store-password";

/// Prints the private key of a key store, which keytool does not.
const PRINT_KEY: &str = r#"
public class PrintKey {
    public static void main(String[] arguments) throws Exception {
        char[] password = arguments[1].toCharArray();
        var store = java.security.KeyStore.getInstance(new java.io.File(arguments[0]), password);
        byte[] key = store.getKey(arguments[2], password).getEncoded();
        System.out.println("-----BEGIN PRIVATE KEY-----");
        System.out.println(java.util.Base64.getMimeEncoder(64, new byte[] {10}).encodeToString(key));
        System.out.println("-----END PRIVATE KEY-----");
    }
}
"#;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// Runs a command on the key store of that name, and gives what it prints.
fn keytool(dir: &Path, store: &str, alias: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("keytool");
    command.args(arguments).args(["-alias", alias, "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]);
    printed(command.arg("-keystore").arg(dir.join(store).with_extension("p12")))
}

fn printed(command: &mut Command) -> String {
    let output = command.output().expect("the tool starts; install a JDK");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A key pair with a certificate signed by itself: NAME.p12, NAME.crt and NAME.key.
fn make_certificate(dir: &Path, name: &str, subject_alternative_name: &str) {
    let (subject, extension) = (format!("CN={name}"), format!("san={subject_alternative_name}"));
    let pair = ["-genkeypair", "-keyalg", "RSA", "-keysize", "2048", "-dname", &subject, "-ext", &extension];
    keytool(dir, name, name, &pair);
    let certificate = keytool(dir, name, name, &["-exportcert", "-rfc"]);
    std::fs::write(dir.join(name).with_extension("crt"), certificate).expect("a writable directory");
    let program = dir.join("PrintKey.java");
    std::fs::write(&program, PRINT_KEY).expect("a writable directory");
    let store = dir.join(name).with_extension("p12");
    let key = printed(Command::new("java").arg(&program).arg(store).args([STORE_PASSWORD, name]));
    std::fs::write(dir.join(name).with_extension("key"), key).expect("a writable directory");
}

fn settings(port: u16, chroot: &str) -> Settings {
    Settings {
        session_timeout: SESSION_TIMEOUT,
        connection_timeout: Duration::from_secs(60),
        ..Settings::new(format!("127.0.0.1:{port}{chroot}"))
    }
}

pub struct Proxy {
    port: u16,
    open: watch::Sender<Open>,
    cut_short: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Not,
    Whole,
    /// A connection passes so many requests, and is ended when they have been answered.
    ForRequests(usize),
}

impl Proxy {
    async fn start(target: u16, answer_bytes_max: u32) -> Proxy {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let (open, is_open) = watch::channel(Open::Whole);
        let cut_short = Arc::new(Notify::new());
        let has_cut_short = Arc::clone(&cut_short);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut is_open, has_cut_short) = (is_open.clone(), Arc::clone(&has_cut_short));
                let requests_max = match *is_open.borrow() {
                    Open::Not => continue,
                    Open::Whole => None,
                    Open::ForRequests(requests) => Some(requests),
                };
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    for stream in [&client, &server] {
                        stream.set_nodelay(true).expect("it is a socket");
                    }
                    let ((mut asks, mut hears), (mut answers, mut listens)) = (client.split(), server.split());
                    if let Some(requests) = requests_max {
                        pass_requests(&mut asks, &mut listens, requests).await;
                        pass_answers(&mut answers, &mut hears, requests).await;
                        // What the client has sent besides is read, or it might lose what it has not read yet.
                        let _ = hears.shutdown().await;
                        let _ = copy(&mut asks, &mut tokio::io::sink()).await;
                        has_cut_short.notify_one();
                        return;
                    }
                    tokio::select! {
                        _ = copy(&mut asks, &mut listens) => {}
                        _ = copy_answers(&mut answers, &mut hears, answer_bytes_max) => {}
                        _ = is_open.wait_for(|open| *open == Open::Not) => {}
                    }
                });
            }
        });
        Proxy { port, open, cut_short }
    }

    /// Breaks every connection and refuses new ones.
    pub fn cut(&self) {
        self.open.send_replace(Open::Not);
    }

    pub fn mend(&self) {
        self.open.send_replace(Open::Whole);
    }

    /// Lets the client connect again, and returns when its connection has ended behind the answers to its first requests.
    pub async fn mend_for_requests(&self, requests: usize) {
        self.open.send_replace(Open::ForRequests(requests));
        self.cut_short.notified().await;
    }
}

async fn pass_requests(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), requests: usize) {
    for _ in 0..requests {
        let Ok(bytes) = from.read_u32().await else { return };
        let _ = to.write_u32(bytes).await;
        let _ = copy(&mut (&mut *from).take(u64::from(bytes)), to).await;
    }
}

/// The first answers the connect request, and has no header; what tells of a change is no answer.
async fn pass_answers(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), answers: usize) {
    let mut passed = 0;
    while passed < answers {
        let (Ok(bytes), Ok(first)) = (from.read_u32().await, from.read_i32().await) else { return };
        let _ = to.write_u32(bytes).await;
        let _ = to.write_i32(first).await;
        let _ = copy(&mut (&mut *from).take(u64::from(bytes) - 4), to).await;
        passed += usize::from(passed == 0 || first != NOTIFICATION_XID);
    }
}

/// Every answer begins with its length.
async fn copy_answers(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    bytes_max: u32,
) -> std::io::Result<()> {
    loop {
        let bytes = from.read_u32().await?;
        if bytes > bytes_max {
            return Ok(());
        }
        to.write_u32(bytes).await?;
        copy(&mut (&mut *from).take(u64::from(bytes)), to).await?;
    }
}

/// Waits until `probe` returns a value; fails with what it saw last.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => panic!("{what} did not happen within 30 s; last seen: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
