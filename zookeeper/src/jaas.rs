//! The login that a JAAS file gives to ZooKeeper clients, as operators of JVM brokers have it already:
//!
//! ```text
//! Client {
//!     org.apache.zookeeper.server.auth.DigestLoginModule required
//!     username="kafka"
//!     password="secret";
//! };
//! ```
use crate::error::ZkError;
use crate::settings::SaslDigest;

const DIGEST_MODULE: &str = "org.apache.zookeeper.server.auth.DigestLoginModule";

/// The login in the given section, usually `Client`; `None` when the file has no such section.
pub fn login(text: &str, section: &str) -> Result<Option<SaslDigest>, ZkError> {
    let tokens = tokens(text)?;
    let malformed = |reason: &str| ZkError::Settings(format!("the JAAS file is malformed: {reason}"));
    let mut rest = tokens.as_slice();
    while let [Token::Word(name), Token::Sign('{'), body @ ..] = rest {
        let end = body
            .iter()
            .position(|token| *token == Token::Sign('}'))
            .ok_or_else(|| malformed(&format!("section {name} does not end")))?;
        if name == section {
            return entry(section, &body[..end]).map(Some);
        }
        rest = &body[end + 1..];
        if let [Token::Sign(';'), after @ ..] = rest {
            rest = after;
        }
    }
    match rest {
        [] => Ok(None),
        _ => Err(malformed("a section is NAME { ... };")),
    }
}

/// `module flag key=value ... ;`
fn entry(section: &str, body: &[Token]) -> Result<SaslDigest, ZkError> {
    let refused = |reason: String| ZkError::Settings(format!("section {section} of the JAAS file: {reason}"));
    match body.first() {
        Some(Token::Word(module)) if module == DIGEST_MODULE => {}
        Some(Token::Word(module)) => {
            return Err(refused(format!("login module {module} is not supported, only {DIGEST_MODULE} is")));
        }
        _ => return Err(refused("it names no login module".to_owned())),
    }
    let value = |key: &str| {
        body.windows(3).find_map(|window| match window {
            [Token::Word(name), Token::Sign('='), Token::Word(value)] if name == key => Some(value.clone()),
            _ => None,
        })
    };
    match (value("username"), value("password")) {
        (Some(username), Some(password)) => Ok(SaslDigest { username, password }),
        _ => Err(refused("username or password is missing".to_owned())),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Quoted or not.
    Word(String),
    Sign(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, ZkError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(first) = chars.next() {
        match first {
            '{' | '}' | ';' | '=' => tokens.push(Token::Sign(first)),
            '"' => {
                let mut word = String::new();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => word.extend(chars.next()),
                        Some(other) => word.push(other),
                        None => {
                            return Err(ZkError::Settings(
                                "the JAAS file is malformed: a quote does not end".to_owned(),
                            ));
                        }
                    }
                }
                tokens.push(Token::Word(word));
            }
            '/' if chars.peek() == Some(&'/') => while chars.next().is_some_and(|next| next != '\n') {},
            '#' => while chars.next().is_some_and(|next| next != '\n') {},
            '/' if chars.peek() == Some(&'*') => {
                let mut last = ' ';
                for next in chars.by_ref().skip(1) {
                    if last == '*' && next == '/' {
                        break;
                    }
                    last = next;
                }
            }
            blank if blank.is_whitespace() => {}
            other => {
                let mut word = String::from(other);
                let ends = |next: &char| next.is_whitespace() || matches!(next, '{' | '}' | ';' | '=' | '"');
                while let Some(next) = chars.next_if(|next| !ends(next)) {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        // the broker's own section
        KafkaServer {
            org.apache.kafka.common.security.plain.PlainLoginModule required
            username="admin" password="x;}" ;
        };
        /* towards
           ZooKeeper */
        Client {
            org.apache.zookeeper.server.auth.DigestLoginModule required
            username="kafka"
            password="se\"cret=";
        };
    "#;

    #[test]
    fn the_client_section_is_the_login() {
        let expected = SaslDigest { username: "kafka".to_owned(), password: "se\"cret=".to_owned() };
        assert_eq!(login(FILE, "Client"), Ok(Some(expected)));
        assert_eq!(login(FILE, "Other"), Ok(None));
        assert_eq!(login("", "Client"), Ok(None));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let refusal = |text: &str| login(text, "Client").unwrap_err().to_string();
        assert!(
            refusal("Client { com.sun.security.auth.module.Krb5LoginModule required; };").contains("Krb5LoginModule")
        );
        assert!(
            refusal(&format!("Client {{ {DIGEST_MODULE} required username=a; }};")).contains("password is missing")
        );
        assert!(refusal("Client {").contains("does not end"));
        assert!(refusal("Client").contains("NAME { ... }"));
        assert!(refusal("Client { \"x").contains("quote"));
    }

    #[test]
    fn a_password_is_not_printed() {
        assert!(!format!("{:?}", login(FILE, "Client")).contains("cret"));
    }
}
