//! The arrows between the rooms, and the names of files, as ARCHITECTURE.md promises them.

use std::fs;
use std::path::{Path, PathBuf};

/// A room uses only rooms in the bands above its own, and itself.
const BANDS: &[&[&str]] = &[
    &["model", "codec"],
    &["protocol", "record", "config", "metrics"],
    &["log", "metadata", "quota", "security", "client"],
    &["replica", "controller", "coordinator"],
    &["network", "api", "cli"],
    &["broker"],
];

/// The only arrows inside a band.
const SIDEWAYS: &[(&str, &str)] = &[("client", "security"), ("coordinator", "replica"), ("api", "network")];

/// Not in any band: whole clusters in one process, only for tests. It may use every room.
const SIMULATION: &str = "simulation";

/// Names that say nothing about what is inside.
const NAMELESS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "types", "manager"];

fn band(room: &str) -> Option<usize> {
    BANDS.iter().position(|rooms| rooms.contains(&room))
}

fn allowed(from: &str, to: &str) -> bool {
    if from == to || from == SIMULATION || SIDEWAYS.contains(&(from, to)) {
        return true;
    }
    matches!((band(from), band(to)), (Some(from), Some(to)) if to < from)
}

/// The rooms that a source file names, each with its line number. `use crate::{...}` over several
/// rooms yields a room called `{`, which no arrow allows.
fn rooms_used(source: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let mut rest = code;
        while let Some(at) = rest.find("crate::") {
            // `odradek_crate::` is another word; `$crate::` of a macro is this crate.
            let another_word =
                rest[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_');
            rest = &rest[at + "crate::".len()..];
            let room: String = match rest.chars().next() {
                Some('{') => "{".to_owned(),
                _ => rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect(),
            };
            // `crate::name!` is a macro, `crate::Name` an item of lib.rs: neither is a room.
            let macro_call = rest[room.len()..].starts_with('!');
            if !another_word && !macro_call {
                used.push((number + 1, room));
            }
        }
    }
    used
}

/// Every wrong arrow of one file: `src/log/segment.rs:12: log must not use api`.
fn wrong_arrows(path: &str, room: &str, source: &str) -> Vec<String> {
    rooms_used(source)
        .into_iter()
        .filter(|(_, to)| !allowed(room, to))
        .map(|(line, to)| format!("{path}:{line}: {room} must not use {to}"))
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn source_files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![below.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a source directory is readable") {
            let path = entry.expect("its entries too").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// `src/log/segment.rs` is in the room `log`, and so is `src/log.rs`; main.rs and lib.rs are in none.
fn room_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    let room = first.strip_suffix(".rs").unwrap_or(first);
    (room != "main" && room != "lib").then(|| room.to_owned())
}

#[test]
fn a_room_uses_only_rooms_in_the_bands_above_it() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in source_files(&root().join("src")) {
        let Some(room) = room_of(&path) else { continue };
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        if band(&room).is_none() && room != SIMULATION {
            wrong.push(format!("{name}: {room} is in no band"));
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source file is UTF-8");
        seen += 1;
        wrong.extend(wrong_arrows(&name, &room, &source));
    }
    assert!(seen > 10, "only {seen} files were looked at");
    assert!(wrong.is_empty(), "wrong arrows:\n{}", wrong.join("\n"));
}

#[test]
fn the_zookeeper_crate_knows_no_room() {
    for path in source_files(&root().join("zookeeper/src")) {
        let source = fs::read_to_string(&path).expect("a source file is UTF-8");
        assert!(!source.contains("odradek::"), "{} must not know the broker", path.display());
    }
}

/// What asks the file system, and what could only be wanted for that.
const FILE_SYSTEM: &[&str] = &[
    "std::fs",
    " fs::",
    "OpenOptions",
    "FileExt",
    "MetadataExt",
    " File::",
    "(File::",
    "rustix::fs",
    "rustix::io::p",
    ".exists()",
    ".try_exists()",
    ".metadata()",
    ".set_len(",
    ".sync_all(",
    ".sync_data(",
    ".read_dir()",
    ".canonicalize()",
];

/// Every line that asks the file system itself, but for those of tests, which end a file.
fn asks_the_file_system(path: &str, source: &str) -> Vec<String> {
    let lines = source.lines().enumerate().take_while(|(_, line)| *line != "mod tests {");
    let code = lines.map(|(number, line)| (number, line.split("//").next().unwrap_or_default()));
    let asks = code.filter(|(_, code)| FILE_SYSTEM.iter().any(|word| code.contains(word)));
    asks.map(|(number, code)| format!("{path}:{}: {}", number + 1, code.trim())).collect()
}

#[test]
fn the_log_room_has_one_door_to_the_file_system() {
    let only_in_tests = |name: &str| name.ends_with("_tests.rs") || ["testing.rs", "forgetful_disk.rs"].contains(&name);
    let (mut asking, mut seen) = (Vec::new(), 0);
    for path in source_files(&root().join("src/log")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "files.rs" || only_in_tests(&name) {
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source file is UTF-8");
        asking.extend(asks_the_file_system(&path.display().to_string(), &source));
        seen += 1;
    }
    assert!(seen > 30, "only {seen} files were looked at");
    assert!(asking.is_empty(), "these belong into files.rs:\n{}", asking.join("\n"));
}

#[test]
fn a_file_is_named_after_a_thing_in_the_field() {
    let mut nameless = Vec::new();
    for below in ["src", "zookeeper/src", "tests"] {
        for path in source_files(&root().join(below)) {
            let inside = path.strip_prefix(root()).unwrap_or(&path);
            for part in inside.components() {
                let part = part.as_os_str().to_string_lossy();
                let name = part.strip_suffix(".rs").unwrap_or(&part);
                if NAMELESS.contains(&name) {
                    nameless.push(inside.display().to_string());
                }
            }
        }
    }
    assert!(nameless.is_empty(), "these say nothing: {nameless:?}");
}

#[test]
fn who_passes_by_the_door_is_seen() {
    let source = "let x = std::fs::read(path); // why\nlet index = IndexFile::empty();\nif path.exists() {}\n\
                  mod tests {\nstd::fs::read(path);\n";
    let seen = asks_the_file_system("f.rs", source);
    assert_eq!(seen, ["f.rs:1: let x = std::fs::read(path);", "f.rs:3: if path.exists() {}"]);
}

#[test]
fn a_wrong_arrow_is_seen() {
    let seen = |room, source| wrong_arrows("f.rs", room, source);
    assert_eq!(seen("log", "use crate::model::Offset;\nuse crate::api::Server;\n"), ["f.rs:2: log must not use api"]);
    assert_eq!(seen("model", "fn f() { crate::codec::reader::x() }"), ["f.rs:1: model must not use codec"]);
    assert_eq!(seen("log", "use crate::{model::Offset, record::batch};"), ["f.rs:1: log must not use {"]);
    assert_eq!(seen("log", "use crate::unheard_of::X;"), ["f.rs:1: log must not use unheard_of"]);
    // The sideways arrows go one way only.
    assert!(seen("coordinator", "use crate::replica::X;").is_empty());
    assert_eq!(seen("replica", "use crate::coordinator::X;"), ["f.rs:1: replica must not use coordinator"]);
    // Words in comments, the room itself and a macro of this crate are no arrows.
    assert!(seen("log", "// crate::api::Server\nuse crate::log::x;\ncrate::message! {}\n").is_empty());
    assert!(seen("api", "pub(crate) fn f() { other_crate::x() }").is_empty());
}
