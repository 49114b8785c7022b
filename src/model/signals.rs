//! Signals that end the process in order.

use std::fs;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that is listened to, unless it was ignored when the process was started, as `nohup` has it with HUP, and a shell
/// without job control with the INT of what it starts in its background. A JVM leaves these ignored.
/// Source: OpenJDK 17 hotspot/os/posix/jvm_posix.cpp, JVM_RegisterSignal.
pub struct EndSignal(Option<Signal>);

impl EndSignal {
    pub fn listen(kind: SignalKind) -> io::Result<EndSignal> {
        // Without /proc it cannot be told which are ignored.
        let ignored = fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_signals(&status));
        let is_ignored = ignored >> (kind.as_raw_value() - 1) & 1 == 1;
        Ok(EndSignal(if is_ignored { None } else { Some(signal(kind)?) }))
    }

    /// Waits for the next one.
    pub async fn came(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// The bits of `SigIgn` in /proc/self/status, the lowest for signal 1.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_what_the_kernel_says() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\nSigCgt:\t0000000000000002\n";
        assert_eq!(ignored_signals(status), 1 << 12 | 0b11);
        assert_eq!(ignored_signals(""), 0);
    }
}
