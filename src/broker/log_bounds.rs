//! The log's own bounds: what others have caused to be logged is cut, and what repeats is counted.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, Record};

/// Longer lines are cut, in bytes. Only what this broker says of itself, settings above all, may be longer.
const LINE_BYTES_MAX: usize = 4096;
/// A place in the code may write so many lines a window, where requests make it write them.
const LINES_A_WINDOW: u32 = 20;
/// And so many errors that differ from each other: each may be all that is known of what it names.
const ERRORS_A_WINDOW: usize = 1000;
const WINDOW: Duration = Duration::from_secs(1);

/// Rooms that log of their own accord, in as many lines as they like.
const UNBOUNDED: &[&str] = &["odradek::broker", "odradek::config"];
/// But what these say is what others have stored.
const BOUNDED: &[&str] = &["odradek::broker::dynamic_config", "odradek::broker::sections"];
/// Rooms whose lines are caused by requests.
const COUNTED: &[&str] = &["odradek::api", "odradek::coordinator", "odradek::network"];

fn is_in(target: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| target.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
}

/// The message of a record on one line of bounded length.
pub(super) struct Bounded<'a>(pub(super) &'a Record<'a>);

impl fmt::Display for Bounded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_in(self.0.target(), UNBOUNDED) && !is_in(self.0.target(), BOUNDED) {
            return write!(f, "{}", self.0.args());
        }
        let mut line = OneLine { out: f, left: LINE_BYTES_MAX, is_cut: false };
        // The error ends the formatting of what would not be written anyway.
        let written = write!(line, "{}", self.0.args());
        if line.is_cut { f.write_str("...") } else { written }
    }
}

struct OneLine<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    left: usize,
    is_cut: bool,
}

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            let Some(left) = self.left.checked_sub(char.len_utf8()) else {
                self.is_cut = true;
                return Err(fmt::Error);
            };
            self.left = left;
            if char.is_control() {
                write!(self.out, "{}", char.escape_default())?;
            } else {
                self.out.write_char(char)?;
            }
        }
        Ok(())
    }
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Written,
    /// After so many of its kind that were not.
    WrittenAfter(u32),
    /// The first that is left out of this window: its place is told.
    FirstLeftOut,
    LeftOut,
}

/// How often each place in the code has written lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// By module and line: as many as the program has.
    places: Mutex<HashMap<(String, u32), Place>>,
}

#[derive(Debug)]
struct Place {
    window: Instant,
    lines: u32,
    /// Hashes of the errors of this window.
    errors: HashSet<u64>,
}

/// Of what is written of the message.
fn hash(record: &Record<'_>) -> u64 {
    struct Hashed {
        hasher: DefaultHasher,
        left: usize,
    }
    impl Write for Hashed {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let bytes = &text.as_bytes()[..text.len().min(self.left)];
            self.hasher.write(bytes);
            self.left -= bytes.len();
            if self.left == 0 { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut hashed = Hashed { hasher: DefaultHasher::new(), left: LINE_BYTES_MAX };
    let _ = write!(hashed, "{}", record.args());
    hashed.hasher.finish()
}

impl Repeats {
    pub(super) fn verdict(&self, record: &Record<'_>, now: Instant) -> Verdict {
        if !is_in(record.target(), COUNTED) {
            return Verdict::Written;
        }
        let error = (record.level() == Level::Error).then(|| hash(record));
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (record.target().to_owned(), record.line().unwrap_or(0));
        let place = places.entry(name).or_insert_with(|| Place { window: now, lines: 0, errors: HashSet::new() });
        if now.saturating_duration_since(place.window) >= WINDOW {
            let left_out = place.lines.saturating_sub(LINES_A_WINDOW);
            *place = Place { window: now, lines: u32::from(error.is_none()), errors: error.into_iter().collect() };
            return if left_out == 0 { Verdict::Written } else { Verdict::WrittenAfter(left_out) };
        }
        if let Some(error) = error
            && place.errors.len() < ERRORS_A_WINDOW
            && place.errors.insert(error)
        {
            return Verdict::Written;
        }
        place.lines = place.lines.saturating_add(1);
        match place.lines {
            ..=LINES_A_WINDOW => Verdict::Written,
            lines if lines == LINES_A_WINDOW + 1 => Verdict::FirstLeftOut,
            _ => Verdict::LeftOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounded(target: &str, message: &str) -> String {
        Bounded(&Record::builder().target(target).args(format_args!("{message}")).build()).to_string()
    }

    #[test]
    fn what_others_cause_is_one_line_of_bounded_length() {
        assert_eq!(bounded("odradek::api::table", "a\r\n[2018] FATAL b"), "a\\r\\n[2018] FATAL b");
        let long = "x".repeat(50_000_000);
        for room in ["odradek::api::table", "odradek::broker::dynamic_config"] {
            assert_eq!(bounded(room, &long).len(), LINE_BYTES_MAX + 3);
        }
        assert_eq!(
            bounded("odradek::config::log", "KafkaConfig values:\n\tport = 1"),
            "KafkaConfig values:\n\tport = 1"
        );
    }

    #[test]
    fn lines_of_one_place_are_counted_beyond_the_first_of_each_window() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let say = |target: &str, line: u32, at: Duration| {
            repeats.verdict(&Record::builder().target(target).line(Some(line)).build(), start + at)
        };
        for _ in 0..LINES_A_WINDOW {
            assert_eq!(say("odradek::api::x", 1, Duration::ZERO), Verdict::Written);
        }
        assert_eq!(say("odradek::api::x", 1, Duration::ZERO), Verdict::FirstLeftOut);
        assert_eq!(say("odradek::api::x", 1, Duration::from_millis(999)), Verdict::LeftOut);
        assert_eq!(say("odradek::api::x", 2, Duration::ZERO), Verdict::Written, "another place");
        assert_eq!(say("odradek::api::x", 1, WINDOW), Verdict::WrittenAfter(2));
        assert_eq!(say("odradek::api::x", 1, WINDOW), Verdict::Written);
        assert!((0..1000).all(|_| say("odradek::log::dirs", 1, Duration::ZERO) == Verdict::Written));
    }

    #[test]
    fn errors_that_differ_are_written_and_one_that_repeats_is_counted() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let say = |error: u32| {
            let mut record = Record::builder();
            let record = record.target("odradek::coordinator::shard").line(Some(1)).level(Level::Error);
            repeats.verdict(&record.args(format_args!("Error loading partition {error}")).build(), start)
        };
        for _ in 0..=LINES_A_WINDOW {
            assert_eq!(say(0), Verdict::Written);
        }
        assert_eq!(say(0), Verdict::FirstLeftOut);
        assert!((1..50).all(|error| say(error) == Verdict::Written));
        assert_eq!(say(0), Verdict::LeftOut);
        assert!((50..10_000).any(|error| say(error) == Verdict::LeftOut), "without end");
    }
}
