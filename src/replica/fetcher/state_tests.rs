//! One fetcher against a leader whose every word the test chooses.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::log::leader_epochs::EpochEnd;
use crate::model::{LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::protocol::messages::fetch::{
    EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData,
};
use crate::replica::fetcher::state::{
    Answer, Done, Fetcher, Next, Question, Settings, Settled, Start, Task, Trouble, Work,
};
use crate::replica::follower::Position;

const BACKOFF: Duration = Duration::from_millis(1_000);
const ID: TopicId = TopicId([7; 16]);
const SESSION: i32 = 77;

fn at(ms: u64) -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_millis(ms)
}

fn settings() -> Settings {
    Settings {
        name: "fetcher".to_owned(),
        wait_max_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        response_max_bytes: 10 << 20,
        backoff: BACKOFF,
        has_sessions: true,
        has_topic_ids: true,
        truncates_on_fetch: true,
        asks_for_epochs: true,
    }
}

fn tp(number: i32) -> TopicPartition {
    TopicPartition::new("t", number)
}

fn position(end: i64, high_watermark: i64, last_epoch: i32) -> Position {
    Position {
        log_start_offset: Offset(0),
        high_watermark: Offset(high_watermark),
        log_end_offset: Offset(end),
        last_epoch: (last_epoch >= 0).then_some(LeaderEpoch(last_epoch)),
    }
}

fn start(epoch: i32, position: Position) -> Start {
    Start { topic_id: ID, leader_epoch: LeaderEpoch(epoch), position, is_throttled: false }
}

/// Partitions 0 to `count - 1`, each followed in epoch 5 with 10 records of epoch 4, of which 8 are known to be committed.
fn following(settings: Settings, count: i32) -> Fetcher {
    let mut fetcher = Fetcher::new(settings);
    (0..count).for_each(|number| fetcher.follow(tp(number), &start(5, position(10, 8, 4))));
    fetcher
}

fn fetch(fetcher: &mut Fetcher, now: Instant) -> FetchRequest {
    match fetcher.next(now, false) {
        Next::Ask(Question::Fetch { request, .. }) => request,
        other => panic!("a fetch is due: {other:?}"),
    }
}

/// What a fetch names: partition, offset, current epoch, last epoch.
fn named(request: &FetchRequest) -> Vec<(i32, i64, i32, i32)> {
    let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|p| (p.partition, p.fetch_offset, p.current_leader_epoch, p.last_fetched_epoch)).collect()
}

fn forgotten(request: &FetchRequest) -> Vec<i32> {
    request.forgotten_topics_data.iter().flat_map(|topic| topic.partitions.clone()).collect()
}

fn data(number: i32, error: ErrorCode) -> PartitionData {
    PartitionData {
        partition_index: number,
        error_code: error.code(),
        high_watermark: 8,
        log_start_offset: 0,
        records: Some(Payload::Bytes(Bytes::new())),
        ..Default::default()
    }
}

fn with_records(number: i32) -> PartitionData {
    PartitionData { records: Some(Payload::Bytes(Bytes::from_static(b"records"))), ..data(number, ErrorCode::None) }
}

fn answer(partitions: Vec<PartitionData>) -> FetchResponse {
    let topic = FetchableTopicResponse { topic_id: ID, partitions, ..Default::default() };
    FetchResponse { session_id: SESSION, responses: vec![topic], ..Default::default() }
}

/// The first answer of a session: nothing new of any of them.
fn begun(settings: Settings, count: i32) -> Fetcher {
    let mut fetcher = following(settings, count);
    let request = fetch(&mut fetcher, at(0));
    assert_eq!((request.session_id, request.session_epoch), (0, 0));
    let nothing = (0..count).map(|number| data(number, ErrorCode::None)).collect();
    assert!(fetcher.on_fetched(answer(nothing), at(0)).is_empty());
    fetcher
}

fn settled(work: &Work, position: Position) -> Done {
    let outcome = Ok(Settled { position, must_ask_again: false });
    Done { partition: work.partition.clone(), stay: work.stay, outcome }
}

fn troubled(work: &Work, trouble: Trouble) -> Done {
    Done { partition: work.partition.clone(), stay: work.stay, outcome: Err(trouble) }
}

fn only(works: Vec<Work>) -> Work {
    let [work] = <[Work; 1]>::try_from(works).expect("one piece of work");
    work
}

fn until(next: Next) -> Option<Instant> {
    match next {
        Next::Wait(until) => until,
        other => panic!("there is nothing to do: {other:?}"),
    }
}

#[test]
fn a_session_names_all_once_and_then_what_has_changed() {
    let mut fetcher = following(settings(), 3);
    let Next::Ask(Question::Fetch { request, uses_topic_ids }) = fetcher.next(at(0), false) else {
        panic!("a fetch is due")
    };
    assert!(uses_topic_ids);
    assert_eq!(request.topics.len(), 1);
    assert_eq!((request.topics[0].topic.as_str(), request.topics[0].topic_id), ("", ID));
    assert_eq!(named(&request), [(0, 10, 5, 4), (1, 10, 5, 4), (2, 10, 5, 4)]);
    assert_eq!(request.topics[0].partitions[0].partition_max_bytes, 1 << 20);
    assert_eq!((request.max_wait_ms, request.min_bytes, request.max_bytes), (500, 1, 10 << 20));
    let works =
        fetcher.on_fetched(answer(vec![data(0, ErrorCode::None), with_records(1), data(2, ErrorCode::None)]), at(1));
    let work = only(works);
    let Task::Append(from_leader) = &work.task else { panic!("{work:?}") };
    assert_eq!(
        (work.partition.clone(), from_leader.fetch_offset, work.leader_epoch),
        (tp(1), Offset(10), LeaderEpoch(5))
    );
    fetcher.on_done(vec![settled(&work, position(12, 8, 5))], at(1));
    let request = fetch(&mut fetcher, at(1));
    assert_eq!((request.session_id, request.session_epoch), (SESSION, 1));
    assert_eq!(named(&request), [(1, 12, 5, 5)]);
    assert!(fetcher.on_fetched(answer(Vec::new()), at(2)).is_empty());
    let request = fetch(&mut fetcher, at(2));
    assert_eq!((request.session_epoch, named(&request)), (2, Vec::new()), "nothing has changed");
    // One goes, one comes.
    fetcher.on_fetched(answer(Vec::new()), at(3));
    fetcher.unfollow(&tp(0));
    fetcher.follow(tp(9), &start(5, position(0, 0, 0)));
    let request = fetch(&mut fetcher, at(3));
    assert_eq!((named(&request), forgotten(&request)), (vec![(9, 0, 5, 0)], vec![0]));
}

#[test]
fn the_high_watermark_and_the_start_of_the_leaders_log_are_news_without_records() {
    for (news, expected) in [
        (PartitionData { high_watermark: 9, ..data(0, ErrorCode::None) }, true),
        (PartitionData { log_start_offset: 3, ..data(0, ErrorCode::None) }, true),
        (PartitionData { high_watermark: 7, ..data(0, ErrorCode::None) }, false),
    ] {
        let mut fetcher = begun(settings(), 1);
        fetch(&mut fetcher, at(0));
        assert_eq!(!fetcher.on_fetched(answer(vec![news.clone()]), at(0)).is_empty(), expected, "{news:?}");
    }
    // What lies beyond the end of this log is not committed here.
    let mut fetcher = Fetcher::new(settings());
    fetcher.follow(tp(0), &start(5, position(10, 10, 4)));
    fetch(&mut fetcher, at(0));
    let ahead = PartitionData { high_watermark: 50, ..data(0, ErrorCode::None) };
    assert!(fetcher.on_fetched(answer(vec![ahead]), at(0)).is_empty());
}

/// The table of errors: what becomes of the one partition, while the other goes on.
#[test]
fn each_error_of_a_partition_is_its_own() {
    enum Then {
        Delayed,
        Failed,
        AsksForOffsets,
    }
    use Then::{AsksForOffsets, Delayed, Failed};
    for (error, then) in [
        (ErrorCode::FencedLeaderEpoch, Failed),
        (ErrorCode::UnknownLeaderEpoch, Delayed),
        (ErrorCode::NotLeaderOrFollower, Delayed),
        (ErrorCode::UnknownTopicOrPartition, Delayed),
        (ErrorCode::UnknownTopicId, Delayed),
        (ErrorCode::InconsistentTopicId, Delayed),
        (ErrorCode::KafkaStorageError, Delayed),
        (ErrorCode::CorruptMessage, Delayed),
        (ErrorCode::UnknownServerError, Delayed),
        (ErrorCode::OffsetOutOfRange, AsksForOffsets),
    ] {
        let mut fetcher = begun(settings(), 2);
        fetch(&mut fetcher, at(0));
        let work = only(fetcher.on_fetched(answer(vec![data(0, error), with_records(1)]), at(0)));
        fetcher.on_done(vec![settled(&work, position(11, 8, 5))], at(0));
        match then {
            AsksForOffsets => {
                let next = fetcher.next(at(0), false);
                assert!(matches!(next, Next::Ask(Question::Offsets(_))), "{error}: {next:?}");
                continue;
            }
            Delayed | Failed => {}
        }
        let request = fetch(&mut fetcher, at(0));
        assert_eq!((named(&request), forgotten(&request)), (vec![(1, 11, 5, 5)], vec![0]), "{error}");
        fetcher.on_fetched(answer(Vec::new()), at(500));
        assert_eq!(named(&fetch(&mut fetcher, at(999))), [], "{error}");
        fetcher.on_fetched(answer(Vec::new()), at(1_000));
        let again = named(&fetch(&mut fetcher, at(1_000)));
        match then {
            Delayed => assert_eq!(again, [(0, 10, 5, 4)], "{error}"),
            _ => assert_eq!((again, fetcher.failures()), (Vec::new(), 1), "{error}"),
        }
    }
}

#[test]
fn a_failed_partition_is_fetched_again_once_it_is_followed_under_another_epoch() {
    let mut fetcher = begun(settings(), 1);
    fetch(&mut fetcher, at(0));
    fetcher.on_fetched(answer(vec![data(0, ErrorCode::FencedLeaderEpoch)]), at(0));
    assert_eq!(until(fetcher.next(at(10_000), false)), None);
    fetcher.follow(tp(0), &start(6, position(10, 8, 4)));
    assert_eq!(named(&fetch(&mut fetcher, at(10_000))), [(0, 10, 6, 4)]);
}

#[test]
fn one_that_is_followed_already_under_that_epoch_goes_on_as_it_is() {
    let mut fetcher = begun(settings(), 1);
    fetcher.follow(tp(0), &start(5, position(3, 3, 1)));
    assert_eq!(named(&fetch(&mut fetcher, at(0))), []);
}

type Change = (&'static str, fn(&mut Fetcher));

#[test]
fn the_answer_to_what_was_asked_before_a_change_is_dropped() {
    let changes: [Change; 3] = [
        ("it is not followed any more", |fetcher| fetcher.unfollow(&tp(0))),
        ("it is followed in another epoch", |fetcher| fetcher.follow(tp(0), &start(6, position(10, 8, 4)))),
        ("it went and came back as it was", |fetcher| {
            fetcher.unfollow(&tp(0));
            fetcher.follow(tp(0), &start(5, position(10, 8, 4)));
        }),
    ];
    for (what, change) in changes {
        for late in [
            with_records(0),
            data(0, ErrorCode::FencedLeaderEpoch),
            data(0, ErrorCode::OffsetOutOfRange),
            PartitionData { diverging_epoch: EpochEndOffset { epoch: 3, end_offset: 2 }, ..data(0, ErrorCode::None) },
        ] {
            let mut fetcher = begun(settings(), 1);
            fetch(&mut fetcher, at(0));
            change(&mut fetcher);
            assert!(fetcher.on_fetched(answer(vec![late]), at(0)).is_empty(), "{what}");
            assert_eq!(fetcher.failures(), 0, "{what}");
        }
        // What was done to its log before the change says nothing about the log after it.
        let mut fetcher = begun(settings(), 1);
        fetch(&mut fetcher, at(0));
        let work = only(fetcher.on_fetched(answer(vec![with_records(0)]), at(0)));
        change(&mut fetcher);
        fetcher.on_done(vec![settled(&work, position(99, 99, 5))], at(0));
        if !fetcher.is_empty() {
            let request = fetch(&mut fetcher, at(0));
            assert_eq!(named(&request)[0].1, 10, "{what}");
        }
    }
}

#[test]
fn a_partition_that_an_answer_names_twice_is_taken_once() {
    let mut fetcher = begun(settings(), 1);
    fetch(&mut fetcher, at(0));
    assert_eq!(fetcher.on_fetched(answer(vec![with_records(0), with_records(0)]), at(0)).len(), 1);
}

#[test]
fn a_leader_that_is_not_reached_is_asked_for_all_after_a_pause() {
    let mut fetcher = begun(settings(), 2);
    fetch(&mut fetcher, at(0));
    fetcher.on_unreachable(at(100));
    assert_eq!(until(fetcher.next(at(100), false)), Some(at(1_100)));
    let request = fetch(&mut fetcher, at(1_100));
    assert_eq!((request.session_id, request.session_epoch), (SESSION, 0), "the leader may close the old one");
    assert_eq!(named(&request).len(), 2);
}

#[test]
fn a_session_that_the_leader_does_not_share_is_begun_anew() {
    for (error, id, is_paused) in [
        (ErrorCode::FetchSessionIdNotFound, 0, false),
        (ErrorCode::InvalidFetchSessionEpoch, SESSION, false),
        (ErrorCode::FetchSessionTopicIdError, SESSION, false),
        (ErrorCode::UnknownServerError, SESSION, true),
    ] {
        let mut fetcher = begun(settings(), 2);
        fetch(&mut fetcher, at(0));
        let refusal = FetchResponse { error_code: error.code(), ..Default::default() };
        assert!(fetcher.on_fetched(refusal, at(0)).is_empty());
        if is_paused {
            assert_eq!(until(fetcher.next(at(0), false)), Some(at(1_000)));
        }
        let request = fetch(&mut fetcher, at(if is_paused { 1_000 } else { 0 }));
        assert_eq!((request.session_id, request.session_epoch, named(&request).len()), (id, 0, 2), "{error}");
    }
    // An answer about others, or about fewer than it must be about.
    let mut fetcher = begun(settings(), 2);
    fetch(&mut fetcher, at(0));
    assert!(fetcher.on_fetched(answer(vec![with_records(5)]), at(0)).is_empty());
    assert_eq!(fetch(&mut fetcher, at(1_000)).session_epoch, 0);
    assert!(fetcher.on_fetched(answer(vec![with_records(0)]), at(1_000)).is_empty());
    assert_eq!(fetch(&mut fetcher, at(2_000)).session_epoch, 0);
    // The leader has no room for a session: all are named each time.
    let all = || vec![data(0, ErrorCode::None), data(1, ErrorCode::None)];
    fetcher.on_fetched(FetchResponse { session_id: 0, ..answer(all()) }, at(2_000));
    let request = fetch(&mut fetcher, at(2_000));
    assert_eq!((request.session_id, request.session_epoch, named(&request).len()), (0, 0, 2));
}

#[test]
fn a_topic_without_an_id_makes_the_request_name_topics() {
    let mut fetcher = begun(settings(), 1);
    let start = Start { topic_id: TopicId::ZERO, ..start(5, position(10, 8, 4)) };
    fetcher.follow(TopicPartition::new("old", 0), &start);
    let Next::Ask(Question::Fetch { request, uses_topic_ids }) = fetcher.next(at(0), false) else {
        panic!("a fetch is due")
    };
    assert!(!uses_topic_ids);
    assert_eq!((request.session_id, request.session_epoch), (SESSION, 0), "a session is of one kind");
    assert_eq!(request.topics.iter().map(|topic| topic.topic.as_str()).collect::<Vec<_>>(), ["old", "t"]);
    // The controller keeps ids from now on.
    fetcher.set_topic_id(&TopicPartition::new("old", 0), TopicId([9; 16]));
    let mut all = answer(vec![data(0, ErrorCode::None)]);
    all.responses[0].topic = "t".to_owned();
    let mut old = all.responses[0].clone();
    old.topic = "old".to_owned();
    all.responses.push(old);
    fetcher.on_fetched(all, at(0));
    let Next::Ask(Question::Fetch { request, uses_topic_ids }) = fetcher.next(at(0), false) else {
        panic!("a fetch is due")
    };
    assert!(uses_topic_ids);
    assert_eq!(request.session_epoch, 0);
}

#[test]
fn a_topic_that_was_made_again_is_forgotten_under_its_old_id() {
    let mut fetcher = begun(settings(), 1);
    fetcher.unfollow(&tp(0));
    fetcher.follow(tp(0), &Start { topic_id: TopicId([9; 16]), ..start(0, position(0, 0, 0)) });
    let request = fetch(&mut fetcher, at(0));
    assert_eq!(request.topics[0].topic_id, TopicId([9; 16]));
    assert_eq!((request.forgotten_topics_data[0].topic_id, forgotten(&request)), (ID, vec![0]));
}

/// As the protocol of 2.8 has it: controllers give ids, and fetches have no place for them.
#[test]
fn a_partition_that_is_asked_for_by_its_name_is_not_forgotten_when_its_topic_gets_an_id() {
    let by_name = || Settings { has_topic_ids: false, ..settings() };
    let begun = || {
        let mut fetcher = Fetcher::new(by_name());
        fetcher.follow(tp(0), &Start { topic_id: TopicId::ZERO, ..start(5, position(10, 8, 4)) });
        fetch(&mut fetcher, at(0));
        let mut told = answer(vec![data(0, ErrorCode::None)]);
        (told.responses[0].topic, told.responses[0].topic_id) = ("t".to_owned(), TopicId::ZERO);
        fetcher.on_fetched(told, at(0));
        fetcher
    };
    let in_session = |request: &FetchRequest| (request.session_epoch > 0, named(request).len(), forgotten(request));

    let mut fetcher = begun();
    fetcher.follow(tp(0), &start(6, position(10, 8, 4)));
    assert_eq!(in_session(&fetch(&mut fetcher, at(0))), (true, 1, vec![]));

    let mut fetcher = begun();
    fetcher.set_topic_id(&tp(0), ID);
    assert_eq!(in_session(&fetch(&mut fetcher, at(0))), (true, 1, vec![]));

    // Not asked for while it waits, and before another is asked for.
    let mut fetcher = begun();
    let mut told = answer(vec![data(0, ErrorCode::UnknownLeaderEpoch)]);
    told.responses[0].topic = "t".to_owned();
    fetcher.on_fetched(told, at(0));
    assert!(until(fetcher.next(at(0), false)).is_some());
    fetcher.set_topic_id(&tp(0), ID);
    assert_eq!(in_session(&fetch(&mut fetcher, at(2_000))), (true, 1, vec![]));
}

#[test]
fn an_answer_that_diverges_has_the_log_cut() {
    let mut fetcher = begun(settings(), 1);
    fetch(&mut fetcher, at(0));
    let diverging = EpochEndOffset { epoch: 3, end_offset: 6 };
    let parted = PartitionData { diverging_epoch: diverging, ..data(0, ErrorCode::None) };
    let work = only(fetcher.on_fetched(answer(vec![parted]), at(0)));
    let Task::TruncateByEpoch { leader, fallback } = work.task else { panic!("{work:?}") };
    let end = EpochEnd { epoch: LeaderEpoch(3), end_offset: Offset(6) };
    assert_eq!((leader, fallback), (end, Offset(10)));
    // Even if this settles nothing, the next answer will.
    let outcome = Ok(Settled { position: position(4, 4, 2), must_ask_again: true });
    fetcher.on_done(vec![Done { partition: tp(0), stay: work.stay, outcome }], at(0));
    assert_eq!(named(&fetch(&mut fetcher, at(0))), [(0, 4, 5, 2)]);
}

#[test]
fn before_truncation_on_fetch_the_leader_is_asked_where_the_last_epoch_ends() {
    let old = Settings { truncates_on_fetch: false, has_topic_ids: false, ..settings() };
    let mut fetcher = following(old, 2);
    let Next::Ask(Question::EpochEnds(request)) = fetcher.next(at(0), false) else { panic!("the leader is asked") };
    let asked = &request.topics[0].partitions;
    assert_eq!(asked.iter().map(|p| (p.current_leader_epoch, p.leader_epoch)).collect::<Vec<_>>(), [(5, 4), (5, 4)]);
    let end = |error, epoch, end_offset| Answer {
        error,
        value: EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end_offset) },
    };
    let answers = vec![
        (tp(0), end(ErrorCode::None, 3, 6)),
        (tp(1), end(ErrorCode::UnknownLeaderEpoch, -1, -1)),
        (tp(9), end(ErrorCode::None, 3, 6)),
    ];
    let work = only(fetcher.on_epoch_ends(answers, at(0)));
    let Task::TruncateByEpoch { fallback, .. } = work.task else { panic!("{work:?}") };
    assert_eq!(fallback, Offset(8), "the high watermark");
    let outcome = Ok(Settled { position: position(6, 6, 2), must_ask_again: true });
    fetcher.on_done(vec![Done { partition: tp(0), stay: work.stay, outcome }], at(0));
    let Next::Ask(Question::EpochEnds(request)) = fetcher.next(at(0), false) else { panic!("it is asked again") };
    assert_eq!(request.topics[0].partitions.len(), 1, "the other waits");
    assert_eq!(request.topics[0].partitions[0].leader_epoch, 2);
    let work = only(fetcher.on_epoch_ends(vec![(tp(0), end(ErrorCode::None, 2, 6))], at(0)));
    fetcher.on_done(vec![settled(&work, position(6, 6, 2))], at(0));
    assert_eq!(named(&fetch(&mut fetcher, at(0))), [(0, 6, 5, -1)], "no last epoch is told");
}

#[test]
fn a_log_without_epochs_is_cut_to_its_high_watermark() {
    for asks_for_epochs in [true, false] {
        let mut fetcher = Fetcher::new(Settings { asks_for_epochs, ..settings() });
        fetcher.follow(tp(0), &start(5, position(10, 8, -1)));
        let Next::Work(works) = fetcher.next(at(0), false) else { panic!("there is work") };
        let work = only(works);
        assert!(matches!(work.task, Task::Truncate(Offset(8))), "{work:?}");
        // The disk is full, say: it stays to be done.
        let passing = Trouble::Passing { why: "full".into(), position: position(9, 8, -1) };
        fetcher.on_done(vec![troubled(&work, passing)], at(0));
        assert_eq!(until(fetcher.next(at(0), false)), Some(at(1_000)));
        let Next::Work(works) = fetcher.next(at(1_000), false) else { panic!("there is work") };
        let work = only(works);
        assert!(matches!(work.task, Task::Truncate(Offset(8))), "{work:?}");
        fetcher.on_done(vec![settled(&work, position(8, 8, -1))], at(1_000));
        assert_eq!(named(&fetch(&mut fetcher, at(1_000))), [(0, 8, 5, -1)]);
    }
    let mut oldest = Fetcher::new(Settings { asks_for_epochs: false, truncates_on_fetch: false, ..settings() });
    oldest.follow(tp(0), &start(5, position(10, 8, 4)));
    let Next::Work(works) = oldest.next(at(0), false) else { panic!("there is work") };
    assert!(matches!(only(works).task, Task::Truncate(Offset(8))));
}

#[test]
fn out_of_range_is_settled_by_the_leaders_ends() {
    let out_of_range = || {
        let mut fetcher = begun(settings(), 1);
        fetch(&mut fetcher, at(0));
        assert!(fetcher.on_fetched(answer(vec![data(0, ErrorCode::OffsetOutOfRange)]), at(0)).is_empty());
        fetcher
    };
    let asked = |fetcher: &mut Fetcher, expected: i64| {
        let Next::Ask(Question::Offsets(request)) = fetcher.next(at(0), false) else { panic!("the leader is asked") };
        let partition = &request.topics[0].partitions[0];
        assert_eq!((partition.timestamp, partition.current_leader_epoch), (expected, 5));
    };
    let offset = |offset| vec![(tp(0), Answer { error: ErrorCode::None, value: Offset(offset) })];

    let mut fetcher = out_of_range();
    asked(&mut fetcher, -1);
    let work = only(fetcher.on_offsets(offset(7), at(0)));
    assert!(matches!(work.task, Task::Truncate(Offset(7))), "the leader ends before this log: {work:?}");

    let mut fetcher = out_of_range();
    asked(&mut fetcher, -1);
    assert!(fetcher.on_offsets(offset(90), at(0)).is_empty());
    asked(&mut fetcher, -2);
    let work = only(fetcher.on_offsets(offset(50), at(0)));
    assert!(matches!(work.task, Task::RestartAt(Offset(50))), "the leader starts behind this log: {work:?}");
    fetcher.on_done(vec![settled(&work, position(50, 50, -1))], at(0));
    assert_eq!(named(&fetch(&mut fetcher, at(0))), [(0, 50, 5, -1)]);

    let mut fetcher = out_of_range();
    asked(&mut fetcher, -1);
    assert!(fetcher.on_offsets(offset(90), at(0)).is_empty());
    asked(&mut fetcher, -2);
    assert!(fetcher.on_offsets(offset(10), at(0)).is_empty());
    assert_eq!(until(fetcher.next(at(0), false)), Some(at(1_000)), "in range after all, without a hurry");
    assert_eq!(named(&fetch(&mut fetcher, at(1_000))), [(0, 10, 5, 4)]);

    for (error, fails) in [(ErrorCode::FencedLeaderEpoch, true), (ErrorCode::NotLeaderOrFollower, false)] {
        let mut fetcher = out_of_range();
        asked(&mut fetcher, -1);
        assert!(fetcher.on_offsets(vec![(tp(0), Answer { error, value: Offset(-1) })], at(0)).is_empty());
        assert_eq!(until(fetcher.next(at(0), false)), (!fails).then_some(at(1_000)), "{error}");
        if !fails {
            asked_later(&mut fetcher);
        }
    }
    // An answer that leaves it out.
    let mut fetcher = out_of_range();
    asked(&mut fetcher, -1);
    assert!(fetcher.on_offsets(Vec::new(), at(0)).is_empty());
    asked_later(&mut fetcher);
}

fn asked_later(fetcher: &mut Fetcher) {
    assert_eq!(until(fetcher.next(at(0), false)), Some(at(1_000)));
    assert!(matches!(fetcher.next(at(1_000), false), Next::Ask(Question::Offsets(_))));
}

#[test]
fn what_the_log_refuses_is_tried_again_or_given_up() {
    // What came before the damage is in the log.
    let position = position(12, 8, 5);
    for (trouble, fails) in [
        (Trouble::Passing { why: "damaged on the way".into(), position }, false),
        (Trouble::Lasting("the directory is offline".into()), true),
        (Trouble::Overtaken, true),
    ] {
        let mut fetcher = begun(settings(), 1);
        fetch(&mut fetcher, at(0));
        let work = only(fetcher.on_fetched(answer(vec![with_records(0)]), at(0)));
        fetcher.on_done(vec![troubled(&work, trouble)], at(0));
        assert_eq!(until(fetcher.next(at(0), false)), (!fails).then_some(at(1_000)));
        if !fails {
            let request = fetch(&mut fetcher, at(1_000));
            assert_eq!((named(&request), forgotten(&request)), (vec![(0, 12, 5, 5)], Vec::new()));
        }
    }
}

#[test]
fn without_sessions_all_are_named_each_time_and_each_comes_first_in_turn() {
    let mut fetcher = following(Settings { has_sessions: false, has_topic_ids: false, ..settings() }, 3);
    for expected in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        let request = fetch(&mut fetcher, at(0));
        assert_eq!((request.session_id, request.session_epoch), (0, -1));
        let numbers: Vec<i32> = named(&request).iter().map(|named| named.0).collect();
        assert_eq!(numbers, expected);
        let mut all: Vec<PartitionData> = numbers.iter().map(|&number| data(number, ErrorCode::None)).collect();
        all[0] = with_records(numbers[0]);
        let mut response = FetchResponse { session_id: 0, ..answer(all) };
        response.responses[0].topic = "t".to_owned();
        let work = only(fetcher.on_fetched(response, at(0)));
        fetcher.on_done(vec![settled(&work, position(11, 8, 5))], at(0));
    }
}

#[test]
fn ten_thousand_idle_partitions_cost_a_request_of_none() {
    let mut fetcher = begun(settings(), 10_000);
    for round in 1..100 {
        let request = fetch(&mut fetcher, at(round));
        assert!(request.topics.is_empty() && request.forgotten_topics_data.is_empty());
        assert!(fetcher.on_fetched(answer(Vec::new()), at(round)).is_empty());
    }
}

#[test]
fn over_the_quota_throttled_partitions_that_are_not_in_sync_are_left_out() {
    let mut fetcher = Fetcher::new(settings());
    let throttled = Start { is_throttled: true, ..start(5, position(10, 8, 4)) };
    fetcher.follow(tp(0), &throttled);
    fetcher.follow(tp(1), &start(5, position(10, 8, 4)));
    let next = |fetcher: &mut Fetcher, ms, is_quota_exceeded| match fetcher.next(at(ms), is_quota_exceeded) {
        Next::Ask(Question::Fetch { request, .. }) => (named(&request), forgotten(&request)),
        other => panic!("a fetch is due: {other:?}"),
    };
    assert_eq!(next(&mut fetcher, 0, true).0, [(1, 10, 5, 4)], "nobody knows yet whether it is in sync");
    fetcher.on_fetched(answer(vec![data(1, ErrorCode::None)]), at(0));
    assert_eq!(next(&mut fetcher, 0, false), (vec![(0, 10, 5, 4)], Vec::new()));
    let behind = PartitionData { high_watermark: 50, ..data(0, ErrorCode::None) };
    let work = only(fetcher.on_fetched(answer(vec![behind]), at(0)));
    fetcher.on_done(vec![settled(&work, position(10, 10, 4))], at(0));
    assert_eq!(next(&mut fetcher, 0, true), (Vec::new(), vec![0]), "it is 40 records behind");
    fetcher.on_fetched(answer(Vec::new()), at(0));
    fetcher.set_throttled(&tp(0), false);
    assert_eq!(next(&mut fetcher, 0, true).0, [(0, 10, 5, 4)], "it is throttled no more");
    // In sync, it is fetched whatever the quota.
    fetcher.on_fetched(answer(vec![data(0, ErrorCode::None)]), at(0));
    fetcher.set_throttled(&tp(0), true);
    assert_eq!(next(&mut fetcher, 0, true), (Vec::new(), Vec::new()));
    // Until its leader says that there is more, and holds it back.
    let behind = PartitionData { high_watermark: 50, ..data(0, ErrorCode::None) };
    assert!(fetcher.on_fetched(answer(vec![behind]), at(0)).is_empty());
    assert_eq!(next(&mut fetcher, 0, true), (Vec::new(), vec![0]));
    fetcher.on_fetched(answer(Vec::new()), at(0));
    assert_eq!(next(&mut fetcher, 0, false), (vec![(0, 10, 5, 4)], Vec::new()), "the quota is kept again");
    fetcher.on_fetched(answer(Vec::new()), at(0));
    // With nothing else to fetch, the quota is looked at again soon.
    let mut alone = Fetcher::new(settings());
    alone.follow(tp(0), &throttled);
    assert_eq!(until(alone.next(at(0), true)), Some(at(1_000)));
}
