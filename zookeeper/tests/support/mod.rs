//! A real ZooKeeper server, and a proxy before it that can be cut like a network cable.
use odradek_zookeeper::session::{Settings, ZooKeeper};
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The server's tick; sessions may be as short as two of them.
const TICK_MS: u32 = 250;
pub const SESSION_TIMEOUT: Duration = Duration::from_millis(1000);

pub struct Server {
    process: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn jars() -> PathBuf {
    let dir = std::env::var_os("ODRADEK_ZOOKEEPER_JARS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/test-deps/zookeeper"), PathBuf::from);
    assert!(
        std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()),
        "no ZooKeeper jars in {}: run tests/run.sh, which installs them, or set ODRADEK_ZOOKEEPER_JARS to a directory \
         with org.apache.zookeeper:zookeeper:3.8.4 and its dependencies",
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

    /// A server of its own that knows one user.
    pub fn with_user(name: &str, password: &str) -> Server {
        Server::start(&format!(
            "Server {{ org.apache.zookeeper.server.auth.DigestLoginModule required user_{name}=\"{password}\"; }};"
        ))
    }

    fn start(jaas: &str) -> Server {
        let data = tempfile::tempdir().expect("a temporary directory");
        let jaas_file = data.path().join("jaas.conf");
        std::fs::write(&jaas_file, jaas).expect("a writable directory");
        let security: &[String] = match jaas {
            "" => &[],
            _ => &[
                format!("-Djava.security.auth.login.config={}", jaas_file.display()),
                "-Dzookeeper.authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider".to_owned(),
            ],
        };
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let process = Command::new("java")
            .args(["-Xmx128m", "-Dzookeeper.admin.enableServer=false", "-Dzookeeper.forceSync=no"])
            .args(security)
            .arg("-cp")
            .arg(jars().join("*"))
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(port.to_string())
            .arg(data.path())
            .arg(TICK_MS.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("java starts; install a Java runtime");
        Server { process, port, _data: data }
    }

    pub fn settings(&self, chroot: &str) -> Settings {
        settings(self.port, chroot)
    }

    pub async fn connect(&self, chroot: &str) -> ZooKeeper {
        ZooKeeper::connect(self.settings(chroot)).await.expect("the server answers")
    }

    /// A session that runs through a proxy.
    pub async fn connect_through_proxy(&self, chroot: &str) -> (ZooKeeper, Proxy) {
        let proxy = Proxy::start(self.port).await;
        let zk = ZooKeeper::connect(settings(proxy.port, chroot)).await.expect("the server answers");
        (zk, proxy)
    }
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
    open: watch::Sender<bool>,
}

impl Proxy {
    async fn start(target: u16) -> Proxy {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let (open, is_open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut is_open = is_open.clone();
                if !*is_open.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Proxy { port, open }
    }

    /// Breaks every connection and refuses new ones.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    pub fn mend(&self) {
        self.open.send_replace(true);
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
