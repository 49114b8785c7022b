//! The command line of a tool: its flags as a table, parsed and refused in Kafka's words.

use std::ffi::OsString;
use std::io::Write;
use std::str::FromStr;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::client::pattern::comma_list;

/// What follows a flag on the command line. The text names the value in the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    /// One value; the flag may stand once.
    Value(&'static str),
    /// One value; the flag may be repeated.
    Repeated(&'static str),
    /// A value or none.
    Optional(&'static str),
    /// Values up to the next flag.
    Several(&'static str),
}

/// One row of a tool's table of flags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    pub(crate) help: &'static str,
}

pub(crate) const fn flag(name: &'static str, takes: Takes, help: &'static str) -> Flag {
    Flag { name, takes, help }
}

pub(crate) const BOOTSTRAP_SERVER: Flag =
    flag("bootstrap-server", Takes::Value("host:port,..."), "REQUIRED: the server(s) to connect to.");
/// What `--bootstrap-server` was called.
pub(crate) const BROKER_LIST: Flag =
    flag("broker-list", Takes::Value("host:port,..."), "DEPRECATED, use --bootstrap-server instead.");
pub(crate) const COMMAND_CONFIG: Flag =
    flag("command-config", Takes::Value("properties file"), "Property file for the admin client.");

/// One command-line tool: what its usage shows and what its parser accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// Name of its script in bin/, without `.sh`.
    pub(crate) script: &'static str,
    pub(crate) about: &'static str,
    pub(crate) flags: &'static [Flag],
}

/// The tools whose command line argparse4j reads in Kafka; that of the others joptsimple does.
const ARGPARSE: [&str; 6] = [
    "kafka-producer-perf-test",
    "kafka-verifiable-consumer",
    "kafka-verifiable-producer",
    "kafka-transactions",
    "kafka-features",
    "kafka-cluster",
];

/// One of the things that a tool does, and which flags go with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subcommand {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [&'static str],
    pub(crate) takes: &'static [&'static str],
}

/// Why a tool ends before its work is done, or without having done it.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command line asks for something that makes no sense: the message and the usage go to stderr.
    Usage(String),
    /// `--version`.
    Version,
    /// The work failed; the tool says so in its own form, `Stop::Failed` carries what goes to stderr.
    Failed(String),
    /// The work failed, and the tool has already told the user.
    Reported,
    /// A signal ended the work: the status of a process that the signal had ended, as that of a JVM tool.
    Signalled(i32),
    /// Nobody reads our output any more.
    Output,
}

impl From<std::io::Error> for Stop {
    fn from(_: std::io::Error) -> Stop {
        Stop::Output
    }
}

impl From<crate::log::error::LogError> for Stop {
    fn from(error: crate::log::error::LogError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

impl From<crate::record::read::ReadError> for Stop {
    fn from(error: crate::record::read::ReadError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

impl From<crate::client::error::ClientError> for Stop {
    fn from(error: crate::client::error::ClientError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

impl Tool {
    fn command(&self) -> Command {
        let mut command = Command::new(self.script)
            .bin_name(format!("{}.sh", self.script))
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .arg(Arg::new("help").long("help").action(ArgAction::SetTrue).help("Print usage information."))
            .arg(Arg::new("version").long("version").action(ArgAction::SetTrue).help("Display Kafka version."))
            // Kafka's parser ignores words that belong to no flag.
            .arg(Arg::new("words").num_args(0..).hide(true));
        for flag in self.flags {
            let arg = Arg::new(flag.name).long(flag.name).help(flag.help);
            command = command.arg(match flag.takes {
                Takes::Nothing => arg.action(ArgAction::SetTrue).overrides_with(flag.name),
                Takes::Value(name) | Takes::Repeated(name) => {
                    arg.action(ArgAction::Append).num_args(1).allow_hyphen_values(true).value_name(name)
                }
                Takes::Optional(name) => {
                    arg.action(ArgAction::Append).num_args(0..=1).default_missing_value("").value_name(name)
                }
                Takes::Several(name) => arg.action(ArgAction::Append).num_args(1..).value_name(name),
            });
        }
        command
    }

    /// A command line that is right, in words without blanks.
    #[cfg(test)]
    pub(crate) fn options(&self, line: &str) -> Options {
        let arguments: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
        self.parse(&arguments).expect("the command line is right")
    }

    /// Writes the message and the table of flags, as the tools do for `--help` and for every mistake.
    pub(crate) fn print_usage(&self, message: &str, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "{message}")?;
        write!(out, "{}", self.command().term_width(110).render_help())
    }

    /// To joptsimple a single dash is as good as two before the name of an option. What follows an option that takes a value
    /// is its value, whatever it looks like.
    /// Source: joptsimple 5.0.4 joptsimple/OptionParser.java, handleShortOptionToken; NoArgumentOptionSpec.java, handleOption.
    fn with_two_dashes(&self, arguments: &[OsString]) -> Vec<OsString> {
        let mut spelled = Vec::with_capacity(arguments.len());
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let word = argument.to_string_lossy();
            let (bare, is_short) = match (word.strip_prefix("--"), word.strip_prefix('-')) {
                (Some(""), _) => {
                    spelled.push(argument.clone());
                    spelled.extend(rest.by_ref().cloned());
                    break;
                }
                (Some(bare), _) => (bare, false),
                (None, Some(bare)) => (bare, true),
                (None, None) => (&*word, false),
            };
            let name = bare.split('=').next().unwrap_or_default();
            let flag = self.flags.iter().find(|flag| word.starts_with('-') && flag.name == name);
            let is_switch = match flag {
                Some(flag) => matches!(flag.takes, Takes::Nothing),
                None => word.starts_with('-') && matches!(name, "help" | "version"),
            };
            spelled.push(match (is_switch, flag.is_some() && is_short) {
                // What a switch is given counts for nothing.
                (true, _) => OsString::from(format!("--{name}")),
                (false, true) => OsString::from(format!("--{bare}")),
                (false, false) => argument.clone(),
            });
            let takes_next = matches!(flag, Some(Flag { takes: Takes::Value(_) | Takes::Repeated(_), .. }));
            if takes_next && !bare.contains('=') {
                spelled.extend(rest.next().cloned());
            }
        }
        spelled
    }

    /// `--help` and an empty command line end as a usage error whose message is the tool's purpose, as in Kafka.
    pub(crate) fn parse(&self, arguments: &[OsString]) -> Result<Options, Stop> {
        if arguments.is_empty() {
            return Err(Stop::Usage(self.about.to_owned()));
        }
        let is_argparse = ARGPARSE.contains(&self.script);
        let arguments = if is_argparse { arguments.to_vec() } else { self.with_two_dashes(arguments) };
        // argparse takes the beginning of a name for it, if it is that of no other.
        let command = self.command().infer_long_args(is_argparse);
        let matches = command.try_get_matches_from(arguments).map_err(|error| {
            let name = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(name)) => name.trim_start_matches('-').split([' ', '=', '[']).next(),
                _ => None,
            };
            let name = name.unwrap_or_default();
            Stop::Usage(match error.kind() {
                ErrorKind::UnknownArgument if is_argparse => format!("unrecognized arguments: '--{name}'"),
                ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues if is_argparse => {
                    format!("argument --{name}: expected one argument")
                }
                ErrorKind::UnknownArgument => format!("{name} is not a recognized option"),
                ErrorKind::TooManyValues => format!("Option {name} does not take an argument"),
                ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
                    format!("Option {name} requires an argument")
                }
                _ => error.to_string().lines().next().unwrap_or_default().to_owned(),
            })
        })?;
        let options = Options { matches };
        if options.matches.get_flag("help") {
            return Err(Stop::Usage(self.about.to_owned()));
        }
        if options.matches.get_flag("version") {
            return Err(Stop::Version);
        }
        for flag in self.flags {
            if !is_argparse && matches!(flag.takes, Takes::Value(_)) && options.values(flag.name).len() > 1 {
                let name = flag.name;
                return Err(Stop::Usage(format!(
                    "Found multiple arguments for option {name}, but you asked for only one"
                )));
            }
        }
        Ok(options)
    }
}

/// A parsed command line. Asking for a flag that the tool's table does not have is a mistake of ours and panics.
#[derive(Debug)]
pub(crate) struct Options {
    matches: ArgMatches,
}

impl Options {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.matches.value_source(name).is_some_and(|source| source == clap::parser::ValueSource::CommandLine)
    }

    /// The value of a flag; empty for a flag that stands without its optional value.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).into_iter().next_back()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        match self.matches.try_get_many::<String>(name) {
            Ok(values) => values.into_iter().flatten().map(String::as_str).collect(),
            Err(error) => unreachable!("the table of flags has no value for {name}: {error}"),
        }
    }

    /// Those of the flags that stand on the command line, as they first stand there.
    pub(crate) fn in_order<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        let place = |name: &&str| self.matches.indices_of(name).and_then(|mut places| places.next());
        let mut given: Vec<&str> = names.iter().copied().filter(|name| self.has(name)).collect();
        given.sort_by_key(place);
        given
    }

    /// What belongs to no flag. Most tools ignore it, as Kafka's do.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.matches.get_many::<String>("words").into_iter().flatten().map(String::as_str).collect()
    }

    /// Which of its subcommands an argparse4j tool is to run. The tool's own flags stand before the subcommand, and those of
    /// the subcommand behind it.
    /// Source: argparse4j 0.7.0 net/sourceforge/argparse4j/internal/ArgumentParserImpl.java, parseArgs.
    pub(crate) fn subcommand(&self, own: &[&str], subcommands: &[Subcommand]) -> Result<&'static str, Stop> {
        let places = |name: &str| self.matches.indices_of(name).into_iter().flatten();
        let at = places("words").next().unwrap_or(usize::MAX);
        let words = self.words();
        let named = words.first().map(|word| (*word, subcommands.iter().find(|one| one.name == *word)));
        let behind = match named {
            Some((_, Some(subcommand))) => [subcommand.needs, subcommand.takes].concat(),
            _ => Vec::new(),
        };
        let given = self.matches.ids().map(clap::Id::as_str).filter(|name| *name != "words" && self.has(name));
        let stands_wrong = |name: &&str, place: usize| !if place < at { own } else { &behind[..] }.contains(name);
        let wrong = given.flat_map(|name| places(name).map(move |place| (name, place)));
        let wrong = wrong.filter(|(name, place)| stands_wrong(name, *place)).min_by_key(|(_, place)| *place);
        let unrecognized = |what: &str| Err(Stop::Usage(format!("unrecognized arguments: '{what}'")));
        match (named, wrong) {
            (_, Some((name, place))) if place < at => unrecognized(&format!("--{name}")),
            (None, _) => Err(Stop::Usage("too few arguments".to_owned())),
            (Some((word, None)), _) => {
                let all: Vec<String> = subcommands.iter().map(|one| format!("'{}'", one.name)).collect();
                Err(Stop::Usage(format!("invalid choice: '{word}' (choose from {})", all.join(", "))))
            }
            (_, Some((name, _))) => unrecognized(&format!("--{name}")),
            (Some((_, Some(subcommand))), None) => match &words[1..] {
                [] => match subcommand.needs.iter().find(|name| !self.has(name)) {
                    Some(name) => Err(Stop::Usage(format!("argument --{name} is required"))),
                    None => Ok(subcommand.name),
                },
                extra => unrecognized(&extra.join(" ")),
            },
        }
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Stop> {
        self.value(name)
            .map(|text| {
                text.trim().parse().map_err(|_| Stop::Usage(format!("Cannot parse argument '{text}' of option {name}")))
            })
            .transpose()
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Stop> {
        self.value(name).ok_or_else(|| Stop::Usage(format!("Missing required argument \"[{name}]\"")))
    }

    /// The same in the words of Kafka's newer parser.
    pub(crate) fn required_argument(&self, name: &str) -> Result<&str, Stop> {
        self.value(name).ok_or_else(|| Stop::Usage(format!("argument --{name} is required")))
    }

    /// Where brokers are, of a tool that takes `BOOTSTRAP_SERVER` and `BROKER_LIST`; `missing` is what it says without.
    pub(crate) fn servers(&self, missing: &str) -> Result<String, Stop> {
        let given = self.value("bootstrap-server").or(self.value("broker-list"));
        Ok(bootstrap_servers(given.ok_or_else(|| Stop::Usage(missing.to_owned()))?)?.join(","))
    }

    /// Refuses `name` together with any of `others`.
    pub(crate) fn exclude(&self, name: &str, others: &[&str]) -> Result<(), Stop> {
        match others.iter().find(|other| self.has(name) && self.has(other)) {
            Some(other) => Err(Stop::Usage(format!("Option \"[{name}]\" can't be used with option \"[{other}]\""))),
            None => Ok(()),
        }
    }
}

/// `k=v` arguments; a missing value is the empty string.
pub(crate) fn key_values(arguments: &[&str]) -> Vec<(String, String)> {
    arguments
        .iter()
        .map(|argument| {
            let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// Checks a `host:port,host:port` list.
pub(crate) fn bootstrap_servers(list: &str) -> Result<Vec<String>, Stop> {
    let servers: Vec<String> = comma_list(list).into_iter().map(|server| server.trim().to_owned()).collect();
    for server in &servers {
        let port = server.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(Stop::Usage("Please provide valid host:port like host1:9091,host2:9092\n ".to_owned()));
        }
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: Tool = Tool {
        script: "kafka-example",
        about: "An example.",
        flags: &[
            flag("topic", Takes::Value("topic"), "The topic."),
            flag("shift-by", Takes::Value("number"), "May be negative."),
            flag("list", Takes::Nothing, "A flag."),
            flag("state", Takes::Optional("state"), "With or without a value."),
            flag("property", Takes::Repeated("k=v"), "Any number of times."),
            flag("producer-props", Takes::Several("k=v"), "Up to the next flag."),
        ],
    };

    fn parse(line: &str) -> Result<Options, Stop> {
        TOOL.parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn refusal(line: &str) -> String {
        match parse(line) {
            Err(Stop::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_follows_its_flag_as_a_word_or_after_an_equals_sign() {
        for line in ["--topic a --shift-by -10 --list", "--topic=a --shift-by=-10 --list"] {
            let options = parse(line).unwrap();
            assert_eq!(options.value("topic"), Some("a"));
            assert_eq!(options.number::<i64>("shift-by").unwrap(), Some(-10));
            assert!(options.has("list") && !options.has("state"));
        }
        let options = parse("--property a=b=c --property d --state --producer-props x=1 y=2 --list").unwrap();
        assert_eq!(key_values(&options.values("property")), [("a".into(), "b=c".into()), ("d".into(), String::new())]);
        assert_eq!(options.values("producer-props"), ["x=1", "y=2"]);
        assert!(options.has("state") && options.has("list"));
        assert_eq!(options.value("state"), Some(""));
        assert_eq!(parse("--state Empty,Dead").unwrap().value("state"), Some("Empty,Dead"));
    }

    #[test]
    fn one_dash_before_a_known_name_is_as_good_as_two() {
        let options = parse("-topic -list -shift-by=-10 --property -topic -state -help=x word");
        assert!(options.is_err(), "help takes no value: {options:?}");
        let options = parse("-topic -list -shift-by=-10 --property -topic -state -list word").unwrap();
        assert_eq!((options.value("topic"), options.value("property")), (Some("-list"), Some("-topic")));
        assert_eq!(options.number::<i64>("shift-by").unwrap(), Some(-10));
        assert!(options.has("list") && options.value("state") == Some(""));
        assert_eq!(options.words(), ["word"]);
        assert!(matches!(parse("-version"), Err(Stop::Version)));
        assert_eq!(refusal("-bogus"), "b is not a recognized option");
        assert_eq!(parse("--list -- -topic").unwrap().words(), ["-topic"]);
    }

    #[test]
    fn argparse_has_its_own_words() {
        let tool = Tool { script: "kafka-features", ..TOOL };
        let parse = |line: &str| tool.parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        let refusal = |line| match parse(line) {
            Err(Stop::Usage(message)) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(refusal("--bogus"), "unrecognized arguments: '--bogus'");
        assert_eq!(refusal("--topic"), "argument --topic: expected one argument");
        assert_eq!(parse("--topic a --topic b").unwrap().value("topic"), Some("b"));
        assert!(parse("-list").is_err());
    }

    #[test]
    fn a_subcommand_takes_its_own_flags_and_no_words() {
        let tool = Tool { script: "kafka-features", ..TOOL };
        let subcommands = [
            Subcommand { name: "one", needs: &["topic"], takes: &["list"] },
            Subcommand { name: "other", needs: &[], takes: &["shift-by"] },
        ];
        let chosen = |line: &str| match tool.options(line).subcommand(&["state", "property"], &subcommands) {
            Ok(name) => name.to_owned(),
            Err(Stop::Usage(message)) => message,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(chosen("--property a --property b one --topic t --list"), "one");
        assert_eq!(chosen("other"), "other");
        assert_eq!(chosen("--property a"), "too few arguments");
        assert_eq!(chosen("neither"), "invalid choice: 'neither' (choose from 'one', 'other')");
        assert_eq!(chosen("one --list"), "argument --topic is required");
        for (line, unrecognized) in [
            ("one --topic t --shift-by 1", "--shift-by"),
            ("one --topic t --property a", "--property"),
            ("--property a other --property b", "--property"),
            ("--topic t one", "--topic"),
            ("--list", "--list"),
            ("other --shift-by 1 more words", "more words"),
        ] {
            assert_eq!(chosen(line), format!("unrecognized arguments: '{unrecognized}'"), "{line}");
        }
    }

    #[test]
    fn mistakes_are_named_as_kafka_names_them() {
        assert_eq!(refusal("--nosuch"), "nosuch is not a recognized option");
        assert_eq!(refusal("--top a"), "top is not a recognized option");
        assert_eq!(refusal("--topic"), "Option topic requires an argument");
        assert_eq!(
            refusal("--topic a --topic b"),
            "Found multiple arguments for option topic, but you asked for only one"
        );
        assert_eq!(refusal("--help"), "An example.");
        assert_eq!(refusal(""), "An example.");
        assert!(matches!(parse("--version"), Err(Stop::Version)));
        let options = parse("--list").unwrap();
        assert!(
            matches!(options.required("topic"), Err(Stop::Usage(m)) if m == "Missing required argument \"[topic]\"")
        );
        assert!(matches!(parse("--list --topic a").unwrap().exclude("list", &["state", "topic"]),
            Err(Stop::Usage(m)) if m == "Option \"[list]\" can't be used with option \"[topic]\""));
    }

    #[test]
    fn a_server_without_a_port_is_refused() {
        assert_eq!(bootstrap_servers("a:1,b:2").unwrap(), ["a:1", "b:2"]);
        assert_eq!(bootstrap_servers("PLAINTEXT://a:1,b:2,").unwrap(), ["PLAINTEXT://a:1", "b:2"]);
        assert!(bootstrap_servers("localhost").is_err());
        assert!(bootstrap_servers(":9092").is_err());
    }
}
