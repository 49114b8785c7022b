//! Regular expressions as those write them who know Java's: with look-around, and split as Java splits.

use fancy_regex::Regex;

/// What a user gave as a regular expression. Most are searched in linear time; one with look-around or back references may
/// take steps without end, and is given up after a million.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
}

impl Pattern {
    /// Fails with what is wrong with it.
    pub fn new(text: &str) -> Result<Pattern, String> {
        Regex::new(text).map(|regex| Pattern { regex }).map_err(|error| error.to_string())
    }

    /// One that matches nothing but a whole text.
    pub fn whole(text: &str) -> Result<Pattern, String> {
        Pattern::new(&format!("^(?:{text})$"))
    }

    /// A text that takes too many steps does not match.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text).unwrap_or_else(|error| {
            log::warn!("'{text}' is taken not to match: {error}");
            false
        })
    }

    /// What stands between the matches, all of it. Nothing stands before an empty match at the start.
    /// Source: the documentation of java.util.regex.Pattern.split.
    pub fn split_all<'a>(&self, text: &'a str) -> Result<Vec<&'a str>, String> {
        let mut parts = Vec::new();
        let (mut part_start, mut search_from) = (0, 0);
        while search_from <= text.len() {
            let found = self.regex.find_from_pos(text, search_from).map_err(|error| error.to_string())?;
            let Some(found) = found else { break };
            if found.end() > 0 {
                parts.push(&text[part_start..found.start()]);
                part_start = found.end();
            }
            // The same empty match would be found again: on with the next character.
            let next = text[found.end()..].chars().next().map_or(1, char::len_utf8);
            search_from = if found.start() == found.end() { found.end() + next } else { found.end() };
        }
        parts.push(&text[part_start..]);
        Ok(parts)
    }

    /// The same without the empty parts at the end, as Java's `split` leaves them out.
    pub fn split<'a>(&self, text: &'a str) -> Result<Vec<&'a str>, String> {
        let parts = self.split_all(text)?;
        // A text without a match is its own only part, even an empty one.
        Ok(if parts.len() == 1 { parts } else { without_empty_end(parts) })
    }
}

/// The parts of a comma list as Java's `split(",")` tells them: without the empty ones at the end.
pub fn comma_list(text: &str) -> Vec<&str> {
    if text.contains(',') { without_empty_end(text.split(',').collect()) } else { vec![text] }
}

fn without_empty_end(mut parts: Vec<&str>) -> Vec<&str> {
    while parts.last().is_some_and(|part| part.is_empty()) {
        parts.pop();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held to what Java 17 gives for the same.
    #[test]
    fn texts_are_split_as_java_splits_them() {
        let split = |pattern: &str, text| Pattern::new(pattern).unwrap().split(text).unwrap();
        assert_eq!(split(",", "a,b,,c,,"), ["a", "b", "", "c"]);
        assert_eq!(split(",", ",a"), ["", "a"]);
        assert_eq!(split(",", ""), [""]);
        assert_eq!(split(",", ",,"), [""; 0]);
        assert_eq!(split("", "aäb"), ["a", "ä", "b"]);
        assert_eq!(split("", ""), [""]);
        assert_eq!(split("a*", "baac"), ["b", "", "c"]);
        assert_eq!(split("[;|]", "a;b|c"), ["a", "b", "c"]);
        assert_eq!(split(".", "abc"), [""; 0]);
        assert_eq!(Pattern::new("=").unwrap().split_all("a==").unwrap(), ["a", "", ""]);
        assert_eq!(comma_list("a,,b,,"), ["a", "", "b"]);
        assert_eq!((comma_list(""), comma_list(",")), (vec![""], vec![]));
    }

    #[test]
    fn look_around_is_known_and_steps_without_end_are_given_up() {
        let not_internal = Pattern::whole("(?!__).*").unwrap();
        assert!(not_internal.is_match("t") && !not_internal.is_match("__consumer_offsets"));
        assert!(Pattern::new("a[").is_err());
        let endless = Pattern::whole(r"((a+)+)\2b(?=c)").unwrap();
        assert!(!endless.is_match(&"a".repeat(60)));
    }
}
