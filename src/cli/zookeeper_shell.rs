//! zookeeper-shell.sh: reads znodes.

use std::io::Write;

use crate::cli::options::{Options, Stop, Tool};
use crate::cli::zookeeper::connect;

pub(crate) const TOOL: Tool = Tool {
    script: "zookeeper-shell",
    about: "Reads znodes: zookeeper-shell host:port[/chroot] ls|get|stat PATH. ZooKeeper's own shell does the rest.",
    flags: &[],
};

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let words = options.words();
    let [hosts, command, path] = words[..] else { return Err(Stop::Usage(TOOL.about.to_owned())) };
    if !["ls", "get", "stat"].contains(&command) {
        return Err(Stop::Usage(format!("the command {command} is not supported, only ls, get and stat")));
    }
    let zookeeper = connect(hosts).await?;
    let found = zookeeper.get(path).await;
    let children = zookeeper.children(path).await;
    zookeeper.close().await;
    let Some((data, stat)) = found? else { return Err(Stop::Failed(format!("Node does not exist: {path}"))) };
    match command {
        "get" => {
            out.write_all(&data)?;
            writeln!(out)?;
        }
        "ls" => {
            let mut children = children?;
            children.sort_unstable();
            writeln!(out, "[{}]", children.join(", "))?;
        }
        _ => writeln!(
            out,
            "cZxid = {:#x}\ndataVersion = {}\nephemeralOwner = {:#x}\ndataLength = {}\nnumChildren = {}",
            stat.czxid,
            stat.version,
            stat.ephemeral_owner,
            data.len(),
            children?.len()
        )?,
    }
    Ok(())
}
