//! The signals that end a tool in order: what it has begun is finished, told and left.

use std::io;

use tokio::signal::unix::SignalKind;

use crate::cli::options::Stop;
use crate::model::signals::EndSignal;

/// SIGINT and SIGTERM, which end nothing by themselves any more.
pub(crate) struct StopSignals {
    interrupt: EndSignal,
    terminate: EndSignal,
}

impl StopSignals {
    pub(crate) fn listen() -> io::Result<StopSignals> {
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(StopSignals { interrupt: EndSignal::listen(interrupt)?, terminate: EndSignal::listen(terminate)? })
    }

    /// What the tool ends with, once a signal has come.
    pub(crate) async fn recv(&mut self) -> Stop {
        let came = tokio::select! {
            () = self.interrupt.came() => SignalKind::interrupt(),
            () = self.terminate.came() => SignalKind::terminate(),
        };
        Stop::Signalled(128 + came.as_raw_value())
    }
}
