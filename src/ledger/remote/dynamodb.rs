//! DynamoDB as the shared store: what a question is on its wire, and what an answer says.
//!
//! By its JSON API, which a cluster of the proxy's signs: no key comes here. A record is one item, written whole on condition of its
//! mark `r`. The mark is a digest of the value and no counter: a value names its move, so no two writes share one, and an item
//! that was swept and made anew never has a mark of before, by which a write that is late, or a copy that is old, would pass for
//! current.
//!
//! Keys: `p` and `k`, both text. `k` is the record's name. `p` is the name behind the fleet's prefix, so that records spread over
//! the table, except for kinds that are listed: those of a fleet share one, in the order of `k`.
//!
//! Source: Amazon DynamoDB's API reference, version 2012-08-10.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::engine::{Call, Listed, MARGIN_SECONDS, Raw};
use super::{Ask, Kind, RecordKey, Revision, Told, Write};
use crate::evm::keccak256;
use crate::json;

/// True if DynamoDB is built in. Where it is not, a configuration that wants it is refused.
pub const IS_BUILT_IN: bool = cfg!(feature = "dynamodb");

/// The items of a fleet in a table of DynamoDB.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DynamoDb {
    table: String,
    prefix: String,
}

const GET_ITEM: &str = "DynamoDB_20120810.GetItem";
const PUT_ITEM: &str = "DynamoDB_20120810.PutItem";
const QUERY: &str = "DynamoDB_20120810.Query";

/// The name that a failed condition has, behind that of the API.
const CONDITION_FAILED: &str = "ConditionalCheckFailedException";

impl DynamoDb {
    /// The items of a fleet. Neither name needs to be escaped in JSON.
    pub fn new(table: &str, fleet: &str) -> Self {
        Self { table: table.to_owned(), prefix: format!("x402:{fleet}:") }
    }

    /// Returns what tells its items from others: table and prefix.
    pub fn place(&self) -> String {
        format!("{}/{}", self.table, self.prefix)
    }

    /// Returns the callout for a question.
    pub fn call(&self, ask: &Ask) -> Call {
        match ask {
            Ask::Read(key) => self.request(GET_ITEM, &format!(r#""Key":{{{}}},"ConsistentRead":true"#, self.key(key))),
            Ask::Write(write) => self.request(PUT_ITEM, &self.put(write)),
        }
    }

    /// Reads the answer to a question.
    pub fn read(ask: &Ask, raw: Raw<'_>) -> Told {
        Answer::read(raw).and_then(|answer| answer.told(ask)).unwrap_or(Told::Unknown)
    }

    /// Returns the callout for records of a kind that is listed, in the order of their names, behind the one of a name: at most so
    /// many.
    pub fn list(&self, kind: Kind, behind: Option<&[u8]>, most: u64) -> Call {
        let (partition, letter) = (self.partition(kind), kind.letter());
        let first = format!("{letter}:");
        let behind = behind.and_then(|name| str::from_utf8(name).ok()).unwrap_or(&first);
        self.request(
            QUERY,
            &format!(
                r#""KeyConditionExpression":"p = :p AND k > :k","ExpressionAttributeValues":{{":p":{{"S":"{partition}"}},":k":{{"S":"{behind}"}}}},"ProjectionExpression":"k, v","ConsistentRead":true,"Limit":{most}"#
            ),
        )
    }

    /// Reads the answer to [`Self::list`]; `None` where it is none.
    pub fn read_list(raw: Raw<'_>) -> Option<Listed> {
        let answer = Answer::read(raw).filter(Answer::is_done)?;
        let values = answer.items?.iter().map(Item::value).collect::<Option<_>>()?;
        let last = answer.last.and_then(|item| item.k.text).map(String::into_bytes);
        Some(Listed { values, has_more: last.is_some(), last })
    }

    /// Returns what an answer says that counts for nothing.
    pub fn failure(raw: Raw<'_>) -> String {
        let answer = Answer::read(raw).unwrap_or_default();
        let said = [answer.name().unwrap_or_default(), answer.message.as_deref().unwrap_or_default()];
        let said = said.into_iter().filter(|part| !part.is_empty()).map(|part| format!(": {part}"));
        format!("status {}{}", raw.status, said.collect::<String>())
    }

    fn request(&self, target: &'static str, what: &str) -> Call {
        // The capacity is asked for so that an answer never is an empty object, which anything could have sent.
        let body = format!(r#"{{"TableName":"{}",{what},"ReturnConsumedCapacity":"TOTAL"}}"#, self.table);
        let headers = [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", target)];
        Call { path: "/", headers, body: body.into_bytes() }
    }

    fn put(&self, write: &Write) -> String {
        let (key, value) = (self.key(&write.key), BASE64_STANDARD.encode(&write.value));
        let Revision(mark) = mark(&write.value);
        let ends = write.kept_until.map_or_else(String::new, |until| {
            format!(r#","t":{{"N":"{}"}}"#, until.as_secs().saturating_add(MARGIN_SECONDS))
        });
        let condition = match write.expected {
            Revision::ABSENT => r#""ConditionExpression":"attribute_not_exists(k)""#.to_owned(),
            Revision(seen) => {
                format!(r#""ConditionExpression":"r = :r","ExpressionAttributeValues":{{":r":{{"N":"{seen}"}}}}"#)
            }
        };
        format!(
            r#""Item":{{{key},"v":{{"B":"{value}"}},"r":{{"N":"{mark}"}}{ends}}},{condition},"ReturnValuesOnConditionCheckFailure":"ALL_OLD""#
        )
    }

    fn key(&self, key: &RecordKey) -> String {
        let name = key.name();
        let partition = match key.kind() {
            Kind::Channel => self.partition(Kind::Channel),
            _ => format!("{}{name}", self.prefix),
        };
        format!(r#""p":{{"S":"{partition}"}},"k":{{"S":"{name}"}}"#)
    }

    /// Returns the partition that all records of a kind share that is listed.
    fn partition(&self, kind: Kind) -> String {
        format!("{}{}", self.prefix, kind.letter())
    }
}

/// Returns the mark of a value: never 0, which stands for no record.
fn mark(value: &[u8]) -> Revision {
    let [a, b, c, d, e, f, g, h, ..] = keccak256(value);
    Revision(u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1))
}

/// What matters of an answer to any of the calls.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(skip)]
    status: u16,
    #[serde(rename = "Item")]
    item: Option<Item>,
    #[serde(rename = "Items")]
    items: Option<Vec<Item>>,
    /// The key of the last item that was looked at, if there may be more behind it.
    #[serde(rename = "LastEvaluatedKey")]
    last: Option<Item>,
    #[serde(rename = "ConsumedCapacity")]
    consumed: Option<IgnoredAny>,
    #[serde(rename = "__type")]
    kind: Option<String>,
    #[serde(alias = "Message")]
    message: Option<String>,
}

/// An item, or the parts of one that were asked for.
#[derive(Deserialize)]
struct Item {
    k: Attribute,
    v: Option<Attribute>,
    r: Option<Attribute>,
}

/// A value with its type.
#[derive(Deserialize)]
struct Attribute {
    #[serde(rename = "S")]
    text: Option<String>,
    #[serde(rename = "B")]
    bytes: Option<String>,
    #[serde(rename = "N")]
    number: Option<String>,
}

impl Answer {
    fn read(raw: Raw<'_>) -> Option<Self> {
        let answer = json::from_slice(raw.body).ok()?;
        Some(Self { status: raw.status, ..answer })
    }

    /// Returns whether what was asked for was done.
    fn is_done(&self) -> bool {
        self.status == 200 && self.consumed.is_some()
    }

    /// Returns whether nothing was done, since the condition does not hold.
    fn is_refused(&self) -> bool {
        self.status == 400 && self.name() == Some(CONDITION_FAILED)
    }

    /// Returns the name of the failure, without that of the API before it.
    fn name(&self) -> Option<&str> {
        self.kind.as_deref()?.rsplit('#').next()
    }

    fn told(&self, ask: &Ask) -> Option<Told> {
        match ask {
            Ask::Read(key) if self.is_done() => self.found(key),
            Ask::Write(write) if self.is_done() => Some(Told::Written(mark(&write.value))),
            // That there is no item would have been what was expected: this store does not tell which.
            Ask::Write(write) if write.expected == Revision::ABSENT && self.item.is_none() => None,
            Ask::Write(write) if self.is_refused() => self.found(&write.key),
            _ => None,
        }
    }

    fn found(&self, key: &RecordKey) -> Option<Told> {
        let Some(item) = &self.item else { return Some(Told::Found(None)) };
        let is_asked = item.k.text.as_ref().is_some_and(|name| *name == key.name());
        let mark = item.r.as_ref()?.number.as_ref()?.parse().ok().filter(|mark| is_asked && *mark > 0)?;
        Some(Told::Found(Some((item.value()?, Revision(mark)))))
    }
}

impl Item {
    fn value(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(self.v.as_ref()?.bytes.as_ref()?).ok()
    }
}
