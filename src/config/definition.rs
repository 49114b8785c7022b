//! What a setting is: its type, how its text is read, and which values are allowed.
//! Source: kafka 3.9 clients/src/main/java/org/apache/kafka/common/config/ConfigDef.java.

use std::fmt;

use super::metadata_version::MetadataVersion;

/// One row of a table of settings.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub config_type: ConfigType,
    /// As it would be written in a file; None where Kafka has null.
    pub default: Option<&'static str>,
    pub check: Check,
    pub update: Update,
    pub standing: Standing,
    /// Hidden from listings unless it is set.
    pub internal: bool,
    pub documentation: &'static str,
}

/// The type of a setting, as Kafka names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigType {
    Boolean,
    String,
    Int,
    Short,
    Long,
    Double,
    List,
    Class,
    Password,
}

impl ConfigType {
    pub fn name(self) -> &'static str {
        match self {
            ConfigType::Boolean => "BOOLEAN",
            ConfigType::String => "STRING",
            ConfigType::Int => "INT",
            ConfigType::Short => "SHORT",
            ConfigType::Long => "LONG",
            ConfigType::Double => "DOUBLE",
            ConfigType::List => "LIST",
            ConfigType::Class => "CLASS",
            ConfigType::Password => "PASSWORD",
        }
    }

    /// The number of the type in a DescribeConfigs response, where 0 stands for a setting of unknown type.
    pub fn id(self) -> i8 {
        match self {
            ConfigType::Boolean => 1,
            ConfigType::String => 2,
            ConfigType::Int => 3,
            ConfigType::Short => 4,
            ConfigType::Long => 5,
            ConfigType::Double => 6,
            ConfigType::List => 7,
            ConfigType::Class => 8,
            ConfigType::Password => 9,
        }
    }
}

/// When a setting may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Needs a restart.
    ReadOnly,
    /// At run time, for one broker.
    PerBroker,
    /// At run time, for one broker or as the default of all.
    ClusterWide,
}

/// What Odradek does with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Acted,
    /// Known and checked, without effect so far: one warning at start names those that are set.
    NotYet,
    /// Without effect in Kafka's ZooKeeper mode too, or moot here.
    NoEffect,
    /// Serving as if it were not set would break what the operator counts on: the start is refused.
    Refused,
}

/// Which values a setting accepts, beyond its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Check {
    Any,
    AtLeast(i64),
    Between(i64, i64),
    BetweenDoubles(f64, f64),
    /// Kafka writes it as a range of its own: 1 to 9, or -1 for the library's choice.
    GzipLevel,
    /// At least 1, or -1 to follow another setting.
    PoolSize,
    OneOf(&'static [&'static str]),
    OneOfIgnoringCase(&'static [&'static str]),
    /// Each element of a list.
    EachOneOf(&'static [&'static str]),
    NonNull,
    NonEmpty,
    MetadataVersion,
    ThrottledReplicas,
}

/// A parsed setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Boolean(bool),
    String(String),
    Int(i32),
    Short(i16),
    Long(i64),
    Double(f64),
    List(Vec<String>),
    Class(String),
    Password(String),
}

impl Value {
    /// The text that, parsed again, gives the same value; None for null. A password comes out in clear.
    pub fn to_text(&self) -> Option<String> {
        Some(match self {
            Value::Null => return None,
            Value::Boolean(value) => value.to_string(),
            Value::String(value) | Value::Class(value) | Value::Password(value) => value.clone(),
            Value::Int(value) => value.to_string(),
            Value::Short(value) => value.to_string(),
            Value::Long(value) => value.to_string(),
            Value::Double(value) => java_double(*value),
            Value::List(values) => values.join(","),
        })
    }
}

/// As Kafka logs it: lists in brackets, passwords hidden.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::List(values) => write!(f, "[{}]", values.join(", ")),
            Value::Password(_) => f.write_str("[hidden]"),
            Value::Class(name) => write!(f, "class {name}"),
            other => f.write_str(&other.to_text().unwrap_or_default()),
        }
    }
}

/// Why a configuration is not accepted. Texts are Kafka's, since operators search for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Kafka's ConfigException for one value.
    InvalidValue { name: String, value: String, reason: String },
    /// Kafka's ConfigException with a text of its own.
    Config(String),
    /// Kafka's IllegalArgumentException from `require`.
    Requirement(String),
    /// Kafka's IllegalArgumentException.
    IllegalArgument(String),
    /// Kafka's InvalidConfigurationException, about a topic.
    InvalidConfiguration(String),
    /// Kafka would accept it, Odradek does not offer it.
    Unsupported { name: String, value: String, advice: String },
}

impl ConfigError {
    /// The class that Kafka's log names before the message.
    pub fn java_class(&self) -> &'static str {
        match self {
            ConfigError::InvalidValue { .. } | ConfigError::Config(_) | ConfigError::Unsupported { .. } => {
                "org.apache.kafka.common.config.ConfigException"
            }
            ConfigError::Requirement(_) | ConfigError::IllegalArgument(_) => "java.lang.IllegalArgumentException",
            ConfigError::InvalidConfiguration(_) => "org.apache.kafka.common.errors.InvalidConfigurationException",
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::InvalidValue { name, value, reason } => {
                write!(f, "Invalid value {value} for configuration {name}: {reason}")
            }
            ConfigError::Requirement(text) => write!(f, "requirement failed: {text}"),
            ConfigError::Config(text)
            | ConfigError::IllegalArgument(text)
            | ConfigError::InvalidConfiguration(text) => f.write_str(text),
            ConfigError::Unsupported { name, value, advice } => {
                write!(f, "Odradek does not support {name}={value} yet: {advice}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Setting {
    /// Reads a text of this setting and checks the value.
    pub fn parse(&self, text: &str) -> Result<Value, ConfigError> {
        let value = parse_type(self.name, text, self.config_type)?;
        self.ensure_valid(&value)?;
        Ok(value)
    }

    /// The built-in default.
    pub fn default_value(&self) -> Value {
        match self.default {
            None => Value::Null,
            Some(text) => parse_type(self.name, text, self.config_type).expect("a default parses; a test reads each"),
        }
    }

    fn ensure_valid(&self, value: &Value) -> Result<(), ConfigError> {
        let invalid = |reason: String| {
            Err(ConfigError::InvalidValue { name: self.name.to_string(), value: value.to_string(), reason })
        };
        let number = match value {
            Value::Int(number) => Some(f64::from(*number)),
            Value::Short(number) => Some(f64::from(*number)),
            // Kafka compares doubles too, so the two agree on the largest longs.
            Value::Long(number) => Some(*number as f64),
            Value::Double(number) => Some(*number),
            _ => None,
        };
        match (self.check, number) {
            (Check::AtLeast(min), Some(number)) if number < min as f64 => {
                invalid(format!("Value must be at least {min}"))
            }
            (Check::Between(min, max), Some(number)) => {
                if number < min as f64 {
                    invalid(format!("Value must be at least {min}"))
                } else if number > max as f64 {
                    invalid(format!("Value must be no more than {max}"))
                } else {
                    Ok(())
                }
            }
            (Check::BetweenDoubles(min, max), Some(number)) => {
                if number < min {
                    invalid(format!("Value must be at least {min}"))
                } else if number > max {
                    invalid(format!("Value must be no more than {max}"))
                } else {
                    Ok(())
                }
            }
            (Check::GzipLevel, Some(number)) if !(1.0..=9.0).contains(&number) && number != -1.0 => {
                invalid("Value must be between 1 and 9 or equal to -1".to_string())
            }
            (Check::PoolSize, Some(number)) if number < -1.0 || number == 0.0 => {
                invalid("Value can be -1 or greater than 0".to_string())
            }
            _ => self.ensure_valid_text(value),
        }
    }

    fn ensure_valid_text(&self, value: &Value) -> Result<(), ConfigError> {
        let invalid = |value: &dyn fmt::Display, reason: String| {
            Err(ConfigError::InvalidValue { name: self.name.to_string(), value: value.to_string(), reason })
        };
        match (self.check, value) {
            (Check::OneOf(allowed), Value::String(text)) if !allowed.contains(&text.as_str()) => {
                invalid(text, format!("String must be one of: {}", allowed.join(", ")))
            }
            (Check::OneOfIgnoringCase(allowed), Value::String(text))
                if !allowed.iter().any(|a| a.eq_ignore_ascii_case(text)) =>
            {
                invalid(text, format!("String must be one of (case insensitive): {}", allowed.join(", ")))
            }
            (Check::EachOneOf(allowed), Value::List(texts)) => {
                match texts.iter().find(|text| !allowed.contains(&text.as_str())) {
                    Some(text) => invalid(text, format!("String must be one of: {}", allowed.join(", "))),
                    None => Ok(()),
                }
            }
            (Check::NonEmpty, Value::String(text)) if text.is_empty() => {
                invalid(text, "String must be non-empty".to_string())
            }
            (Check::NonNull, Value::Null) => invalid(&"null", "entry must be non null".to_string()),
            (Check::MetadataVersion, Value::String(text)) => match text.parse::<MetadataVersion>() {
                Ok(_) => Ok(()),
                Err(error) => invalid(text, error.to_string()),
            },
            (Check::ThrottledReplicas, Value::List(texts)) => {
                let is_replica = |text: &str| match text.split_once(':') {
                    Some((partition, broker)) => is_digits(partition) && is_digits(broker),
                    None => text.is_empty(),
                };
                if texts.iter().all(|text| is_replica(text.trim())) || texts.concat().trim() == "*" {
                    return Ok(());
                }
                let format = "[partitionId]:[brokerId],[partitionId]:[brokerId],...";
                invalid(
                    value,
                    format!(
                        "{} must be the literal '*' or a list of replicas in the following format: {format}",
                        self.name
                    ),
                )
            }
            _ => Ok(()),
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `String.trim` of Java: everything up to and including the blank goes.
pub fn java_trim(text: &str) -> &str {
    text.trim_matches(|c: char| c <= ' ')
}

/// Splits at commas and drops the blanks around them; an empty text has no elements, `a,,b` has an empty one.
pub fn split_list(text: &str) -> Vec<String> {
    let trimmed = java_trim(text);
    if trimmed.is_empty() {
        return Vec::new();
    }
    trimmed.split(',').map(|element| element.trim_matches(is_java_space).to_string()).collect()
}

/// `\s` of a Java pattern.
fn is_java_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

fn parse_type(name: &str, text: &str, config_type: ConfigType) -> Result<Value, ConfigError> {
    let trimmed = java_trim(text);
    let invalid = |reason: String| {
        // A password that is no password type still must not be echoed; only passwords are, and they always parse.
        ConfigError::InvalidValue { name: name.to_string(), value: text.to_string(), reason }
    };
    let not_a_number = || invalid(format!("Not a number of type {}", config_type.name()));
    match config_type {
        ConfigType::Boolean if trimmed.eq_ignore_ascii_case("true") => Ok(Value::Boolean(true)),
        ConfigType::Boolean if trimmed.eq_ignore_ascii_case("false") => Ok(Value::Boolean(false)),
        ConfigType::Boolean => Err(invalid("Expected value to be either true or false".to_string())),
        ConfigType::String => Ok(Value::String(trimmed.to_string())),
        ConfigType::Password => Ok(Value::Password(trimmed.to_string())),
        ConfigType::Class => Ok(Value::Class(trimmed.to_string())),
        ConfigType::List => Ok(Value::List(split_list(text))),
        ConfigType::Int => trimmed.parse().map(Value::Int).map_err(|_| not_a_number()),
        ConfigType::Short => trimmed.parse().map(Value::Short).map_err(|_| not_a_number()),
        ConfigType::Long => trimmed.parse().map(Value::Long).map_err(|_| not_a_number()),
        ConfigType::Double => parse_java_double(trimmed).map(Value::Double).ok_or_else(not_a_number),
    }
}

/// `Double.parseDouble` without hexadecimal numbers: Rust alone would also take `inf` and `nan` in any case.
fn parse_java_double(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned == "NaN" || unsigned == "Infinity" {
        return text.parse().ok();
    }
    let digits = text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text);
    if digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) {
        digits.parse().ok()
    } else {
        None
    }
}

/// `Double.toString` of Java.
fn java_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_string();
    }
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-3..1e7).contains(&magnitude) {
        return format!("{value:?}");
    }
    let scientific = format!("{value:E}");
    match scientific.split_once('E') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0E{exponent}"),
        _ => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(config_type: ConfigType, check: Check) -> Setting {
        Setting {
            name: "k",
            config_type,
            default: None,
            check,
            update: Update::ReadOnly,
            standing: Standing::Acted,
            internal: false,
            documentation: "",
        }
    }

    fn refusal(config_type: ConfigType, check: Check, text: &str) -> String {
        setting(config_type, check).parse(text).expect_err(text).to_string()
    }

    #[test]
    fn every_type_reads_what_java_reads() {
        let parse = |config_type, text: &str| setting(config_type, Check::Any).parse(text);
        assert_eq!(parse(ConfigType::Boolean, " TRUE "), Ok(Value::Boolean(true)));
        assert_eq!(parse(ConfigType::Int, " +12\t"), Ok(Value::Int(12)));
        assert_eq!(parse(ConfigType::Short, "-3"), Ok(Value::Short(-3)));
        assert_eq!(parse(ConfigType::Long, "9223372036854775807"), Ok(Value::Long(i64::MAX)));
        assert_eq!(parse(ConfigType::Double, "1.5e3"), Ok(Value::Double(1500.0)));
        assert_eq!(parse(ConfigType::Double, "0.5d"), Ok(Value::Double(0.5)));
        assert_eq!(parse(ConfigType::String, "  a b "), Ok(Value::String("a b".to_string())));
        assert_eq!(
            parse(ConfigType::List, " a , b,,c "),
            Ok(Value::List(["a", "b", "", "c"].map(String::from).to_vec()))
        );
        assert_eq!(parse(ConfigType::List, "  "), Ok(Value::List(Vec::new())));
    }

    #[test]
    fn refusals_use_kafkas_words() {
        use ConfigType::*;
        let cases = [
            (Int, Check::Any, "1_000", "Invalid value 1_000 for configuration k: Not a number of type INT"),
            (Int, Check::Any, "", "Invalid value  for configuration k: Not a number of type INT"),
            (Int, Check::Any, "2147483648", "Invalid value 2147483648 for configuration k: Not a number of type INT"),
            (Short, Check::Any, "40000", "Invalid value 40000 for configuration k: Not a number of type SHORT"),
            (Long, Check::Any, "1e3", "Invalid value 1e3 for configuration k: Not a number of type LONG"),
            (Double, Check::Any, "inf", "Invalid value inf for configuration k: Not a number of type DOUBLE"),
            (
                Boolean,
                Check::Any,
                "yes",
                "Invalid value yes for configuration k: Expected value to be either true or false",
            ),
            (Int, Check::AtLeast(14), "13", "Invalid value 13 for configuration k: Value must be at least 14"),
            (Int, Check::Between(1, 17), "18", "Invalid value 18 for configuration k: Value must be no more than 17"),
            (
                Double,
                Check::BetweenDoubles(0.0, 1.0),
                "1.5",
                "Invalid value 1.5 for configuration k: Value must be no more than 1",
            ),
            (
                Int,
                Check::GzipLevel,
                "0",
                "Invalid value 0 for configuration k: Value must be between 1 and 9 or equal to -1",
            ),
            (
                String,
                Check::OneOf(&["a", "b"]),
                "c",
                "Invalid value c for configuration k: String must be one of: a, b",
            ),
            (
                List,
                Check::EachOneOf(&["compact", "delete"]),
                "delete,none",
                "Invalid value none for configuration k: String must be one of: compact, delete",
            ),
            (
                String,
                Check::MetadataVersion,
                "9.9",
                "Invalid value 9.9 for configuration k: Version 9.9 is not a valid version",
            ),
            (
                List,
                Check::ThrottledReplicas,
                "1:a",
                "Invalid value [1:a] for configuration k: k must be the literal '*' or a list of replicas in the \
                 following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
            ),
        ];
        for (config_type, check, text, expected) in cases {
            assert_eq!(refusal(config_type, check, text), expected);
        }
    }

    #[test]
    fn throttled_replicas_are_a_star_or_pairs() {
        for text in ["", "*", "0:1", "0:1, 2:3", "0:1,,2:3"] {
            assert!(setting(ConfigType::List, Check::ThrottledReplicas).parse(text).is_ok(), "{text}");
        }
        for text in ["**", "0", "0:1:2", "*,0:1"] {
            assert!(setting(ConfigType::List, Check::ThrottledReplicas).parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn doubles_print_as_in_java() {
        for (value, text) in
            [(0.5, "0.5"), (0.0, "0.0"), (f64::MAX, "1.7976931348623157E308"), (1e7, "1.0E7"), (1234567.0, "1234567.0")]
        {
            assert_eq!(java_double(value), text);
        }
    }
}
