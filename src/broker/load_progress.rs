//! How far the loading of logs has come: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use log::info;

use crate::log::dirs::startup::LoadProgress;

const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct LoadReport {
    bar: Option<ProgressBar>,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    last_line: Instant,
    latest: LoadProgress,
}

impl LoadReport {
    pub fn start() -> LoadReport {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("loading logs {bar:40} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        let state = State { last_line: now, latest: LoadProgress::default() };
        LoadReport { bar, started: now, state: Mutex::new(state) }
    }

    pub fn progress(&self, progress: LoadProgress) {
        let Ok(mut state) = self.state.lock() else { return };
        state.latest = progress;
        let recovered = format!(
            "({} segments, {} MB recovered)",
            progress.segments_recovered,
            progress.bytes_recovered / 1_000_000
        );
        if let Some(bar) = &self.bar {
            bar.set_length(progress.logs_total);
            bar.set_position(progress.logs_loaded);
            bar.set_message(recovered);
        } else if state.last_line.elapsed() >= LINE_INTERVAL {
            state.last_line = Instant::now();
            info!("Loading logs: {} of {} {recovered}", progress.logs_loaded, progress.logs_total);
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let Ok(state) = self.state.lock() else { return };
        info!("Loaded {} logs in {}ms", state.latest.logs_loaded, self.started.elapsed().as_millis());
    }
}
