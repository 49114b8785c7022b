//! What was found, as an operator reads it and as a script does.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    Note,
    Warning,
    Refusal,
}

impl Weight {
    fn word(self) -> &'static str {
        match self {
            Weight::Note => "note",
            Weight::Warning => "warning",
            Weight::Refusal => "refusal",
        }
    }
}

#[derive(Debug, Default)]
pub struct Report {
    /// In the order of their discovery: what each is about, its weight, and one line of text.
    findings: Vec<(&'static str, Weight, String)>,
}

impl Report {
    pub fn note(&mut self, about: &'static str, text: impl Into<String>) {
        self.findings.push((about, Weight::Note, text.into()));
    }

    pub fn warn(&mut self, about: &'static str, text: impl Into<String>) {
        self.findings.push((about, Weight::Warning, text.into()));
    }

    pub fn refuse(&mut self, about: &'static str, text: impl Into<String>) {
        self.findings.push((about, Weight::Refusal, text.into()));
    }

    fn count(&self, weight: Weight) -> usize {
        self.findings.iter().filter(|(_, of, _)| *of == weight).count()
    }

    fn weightiest(&self) -> Weight {
        self.findings.iter().map(|(_, weight, _)| *weight).max().unwrap_or(Weight::Note)
    }

    /// 0 (yes), 1 (yes, with warnings), 2 (no).
    pub fn exit_status(&self) -> i32 {
        match self.weightiest() {
            Weight::Note => 0,
            Weight::Warning => 1,
            Weight::Refusal => 2,
        }
    }

    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for (about, weight, finding) in &self.findings {
            if *about != last {
                let _ = writeln!(text, "{about}");
                last = about;
            }
            let mark = match weight {
                Weight::Note => "     ",
                Weight::Warning => "WARN ",
                Weight::Refusal => "NO   ",
            };
            // What others have named stays on its line.
            let _ = writeln!(text, "  {mark}{}", finding.replace(['\n', '\r'], " "));
        }
        let (refusals, warnings) = (self.count(Weight::Refusal), self.count(Weight::Warning));
        let _ = match self.weightiest() {
            Weight::Note => writeln!(text, "Yes: Odradek can take the place of this broker."),
            Weight::Warning => {
                writeln!(text, "Yes, with {warnings} warning(s): Odradek can take the place of this broker.")
            }
            Weight::Refusal => {
                writeln!(text, "No: {refusals} thing(s) stand against it, and there are {warnings} warning(s).")
            }
        };
        text
    }

    pub fn to_json(&self) -> Value {
        let answer = ["yes", "warnings", "no"][self.weightiest() as usize];
        let findings = self
            .findings
            .iter()
            .map(|(about, weight, text)| json!({ "about": about, "weight": weight.word(), "text": text }));
        json!({ "answer": answer, "exit_status": self.exit_status(), "findings": findings.collect::<Vec<_>>() })
    }
}

/// A number of bytes as people read it.
pub fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift >= 1) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

/// The first few, and how many more there are.
pub fn few<T: std::fmt::Display>(all: &[T]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    match all.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weightiest_finding_decides() {
        let mut report = Report::default();
        report.note("settings", "inter.broker.protocol.version is 3.9");
        assert_eq!((report.exit_status(), report.to_json()["answer"].as_str()), (0, Some("yes")));
        report.warn("settings", "one");
        assert_eq!((report.exit_status(), report.to_json()["answer"].as_str()), (1, Some("warnings")));
        report.refuse("cluster", "two\nlines");
        assert_eq!((report.exit_status(), report.to_json()["answer"].as_str()), (2, Some("no")));
        assert_eq!(
            report.to_text(),
            "settings\n       inter.broker.protocol.version is 3.9\n  WARN one\ncluster\n  NO   two lines\n\
             No: 1 thing(s) stand against it, and there are 1 warning(s).\n"
        );
    }

    #[test]
    fn sizes_and_lists_are_short() {
        assert_eq!(size(512), "512 bytes");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(few(&[1, 2]), "1, 2");
        assert_eq!(few(&[1, 2, 3, 4, 5, 6, 7]), "1, 2, 3, 4, 5 and 2 more");
    }
}
