//! The text form of `server.properties`.
//! Source: the Java API documentation of `java.util.Properties.load(InputStream)`.

use std::collections::BTreeMap;
use std::fmt;

/// Settings by name, as written.
pub type Properties = BTreeMap<String, String>;

/// The text is no properties text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedEscape;

/// Java's text.
impl fmt::Display for MalformedEscape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Malformed \\uxxxx encoding.")
    }
}

impl std::error::Error for MalformedEscape {}

/// Reads properties: each byte is one character of ISO-8859-1, `#` and `!` start a comment, a backslash escapes or
/// continues the line, the first `=`, `:` or blank ends the name, and of equal names the last wins.
pub fn parse(bytes: &[u8]) -> Result<Properties, MalformedEscape> {
    // ISO-8859-1 is the first 256 characters of Unicode.
    let text: Vec<char> = bytes.iter().map(|byte| char::from(*byte)).collect();
    let mut properties = Properties::new();
    for line in logical_lines(&text) {
        let end_of_name = end_of_name(&line);
        let mut rest = &line[end_of_name..];
        rest = trim_start(rest);
        if let [separator, after @ ..] = rest
            && matches!(separator, '=' | ':')
        {
            rest = trim_start(after);
        }
        properties.insert(unescape(&line[..end_of_name])?, unescape(rest)?);
    }
    Ok(properties)
}

/// One `--override` of the command line, `name=value`; None when there is no `=`.
pub fn parse_override(argument: &str) -> Option<(String, String)> {
    let (name, value) = argument.split_once('=')?;
    Some((name.trim().to_string(), value.trim().to_string()))
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

fn trim_start(text: &[char]) -> &[char] {
    let blanks = text.iter().take_while(|c| is_blank(**c)).count();
    &text[blanks..]
}

/// Lines without comments and blank lines, continued ones joined; escapes are still in them.
fn logical_lines(text: &[char]) -> Vec<Vec<char>> {
    let mut lines = Vec::new();
    let mut current: Vec<char> = Vec::new();
    let mut continues = false;
    for natural in natural_lines(text) {
        let content = trim_start(natural);
        if !continues && matches!(content.first(), None | Some('#' | '!')) {
            continue;
        }
        // An even number of backslashes at the end escape each other.
        let backslashes = content.iter().rev().take_while(|c| **c == '\\').count();
        continues = backslashes % 2 == 1;
        let kept = if continues { &content[..content.len() - 1] } else { content };
        current.extend_from_slice(kept);
        if !continues {
            if !current.is_empty() {
                lines.push(std::mem::take(&mut current));
            }
            current.clear();
        }
    }
    if !current.is_empty() {
        lines.push(current);
    }
    lines
}

/// Lines ended by `\n`, `\r` or `\r\n`.
fn natural_lines(text: &[char]) -> Vec<&[char]> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            '\r' if text.get(at + 1) == Some(&'\n') => {
                lines.push(&text[start..at]);
                at += 2;
                start = at;
            }
            '\r' | '\n' => {
                lines.push(&text[start..at]);
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
    lines.push(&text[start..]);
    lines
}

/// Where the name ends: at the first separator that no backslash escapes.
fn end_of_name(line: &[char]) -> usize {
    let mut escaped = false;
    for (index, c) in line.iter().enumerate() {
        if escaped {
            escaped = false;
        } else if *c == '\\' {
            escaped = true;
        } else if matches!(c, '=' | ':') || is_blank(*c) {
            return index;
        }
    }
    line.len()
}

fn unescape(text: &[char]) -> Result<String, MalformedEscape> {
    // Kept as UTF-16, since an escape may be half of a surrogate pair.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut buffer = [0; 2];
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != '\\' {
            units.extend_from_slice(first.encode_utf16(&mut buffer));
            continue;
        }
        let [escaped, after @ ..] = rest else { break };
        rest = after;
        let plain = match escaped {
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'f' => '\x0c',
            'u' => {
                let digits: String = rest.get(..4).ok_or(MalformedEscape)?.iter().collect();
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return Err(MalformedEscape);
                }
                units.push(u16::from_str_radix(&digits, 16).map_err(|_| MalformedEscape)?);
                rest = &rest[4..];
                continue;
            }
            other => *other,
        };
        units.extend_from_slice(plain.encode_utf16(&mut buffer));
    }
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text.as_bytes()).expect("well-formed").into_iter().collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn separators_comments_and_blank_lines() {
        let text = "# comment\n  ! another\n\na=1\nb : 2\nc 3\n  d\t=\t4  \ne\nf==\ng= # no comment\r\nh=5\ri=6";
        let expected = [
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("d", "4  "),
            ("e", ""),
            ("f", "="),
            ("g", "# no comment"),
            ("h", "5"),
            ("i", "6"),
        ];
        assert_eq!(parsed(text), pairs(&expected));
    }

    #[test]
    fn escapes_and_continued_lines() {
        let text =
            "a\\ b\\=c=x\\ty\\\\z\nlist=1,\\\n   2,\\\r\n\t3\n# not continued \\\nk=v\\\\\nu=\\u00e9\\uD83D\\uDE00\\q";
        let expected = [("a b=c", "x\ty\\z"), ("k", "v\\"), ("list", "1,2,3"), ("u", "\u{e9}\u{1F600}q")];
        assert_eq!(parsed(text), pairs(&expected));
        assert_eq!(parse(b"a=\\u12"), Err(MalformedEscape));
        assert_eq!(parse(b"a=\\u12g4"), Err(MalformedEscape));
        assert_eq!(parsed("end=\\"), pairs(&[("end", "")]));
    }

    #[test]
    fn a_comment_sign_in_a_continued_line_is_text() {
        assert_eq!(parsed("a=1\\\n#2"), pairs(&[("a", "1#2")]));
    }

    #[test]
    fn bytes_are_latin_1_and_the_last_of_equal_names_wins() {
        assert_eq!(parse(b"a=1\na=\xe9").expect("well-formed").get("a").map(String::as_str), Some("\u{e9}"));
    }

    #[test]
    fn an_override_is_split_at_its_first_equals_sign() {
        let overridden = parse_override("listeners=PLAINTEXT://:9092?a=b");
        assert_eq!(overridden, Some(("listeners".to_string(), "PLAINTEXT://:9092?a=b".to_string())));
        assert_eq!(parse_override("listeners"), None);
    }
}
