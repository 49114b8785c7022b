//! Text that may be anything, as a JVM reads it.

use std::borrow::Cow;

/// `new String(bytes, UTF_8)` of OpenJDK 17 and 25: what is malformed is replaced by U+FFFD. One stands for as much as
/// could begin a character, which is what the standard library does too, but that to a JVM the encoded form of a
/// surrogate, or the beginning of one, could.
pub fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(chunk) = rest.utf8_chunks().next() {
        text.push_str(chunk.valid());
        let malformed = &rest[chunk.valid().len()..];
        let replaced = match malformed {
            [] => break,
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => 3,
            [0xed, 0xa0..=0xbf, ..] => 2,
            _ => chunk.invalid().len(),
        };
        text.push(char::REPLACEMENT_CHARACTER);
        rest = &malformed[replaced..];
    }
    text.shrink_to_fit();
    Cow::Owned(text)
}
