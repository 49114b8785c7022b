//! `--reset-offsets`: what the new offsets of a group are, and storing them.

use std::collections::BTreeMap;
use std::io::Write;

use regex::Regex;

use super::{described, group_ids, partitions_of_arguments};
use crate::cli::options::{Options, Stop};
use crate::cli::table::print_rows;
use crate::client::admin::{Committed, EARLIEST, LATEST};
use crate::client::cluster::Cluster;
use crate::model::TopicPartition;

type Offsets = BTreeMap<TopicPartition, i64>;

/// `PnDTnHnMnS` in milliseconds. Source: the documentation of java.time.Duration.parse, whose grammar no crate has: each
/// part may have a sign of its own, and weeks, months and years are refused.
fn parse_duration_ms(text: &str) -> Result<i64, Stop> {
    let invalid = || Stop::Failed("Text cannot be parsed to a Duration".to_owned());
    let form = Regex::new(
        r"(?i-u)^([-+]?)P(?:([-+]?\d+)D)?(T(?:([-+]?\d+)H)?(?:([-+]?\d+)M)?(?:([-+]?\d+)(?:[.,](\d{0,9}))?S)?)?$",
    )
    .expect("the pattern is constant");
    let parts = form.captures(text).ok_or_else(invalid)?;
    let part = |index: usize| parts.get(index).map(|m| m.as_str());
    if (2..=6).filter(|index| *index != 3).all(|index| part(index).is_none()) || part(3) == Some("T") {
        return Err(invalid());
    }
    let number = |index: usize| part(index).map_or(Ok(0), |text| text.parse::<i64>().map_err(|_| invalid()));
    let (days, hours, minutes, seconds) = (number(2)?, number(4)?, number(5)?, number(6)?);
    let thousandths: String = part(7).unwrap_or_default().chars().chain("000".chars()).take(3).collect();
    let thousandths: i64 = thousandths.parse().map_err(|_| invalid())?;
    let thousandths = if part(6).is_some_and(|text| text.starts_with('-')) { -thousandths } else { thousandths };
    let total = [(days, 86_400_000), (hours, 3_600_000), (minutes, 60_000), (seconds, 1000), (thousandths, 1)]
        .into_iter()
        .try_fold(0i64, |sum, (count, unit): (i64, i64)| sum.checked_add(count.checked_mul(unit)?))
        .ok_or_else(invalid)?;
    Ok(if part(1) == Some("-") { -total } else { total })
}

/// `YYYY-MM-DDTHH:mm:SS.sss` in milliseconds since 1970; UTC unless it ends with an offset. As in Kafka, the milliseconds
/// must be there and are a number, not a fraction: `.5` is `.005`. Refused is also what Java takes for another time than
/// it says, since it reads no further: `+0130` as `+01`.
/// Source: kafka 3.9.0-rc3 clients/.../common/utils/Utils.java, getDateTime.
fn parse_datetime_ms(text: &str) -> Result<i64, Stop> {
    let time = text.split('T').nth(1).filter(|time| !time.is_empty()).ok_or_else(|| {
        Stop::Failed("Error parsing timestamp. It does not contain a 'T' according to ISO8601 format".to_owned())
    })?;
    let zoned = if time.contains(['+', '-', 'Z']) { text.to_owned() } else { format!("{text}Z") };
    read_zoned_ms(&zoned).ok_or_else(|| Stop::Failed(format!("Unparseable date: \"{zoned}\"")))
}

fn read_zoned_ms(text: &str) -> Option<i64> {
    // Java's calendar knows no others.
    const OFFSETS: std::ops::RangeInclusive<i32> = -13 * 3600..=14 * 3600;
    let form = Regex::new(
        r"(?-u)^(\d{1,4})-(\d{1,2})-(\d{1,2})T(\d{1,2}):(\d{1,2}):(\d{1,2})\.(\d{1,3})(?:Z|([-+]\d\d)(?:00|:([0-5]\d))?)$",
    )
    .expect("the pattern is constant");
    let parts = form.captures(text)?;
    let part = |index: usize| parts.get(index).map_or("0", |part| part.as_str());
    let small = |index: usize| part(index).parse::<i8>().ok();
    let nanoseconds = part(7).parse::<i32>().ok()? * 1_000_000;
    let local = jiff::civil::DateTime::new(
        part(1).parse().ok()?,
        small(2)?,
        small(3)?,
        small(4)?,
        small(5)?,
        // Only some parsers know of a leap second.
        small(6).filter(|second| *second < 60)?,
        nanoseconds,
    );
    let (hours, minutes) = (part(8), part(9).parse::<i32>().ok()?);
    let minutes = if hours.starts_with('-') { -minutes } else { minutes };
    let offset = hours.parse::<i32>().ok()? * 3600 + minutes * 60;
    let offset = jiff::tz::Offset::from_seconds(OFFSETS.contains(&offset).then_some(offset)?).ok()?;
    Some(offset.to_timestamp(local.ok()?).ok()?.as_millisecond())
}

async fn offsets_at(
    cluster: &Cluster,
    partitions: &[TopicPartition],
    timestamp: i64,
    what: &str,
) -> Result<Offsets, Stop> {
    let asked = partitions.iter().map(|partition| (partition.clone(), timestamp)).collect();
    let found = cluster.list_offsets(&asked, false).await?;
    found
        .into_iter()
        .map(|(partition, found)| match found {
            Ok(found) => Ok((partition, found.offset)),
            Err(_) => Err(Stop::Failed(format!("Error getting {what} of topic partition: {partition}"))),
        })
        .collect()
}

/// Brings offsets within what their partitions hold.
fn clamp(requested: &Offsets, starts: &Offsets, ends: &Offsets) -> Offsets {
    requested
        .iter()
        .map(|(partition, offset)| {
            let (start, end) = (starts.get(partition), ends.get(partition));
            let clamped = match (start, end) {
                (_, Some(end)) if offset > end => {
                    log::warn!(
                        "New offset ({offset}) is higher than latest offset for topic partition {partition}. Value \
                         will be set to {end}"
                    );
                    *end
                }
                (Some(start), _) if offset < start => {
                    log::warn!(
                        "New offset ({offset}) is lower than earliest offset for topic partition {partition}. Value \
                         will be set to {start}"
                    );
                    *start
                }
                _ => *offset,
            };
            (partition.clone(), clamped)
        })
        .collect()
}

async fn within_range(cluster: &Cluster, requested: &Offsets) -> Result<Offsets, Stop> {
    let partitions: Vec<TopicPartition> = requested.keys().cloned().collect();
    let starts = offsets_at(cluster, &partitions, EARLIEST, "starting offset").await?;
    let ends = offsets_at(cluster, &partitions, LATEST, "ending offset").await?;
    Ok(clamp(requested, &starts, &ends))
}

/// The offsets of the first records at or after a time; the end where there is none.
async fn offsets_by_time(
    cluster: &Cluster,
    partitions: &[TopicPartition],
    timestamp: i64,
    out: &mut dyn Write,
) -> Result<Offsets, Stop> {
    let mut found = offsets_at(cluster, partitions, timestamp, "offset by timestamp").await?;
    let missing: Vec<TopicPartition> =
        found.iter().filter(|(_, offset)| **offset < 0).map(|(partition, _)| partition.clone()).collect();
    for partition in &missing {
        writeln!(
            out,
            "\nWarn: Partition {} from topic {} is empty. Falling back to latest known offset.",
            partition.partition, partition.topic
        )?;
    }
    found.extend(offsets_at(cluster, &missing, LATEST, "ending offset").await?);
    Ok(found)
}

async fn new_offsets(options: &Options, cluster: &Cluster, group: &str, out: &mut dyn Write) -> Result<Offsets, Stop> {
    if let Some(path) = options.value("from-file") {
        let text = std::fs::read_to_string(path).map_err(|error| Stop::Failed(format!("read {path}: {error}")))?;
        let plan = parse_plan(&text, &options.values("group"))?;
        return match plan.get(group) {
            Some(requested) => within_range(cluster, requested).await,
            None => {
                writeln!(out, "\nError: No reset plan for group {group} found")?;
                Ok(Offsets::new())
            }
        };
    }
    let committed = cluster.committed_offsets(group, None, Committed::AsKnown).await?;
    let partitions = match options.has("all-topics") {
        true => committed.keys().cloned().collect(),
        false => partitions_of_arguments(options, cluster).await?,
    };
    if let Some(offset) = options.number::<i64>("to-offset")? {
        return within_range(cluster, &partitions.iter().map(|p| (p.clone(), offset)).collect()).await;
    }
    if options.has("to-earliest") {
        return offsets_at(cluster, &partitions, EARLIEST, "starting offset").await;
    }
    if options.has("to-latest") {
        return offsets_at(cluster, &partitions, LATEST, "ending offset").await;
    }
    if let Some(shift) = options.number::<i64>("shift-by")? {
        let requested = partitions.iter().map(|partition| match committed.get(partition).and_then(Option::as_ref) {
            Some(committed) => Ok((partition.clone(), committed.offset.saturating_add(shift))),
            None => Err(Stop::Usage(format!(
                "Cannot shift offset for partition {partition} since there is no current committed offset"
            ))),
        });
        return within_range(cluster, &requested.collect::<Result<_, _>>()?).await;
    }
    if let Some(text) = options.value("to-datetime") {
        return offsets_by_time(cluster, &partitions, parse_datetime_ms(text)?, out).await;
    }
    if let Some(text) = options.value("by-duration") {
        let timestamp = jiff::Timestamp::now().as_millisecond().saturating_sub(parse_duration_ms(text)?);
        return offsets_by_time(cluster, &partitions, timestamp, out).await;
    }
    // --to-current
    let (with, without): (Vec<_>, Vec<_>) = partitions.into_iter().partition(|p| committed.contains_key(p));
    let mut offsets = offsets_at(cluster, &without, LATEST, "ending offset").await?;
    for partition in with {
        let current = committed
            .get(&partition)
            .and_then(Option::as_ref)
            .ok_or_else(|| Stop::Failed(format!("Expected a valid current offset for topic partition: {partition}")))?;
        offsets.insert(partition, current.offset);
    }
    Ok(offsets)
}

/// `topic,partition,offset` lines for one group, `group,topic,partition,offset` lines for any number.
fn parse_plan(text: &str, groups: &[&str]) -> Result<BTreeMap<String, Offsets>, Stop> {
    let wrong = |line: u64, what: &str| Stop::Failed(format!("read a reset plan: line {line} {what}"));
    let mut plan: BTreeMap<String, Offsets> = BTreeMap::new();
    let mut lines = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    for fields in lines.records() {
        let fields = fields.map_err(|error| Stop::Failed(format!("read a reset plan: {error}")))?;
        let line = fields.position().map_or(0, csv::Position::line);
        let fields: Vec<&str> = fields.iter().collect();
        let (group, topic, partition, offset) = match (&fields[..], groups) {
            (&[topic, partition, offset], [group]) => (*group, topic, partition, offset),
            (&[group, topic, partition, offset], _) => (group, topic, partition, offset),
            _ => return Err(wrong(line, "has the wrong number of columns")),
        };
        let invalid = |_| wrong(line, "holds something that is not a number");
        let key = TopicPartition::new(topic, partition.trim().parse().map_err(invalid)?);
        plan.entry(group.to_owned()).or_default().insert(key, offset.trim().parse().map_err(invalid)?);
    }
    Ok(plan)
}

pub(super) async fn reset(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let executes = options.has("execute");
    if !executes && !options.has("dry-run") {
        complain!(
            "WARN: No action will be performed as the --execute option is missing.In a future major release, the \
             default behavior of this command will be to prompt the user before executing the reset rather than doing \
             a dry run. You should add the --dry-run option explicitly if you are scripting this command and want to \
             keep the current default behavior without prompting."
        );
    }
    let mut prepared: BTreeMap<String, Offsets> = BTreeMap::new();
    for id in group_ids(options, cluster).await? {
        let group = described(cluster, &id).await?;
        let group = group.map_err(|why| Stop::Failed(format!("java.util.concurrent.ExecutionException: {why}")))?;
        let state = group.map_or_else(|| "Dead".to_owned(), |(group, _)| group.group_state);
        if !matches!(state.as_str(), "Empty" | "Dead") {
            writeln!(
                out,
                "\nError: Assignments can only be reset if the group '{id}' is inactive, but the current state is {state}."
            )?;
            prepared.insert(id, Offsets::new());
            continue;
        }
        let offsets = new_offsets(options, cluster, &id, out).await?;
        if executes {
            cluster.alter_committed_offsets(&id, &offsets).await?;
        }
        prepared.insert(id, offsets);
    }
    print_reset(&prepared, options.has("export"), options.values("group").len() == 1, out)?;
    Ok(())
}

fn print_reset(
    prepared: &BTreeMap<String, Offsets>,
    is_export: bool,
    is_single: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    if is_export {
        let mut lines = csv::Writer::from_writer(&mut *out);
        for (group, offsets) in prepared {
            for (partition, offset) in offsets {
                let group = (!is_single).then_some(group.as_str());
                let numbers = [partition.partition.to_string(), offset.to_string()];
                lines.write_record(group.into_iter().chain([&*partition.topic, &numbers[0], &numbers[1]]))?;
            }
        }
        lines.flush()?;
        drop(lines);
        return writeln!(out);
    }
    // Kafka 3.8 and 3.9 forget the line ends between the rows; all other releases, and this tool, write them.
    let mut rows = vec![["GROUP", "TOPIC", "PARTITION", "NEW-OFFSET"].map(str::to_owned).to_vec()];
    for (group, offsets) in prepared {
        for (partition, offset) in offsets {
            let numbers = [partition.partition.to_string(), offset.to_string()];
            rows.push([group.clone(), partition.topic.to_string()].into_iter().chain(numbers).collect());
        }
    }
    writeln!(out)?;
    print_rows(&rows, &[30, 30, 10, 15], out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What java.time.Duration.parse of JDK 17 says.
    #[test]
    fn durations_are_those_of_java() {
        #[rustfmt::skip]
        let read = [
            ("P1DT2H3M4.5S", 93_784_500), ("pt1s", 1000), ("p1dt2h", 93_600_000), ("P1Dt", 86_400_000),
            ("-P1D", -86_400_000), ("+P1D", 86_400_000), ("P-1D", -86_400_000), ("P+1D", 86_400_000),
            ("-P-1D", 86_400_000), ("PT-1H30M", -1_800_000), ("-PT-6H+3M", 21_420_000), ("-PT1.25S", -1250),
            ("PT0.5S", 500), ("PT-0.5S", -500), ("PT1.S", 1000), ("PT1,5S", 1500), ("PT1.123456789S", 1123),
            ("PT+1.5S", 1500), ("PT1.0005S", 1000), ("PT-1.9999S", -1999), ("PT1M", 60_000),
        ];
        for (text, ms) in read {
            assert_eq!(parse_duration_ms(text).ok(), Some(ms), "{text}");
        }
        #[rustfmt::skip]
        let refused = [
            "", "P", "PT", "Pt", "1D", "PT.5S", "PT1.1234567891S", "P1W", "P1Y", "P1M", "PT1D", "P1H", " PT1S", "PT1S ",
            "P1DT", "--PT1S", "PT1.5M", "P9223372036854775807D", "PT9223372036854775808S", "PT1H1H", "PT1S1M", "P1D2H",
            "P\u{661}D", "PT1\u{17f}",
        ];
        for text in refused {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }

    /// What Kafka 3.9.1 says on JDK 17.
    #[test]
    fn times_are_those_of_kafka() {
        #[rustfmt::skip]
        let read = [
            ("1970-01-02T00:00:00.123", 86_400_123), ("1970-01-01T00:00:00.5", 5), ("1970-01-01T00:00:00.50", 50),
            ("1970-01-01T00:00:00.000Z", 0), ("1970-01-01T01:00:00.000+01:00", 0), ("1970-01-01T01:00:00.000+0100", 0),
            ("1970-01-01T01:00:00.000+01", 0), ("1970-01-01T00:00:00.000-05:00", 18_000_000),
            ("1970-01-01T00:00:00.000-05:30", 19_800_000), ("1970-1-1T1:2:3.4", 3_723_004),
            ("2024-02-29T12:00:00.999", 1_709_208_000_999),
        ];
        for (text, ms) in read {
            assert_eq!(parse_datetime_ms(text).ok(), Some(ms), "{text}");
        }
        #[rustfmt::skip]
        let refused = [
            "1970-01-01T00:00:00", "1970-01-01T00:00:00.1234", "1970-01-01T00:00:00Z", "1970-01-01T01:00:00.000+1",
            "1970-13-01T00:00:00.000", "1970-02-30T00:00:00.000", "1970-01-01T24:00:00.000", "1970-01-01T23:59:60.000",
            "1970-01-01t00:00:00.000", "1970-01-01 00:00:00.000", "1970-01-01", "1970-01-01T00:00:00,000",
            "1970-01-01T00:00:00.000z", "19700101T000000.000", "1970-01-01T00:00:00.000T", "T", "1970-01-01T",
            "1970-01-01T00:00:00.000+24:00", "1970-01-01T00:00:00.000+23:59", "1970-01-01T00:00",
            "+1970-01-01T00:00:00.000", "-1970-01-01T00:00:00.000",
            // Java reads these as far as it understands them.
            "1970-01-01T01:30:00.000+0130", "1970-01-01T01:00:00.000+01:60", "1970-01-01T01:00:00.000Zjunk",
        ];
        for text in refused {
            assert!(parse_datetime_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn plans_come_with_and_without_groups() {
        let partition = TopicPartition::new("t", 1);
        let single = parse_plan("t,1,5\n", &["g"]).unwrap();
        assert_eq!(single["g"], Offsets::from([(partition.clone(), 5)]));
        let many = parse_plan("\"a,b\",t,1,5\nc,t,1,6\n", &["x", "y"]).unwrap();
        assert_eq!((many["a,b"][&partition], many["c"][&partition]), (5, 6));
        assert!(parse_plan("t,1\n", &["g"]).is_err());
        assert!(parse_plan("t,1,x\n", &["g"]).is_err());
        let mut out = Vec::new();
        print_reset(&many, true, false, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\"a,b\",t,1,5\nc,t,1,6\n\n");
    }

    #[test]
    fn new_offsets_stay_within_the_log() {
        let partition = |id| TopicPartition::new("t", id);
        let requested = Offsets::from([(partition(0), 1), (partition(1), 50), (partition(2), 500)]);
        let starts: Offsets = requested.keys().map(|p| (p.clone(), 10)).collect();
        let ends: Offsets = requested.keys().map(|p| (p.clone(), 100)).collect();
        let clamped: Vec<i64> = clamp(&requested, &starts, &ends).into_values().collect();
        assert_eq!(clamped, [10, 50, 100]);
    }
}
