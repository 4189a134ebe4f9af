//! DynamoDB as the shared store: its answers as moto's server gives them, a stand-in (`tests/vectors/dynamodb.mjs`), and answers that
//! mean nothing.

use serde_json::{Value, json};
use x402_proxy_wasm::ledger::remote::dynamodb::DynamoDb;
use x402_proxy_wasm::ledger::remote::engine::{Listed, Raw, Reply};
use x402_proxy_wasm::ledger::remote::{Ask, Engine, Kind, RecordKey, Revision, Told, Write};
use x402_proxy_wasm::time::UnixTime;

const RECORDED: &str = include_str!("../vectors/dynamodb.json");
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// The marks of the values "first" and "second".
const FIRST: Revision = Revision(7_579_065_295_404_874_810);
const SECOND: Revision = Revision(4_985_917_379_826_360_666);

fn engine() -> Engine {
    Engine::DynamoDb(DynamoDb::new("x402", "shop"))
}

fn claim() -> RecordKey {
    RecordKey::new(Kind::Claim, [0x11; 32])
}

fn channel(digit: u8) -> RecordKey {
    RecordKey::new(Kind::Channel, [digit * 0x11; 32])
}

fn write(key: RecordKey, value: &str, expected: Revision, kept_until: Option<UnixTime>) -> Ask {
    Ask::Write(Write { key, expected, value: value.as_bytes().to_vec(), kept_until })
}

fn found(value: &str, revision: Revision) -> Told {
    Told::Found(Some((value.as_bytes().to_vec(), revision)))
}

/// A step of what was recorded, by its name.
fn recorded(name: &str) -> Value {
    let whole: Value = serde_json::from_str(RECORDED).unwrap();
    let steps = whole["recorded"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("{name} is not recorded")).clone()
}

fn raw(status: u16, body: &str) -> Raw<'_> {
    Raw { status, body: body.as_bytes(), ..Raw::default() }
}

fn told(ask: &Ask, status: u16, body: &str) -> Told {
    match engine().read(ask, raw(status, body), NOW) {
        Reply::Told(told) => told,
        Reply::First(_) => panic!("nothing is to be called first"),
    }
}

#[test]
fn questions_are_written_as_they_were_recorded_and_their_answers_read() {
    let until = UnixTime::from_secs(1_900_000_000);
    let is_told = |name: &str, ask: &Ask, expected: &Told| {
        let step = recorded(name);
        let call = engine().call(ask, NOW);
        assert_eq!(call.path, "/");
        let target = format!("DynamoDB_20120810.{}", step["operation"].as_str().unwrap());
        assert_eq!(call.headers, [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", target.as_str())]);
        assert_eq!(serde_json::from_slice::<Value>(&call.body).unwrap(), step["request"], "{name}");
        let status = u16::try_from(step["status"].as_u64().unwrap()).unwrap();
        assert_eq!(&told(ask, status, step["text"].as_str().unwrap()), expected, "{name}");
    };
    let read = Ask::Read(claim());
    let nothing = Told::Found(None);
    is_told("a record that is not there is read", &read, &nothing);
    is_told("a record that is not there is written on", &write(claim(), "first", SECOND, None), &nothing);
    is_told("a record is made", &write(claim(), "first", Revision::ABSENT, Some(until)), &Told::Written(FIRST));
    is_told("a record is made again", &write(claim(), "second", Revision::ABSENT, None), &found("first", FIRST));
    is_told("a record is read", &read, &found("first", FIRST));
    let stale = write(claim(), "third", SECOND, None);
    is_told("a record is written on with an old mark", &stale, &found("first", FIRST));
    is_told("a record is written on", &write(claim(), "second", FIRST, None), &Told::Written(SECOND));
    for (name, digit) in [("a channel is made", 1), ("another channel is made", 2), ("a third channel is made", 3)] {
        let value = format!("channel {digit}");
        let step = recorded(name);
        let mark = step["request"]["Item"]["r"]["N"].as_str().unwrap().parse().unwrap();
        is_told(name, &write(channel(digit), &value, Revision::ABSENT, None), &Told::Written(Revision(mark)));
    }
}

#[test]
fn channels_are_listed_in_the_order_of_their_names() {
    let mut behind = None;
    let names = ["channels are listed", "channels behind one are listed", "channels behind the last are listed"];
    let mut pages = Vec::new();
    for name in names {
        let step = recorded(name);
        let call = engine().list(Kind::Channel, behind.as_deref(), 2);
        assert_eq!(serde_json::from_slice::<Value>(&call.body).unwrap(), step["request"], "{name}");
        let Listed { values, last, has_more } = engine().read_list(raw(200, step["text"].as_str().unwrap())).unwrap();
        pages
            .push((values.iter().map(|value| String::from_utf8(value.clone()).unwrap()).collect::<Vec<_>>(), has_more));
        behind = last.or_else(|| Some(channel(3).name().into_bytes()));
    }
    let expected = [(vec!["channel 1", "channel 2"], true), (vec!["channel 3"], false), (vec![], false)];
    assert_eq!(pages, expected.map(|(values, more)| (values.into_iter().map(str::to_owned).collect(), more)));
    for (status, body) in
        [(200, "{}"), (200, "[]"), (500, "{}"), (0, ""), (200, r#"{"Items":[{}],"ConsumedCapacity":1}"#)]
    {
        assert_eq!(engine().read_list(raw(status, body)), None, "{status} {body}");
    }
}

#[test]
fn an_answer_that_says_nothing_is_unknown() {
    let item = |change: &dyn Fn(&mut Value)| {
        let mut answer: Value = serde_json::from_str(recorded("a record is read")["text"].as_str().unwrap()).unwrap();
        change(&mut answer);
        answer.to_string()
    };
    let of_none = recorded("there is no such table");
    let cases = [
        (0, String::new()),
        (200, String::new()),
        (200, "{}".to_owned()),
        (200, "[]".to_owned()),
        (200, "<html></html>".to_owned()),
        (503, item(&|_| {})),
        (400, item(&|_| {})),
        (200, item(&|answer| answer["ConsumedCapacity"] = Value::Null)),
        (400, of_none["text"].as_str().unwrap().to_owned()),
        (400, json!({"__type": "com.amazon.coral.service#ThrottlingException", "message": "slow down"}).to_string()),
        (500, json!({"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"}).to_string()),
    ];
    for (status, body) in &cases {
        let asks = [
            write(claim(), "first", Revision::ABSENT, None),
            write(claim(), "second", FIRST, None),
            Ask::Read(claim()),
        ];
        for ask in asks {
            assert_eq!(told(&ask, *status, body), Told::Unknown, "{ask:?} {status} {body}");
        }
    }
    for spoilt in [
        item(&|answer| answer["Item"]["k"]["S"] = json!(channel(1).name())),
        item(&|answer| answer["Item"]["k"] = json!({})),
        item(&|answer| answer["Item"]["r"]["N"] = json!("0")),
        item(&|answer| answer["Item"]["r"]["N"] = json!("-1")),
        item(&|answer| answer["Item"]["r"]["N"] = json!(7)),
        item(&|answer| answer["Item"]["v"]["B"] = json!("%%%")),
        item(&|answer| answer["Item"]["v"] = json!({"S": "text"})),
    ] {
        assert_eq!(told(&Ask::Read(claim()), 200, &spoilt), Told::Unknown, "{spoilt}");
    }
    // A failed condition of a record that was not to be there, without the record: a store that does not tell.
    let silent = json!({"__type": "x#ConditionalCheckFailedException"}).to_string();
    assert_eq!(told(&write(claim(), "first", Revision::ABSENT, None), 400, &silent), Told::Unknown);
}

#[test]
fn the_log_is_told_why() {
    let step = recorded("there is no such table");
    let why = engine().failure(raw(400, step["text"].as_str().unwrap()));
    assert_eq!(why, "status 400: ResourceNotFoundException: Requested resource not found");
    assert_eq!(engine().failure(raw(0, "")), "none came in time");
    assert_eq!(engine().failure(raw(503, "no healthy upstream")), "status 503");
}

/// What is swept and made anew has another mark: neither a copy of before nor a write that is late passes for current.
#[test]
fn a_record_that_was_swept_and_made_anew_has_another_mark() {
    let mark = |value: &str| match told(
        &write(claim(), value, Revision::ABSENT, None),
        200,
        recorded("a record is made")["text"].as_str().unwrap(),
    ) {
        Told::Written(revision) => revision,
        other => panic!("{other:?}"),
    };
    assert_ne!(mark("move 1"), mark("move 2"));
    assert_eq!(mark("move 1"), mark("move 1"));
}
