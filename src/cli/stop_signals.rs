//! The signals that end a tool in order: what it has begun is finished, told and left.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::options::Stop;

/// SIGINT and SIGTERM, which end nothing by themselves any more.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn listen() -> io::Result<StopSignals> {
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(StopSignals { interrupt: signal(interrupt)?, terminate: signal(terminate)? })
    }

    /// What the tool ends with, once a signal has come.
    pub(crate) async fn recv(&mut self) -> Stop {
        let came = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        Stop::Signalled(128 + came.as_raw_value())
    }
}
