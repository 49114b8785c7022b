//! Every declared message is that of Kafka's schema, field by field.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use odradek::protocol::message::{FieldSchema, MessageSchema, StructSchema};
use odradek::protocol::messages::SCHEMAS;
use serde_json::Value;

/// Messages with versions that 3.9 does not have (KIP-890 part 2), held against a release that has them.
const OF_4_1: [&str; 4] = ["EndTxnRequest", "EndTxnResponse", "TxnOffsetCommitRequest", "TxnOffsetCommitResponse"];

fn clients_jar(release: &str) -> PathBuf {
    let deps = std::env::var_os("ODRADEK_TEST_DEPS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-deps")), PathBuf::from);
    let jar = deps.join(format!("clients-{release}/kafka-clients-{release}.jar"));
    assert!(jar.exists(), "{} is missing: run tests/deps.sh, which installs it", jar.display());
    jar
}

/// The schema of one message; its `//` comments removed, which JSON does not have.
fn schema(jar: &mut zip::ZipArchive<File>, name: &str) -> Value {
    let mut text = String::new();
    jar.by_name(&format!("common/message/{name}.json"))
        .unwrap_or_else(|error| panic!("the jar has no schema of {name}: {error}"))
        .read_to_string(&mut text)
        .expect("a schema is text");
    let json: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("the schema of {name} does not parse: {error}"))
}

fn versions(text: &str) -> RangeInclusive<i16> {
    let number = |text: &str| text.trim().parse().expect("a version is a number");
    match (text.strip_suffix('+'), text.split_once('-')) {
        (Some(low), _) => number(low)..=i16::MAX,
        (None, Some((low, high))) => number(low)..=number(high),
        (None, None) => number(text)..=number(text),
    }
}

fn squeezed(name: &str) -> String {
    name.trim_start_matches("r#").replace('_', "").to_lowercase()
}

fn rust_type(kafka: &str, nullable: bool) -> String {
    let single = |kafka: &str| {
        match kafka {
            "bool" => "bool",
            "int8" => "i8",
            "int16" => "i16",
            "uint16" => "u16",
            "int32" => "i32",
            "int64" => "i64",
            "float64" => "f64",
            "string" => "String",
            "bytes" => "Bytes",
            "uuid" => "TopicId",
            "records" => "Payload",
            name => name,
        }
        .to_owned()
    };
    let plain = match kafka.strip_prefix("[]") {
        Some(element) => format!("Vec<{}>", single(element)),
        None => single(kafka),
    };
    // Records are always held so that "none" can be told from "no bytes".
    if nullable || kafka == "records" { format!("Option<{plain}>") } else { plain }
}

/// The default as a declaration writes it: zero, false and empty are not written.
fn default_text(field: &Value) -> String {
    let text = match &field["default"] {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.as_str() {
        "" | "0" | "false" => String::new(),
        hex if hex.starts_with("0x") => i64::from_str_radix(&hex[2..], 16).expect("a hexadecimal number").to_string(),
        other => other.to_owned(),
    }
}

fn is_true(value: &Value) -> bool {
    value == &Value::Bool(true) || value == "true"
}

struct Comparison<'a> {
    declared: BTreeMap<&'a str, &'a [FieldSchema]>,
    common: BTreeMap<String, Value>,
    compared: Vec<String>,
    differences: Vec<String>,
}

impl Comparison<'_> {
    fn compare_struct(&mut self, name: &str, fields: &Value) {
        if self.compared.iter().any(|compared| compared == name) {
            return;
        }
        self.compared.push(name.to_owned());
        let Some(declared) = self.declared.get(name).copied() else {
            self.differences.push(format!("{name} is not declared"));
            return;
        };
        let fields = fields.as_array().expect("fields are a list");
        let is_tagged = |field: &&Value| !field["tag"].is_null();
        // Tagged fields stand last in a declaration; the order of the others is the order on the wire.
        let ordered = fields.iter().filter(|field| !is_tagged(field)).chain(fields.iter().filter(is_tagged));
        let expected: Vec<&Value> = ordered.collect();
        if expected.len() != declared.len() {
            self.differences.push(format!(
                "{name}: {} fields declared, {} in the schema",
                declared.len(),
                expected.len()
            ));
        }
        for (field, declared) in expected.iter().zip(declared) {
            self.compare_field(name, field, declared);
        }
    }

    fn compare_field(&mut self, owner: &str, field: &Value, declared: &FieldSchema) {
        let name = field["name"].as_str().expect("a field has a name");
        let kafka_type = field["type"].as_str().expect("a field has a type");
        let nullable = field["nullableVersions"].as_str();
        let expected = (
            squeezed(name),
            rust_type(kafka_type, nullable.is_some()),
            versions(field["versions"].as_str().expect("a field has versions")),
            nullable.map(|text| *versions(text).start()),
            default_text(field),
            is_true(&field["ignorable"]),
            field["tag"].as_u64().map(|tag| tag as u32),
        );
        let found = (
            squeezed(declared.name),
            // The same array, written in another way.
            declared.rust_type.replace(' ', "").replace("Elements<", "Vec<"),
            declared.versions.clone(),
            declared.nullable_from,
            declared.default.to_owned(),
            declared.ignorable,
            declared.tag,
        );
        if expected != found {
            self.differences.push(format!("{owner}.{name}:\n  schema   {expected:?}\n  declared {found:?}"));
        }
        if let Some(tagged) = field["taggedVersions"].as_str() {
            assert_eq!(versions(tagged), declared.versions, "{owner}.{name} is tagged in all of its versions");
        }
        let element = kafka_type.trim_start_matches("[]");
        if !field["fields"].is_null() {
            self.compare_struct(element, &field["fields"]);
        } else if let Some(fields) = self.common.get(element).cloned() {
            self.compare_struct(element, &fields);
        }
    }
}

fn differences(declared: &MessageSchema, schema: &Value) -> Vec<String> {
    let structs = declared.structs;
    let mut comparison = Comparison {
        declared: structs.iter().map(|StructSchema { name, fields }| (*name, *fields)).collect(),
        common: schema["commonStructs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|common| (common["name"].as_str().expect("a struct has a name").to_owned(), common["fields"].clone()))
            .collect(),
        compared: Vec::new(),
        differences: Vec::new(),
    };
    comparison.compare_struct(declared.name, &schema["fields"]);
    let mut differences = comparison.differences;
    differences.extend(
        structs
            .iter()
            .filter(|declared| !comparison.compared.iter().any(|name| name == declared.name))
            .map(|declared| format!("{} is declared and not in the schema", declared.name)),
    );
    if versions(schema["validVersions"].as_str().expect("a message has versions")) != declared.versions {
        differences.push(format!("{}: versions {}", declared.name, schema["validVersions"]));
    }
    let flexible = schema["flexibleVersions"].as_str().expect("a message says where it is flexible");
    let flexible = if flexible == "none" { i16::MAX } else { *versions(flexible).start() };
    if flexible != declared.flexible_from {
        differences.push(format!("{}: flexible from {flexible}", declared.name));
    }
    if schema["apiKey"].as_i64().unwrap_or(-1) != i64::from(declared.key) {
        differences.push(format!("{}: key {}", declared.name, schema["apiKey"]));
    }
    differences
}

/// Version 12 has what 11 has: no field ends or begins there.
fn same_fields_in_version_12(schema: &Value) {
    assert!(versions(schema["validVersions"].as_str().expect("a message has versions")).contains(&12));
    let mut fields: Vec<&Value> = schema["fields"].as_array().into_iter().flatten().collect();
    while let Some(field) = fields.pop() {
        let versions = versions(field["versions"].as_str().expect("a field has versions"));
        assert_eq!(versions.contains(&11), versions.contains(&12), "{field}");
        fields.extend(field["fields"].as_array().into_iter().flatten());
    }
}

#[test]
fn every_declaration_is_that_of_kafkas_schema() {
    let open = |release| {
        zip::ZipArchive::new(File::open(clients_jar(release)).expect("the jar opens")).expect("a jar is a zip")
    };
    let (mut of_3_9, mut of_4_1) = (open("3.9.1"), open("4.1.0"));
    let mut expected = |name: &str| {
        if OF_4_1.contains(&name) {
            return schema(&mut of_4_1, name);
        }
        let mut expected = schema(&mut of_3_9, name);
        if ["ProduceRequest", "ProduceResponse"].contains(&name) {
            same_fields_in_version_12(&schema(&mut of_4_1, name));
            assert_eq!(expected["validVersions"], "0-11");
            expected["validVersions"] = "0-12".into();
        }
        expected
    };
    let differences: Vec<String> =
        SCHEMAS.iter().flat_map(|declared| differences(declared, &expected(declared.name))).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_wrong_declaration_is_noticed() {
    const WRONG: &MessageSchema = &MessageSchema {
        name: "HeartbeatRequest",
        key: 12,
        versions: 0..=4,
        flexible_from: 4,
        structs: &[StructSchema {
            name: "HeartbeatRequest",
            fields: &[FieldSchema {
                name: "group_id",
                rust_type: "String",
                versions: 1..=i16::MAX,
                nullable_from: None,
                default: "",
                ignorable: false,
                tag: None,
            }],
        }],
    };
    let schema = serde_json::json!({
        "apiKey": 12, "validVersions": "0-4", "flexibleVersions": "4+",
        "fields": [{ "name": "GroupId", "type": "string", "versions": "0+" }],
    });
    assert_eq!(differences(WRONG, &schema).len(), 1);
}
