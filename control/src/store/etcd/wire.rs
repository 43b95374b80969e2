//! etcd's v3 requests and answers as JSON: keys and values in base64, 64-bit numbers as text, what is zero
//! left out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

fn text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A number written as text, or as a number.
fn number<'d, D: Deserializer<'d>>(deserializer: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.ok_or_else(|| serde::de::Error::custom("not a whole number"))
}

fn bytes<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn key<'d, D: Deserializer<'d>>(deserializer: D) -> Result<String, D::Error> {
    String::from_utf8(bytes(deserializer)?).map_err(serde::de::Error::custom)
}

/// What every answer carries.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Header {
    /// Revision of the store.
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: i64,
}

/// A key and what stands under it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Pair {
    #[serde(deserialize_with = "key")]
    pub(super) key: String,
    #[serde(default, deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub(super) create_revision: i64,
    #[serde(default, deserialize_with = "number")]
    pub(super) mod_revision: i64,
}

/// The answer to a range.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Found {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<Pair>,
    #[serde(default)]
    pub(super) more: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Done {
    #[serde(default)]
    response_range: Option<Found>,
}

/// The answer to a transaction.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Outcome {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    responses: Vec<Done>,
}

impl Outcome {
    /// What the ranges of the branch that was taken found under a key.
    pub(super) fn pair(&self, key: &str) -> Option<&Pair> {
        let found = self.responses.iter().filter_map(|done| done.response_range.as_ref());
        found.flat_map(|found| &found.kvs).find(|pair| pair.key == key)
    }
}

/// The answer to a grant of a lease.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Granted {
    #[serde(rename = "ID", default, deserialize_with = "number")]
    pub(super) id: i64,
    /// Seconds; etcd raises what is too short for its elections.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub(super) ttl: i64,
}

/// The answer to a sign of life.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Kept {
    pub(super) result: Granted,
}

/// Any answer: that there is one is enough.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Ack {}

/// Request of the pairs of `from..to` as they were at `revision` (0: now), at most `limit`.
pub(super) fn range(from: &str, to: &str, revision: i64, limit: usize) -> Value {
    json!({
        "key": text(from.as_bytes()), "range_end": text(to.as_bytes()),
        "revision": revision.to_string(), "limit": limit.to_string(),
    })
}

/// Request of one pair.
pub(super) fn single(key: &str) -> Value {
    json!({ "key": text(key.as_bytes()) })
}

/// The end of the range of all keys that begin with `prefix`, which ends with a slash.
pub(super) fn end_of(prefix: &str) -> String {
    let stem = prefix.strip_suffix('/').unwrap_or(prefix);
    // The byte after the slash.
    format!("{stem}0")
}

/// A transaction under construction.
#[derive(Clone, Debug, Default)]
pub(super) struct Txn {
    compare: Vec<Value>,
    success: Vec<Value>,
    failure: Vec<Value>,
}

impl Txn {
    /// Only if the key was created at this revision (0: is not there).
    pub(super) fn if_created(mut self, key: &str, revision: i64) -> Self {
        self.compare.push(json!({
            "key": text(key.as_bytes()), "target": "CREATE", "result": "EQUAL",
            "create_revision": revision.to_string(),
        }));
        self
    }

    /// Only if the key was last changed at this revision (0: is not there).
    pub(super) fn if_changed(mut self, key: &str, revision: i64) -> Self {
        self.compare.push(json!({
            "key": text(key.as_bytes()), "target": "MOD", "result": "EQUAL",
            "mod_revision": revision.to_string(),
        }));
        self
    }

    /// Then puts a value under a key, tied to a lease (0: to none).
    pub(super) fn put(mut self, key: &str, value: &[u8], lease: i64) -> Self {
        let put = json!({
            "key": text(key.as_bytes()), "value": text(value), "lease": lease.to_string(),
        });
        self.success.push(json!({ "request_put": put }));
        self
    }

    /// Then does what another one does.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.success.extend(other.success);
        self
    }

    /// Then removes a key.
    pub(super) fn delete(mut self, key: &str) -> Self {
        self.success.push(json!({ "request_delete_range": single(key) }));
        self
    }

    /// Then removes all keys that begin with a prefix.
    pub(super) fn delete_all(mut self, prefix: &str) -> Self {
        let range = json!({ "key": text(prefix.as_bytes()), "range_end": text(end_of(prefix).as_bytes()) });
        self.success.push(json!({ "request_delete_range": range }));
        self
    }

    /// Otherwise reads a key.
    pub(super) fn or_read(mut self, key: &str) -> Self {
        self.failure.push(json!({ "request_range": single(key) }));
        self
    }

    /// The request.
    pub(super) fn request(&self) -> Value {
        json!({ "compare": self.compare, "success": self.success, "failure": self.failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_etcd_writes_them() {
        let text = r#"{"header":{"revision":"7"},"responses":[{"response_range":{"kvs":[{"key":"YQ==",
            "create_revision":"2","mod_revision":"5","value":"Yg==","lease":"9"}],"count":"1"}}]}"#;
        let outcome: Outcome = serde_json::from_str(text).expect("read");
        assert!(!outcome.succeeded, "what is false is left out");
        assert_eq!(outcome.header.revision, 7);
        let pair = outcome.pair("a").expect("there");
        assert_eq!((pair.create_revision, pair.mod_revision, pair.value.as_slice()), (2, 5, &b"b"[..]));
        assert!(
            serde_json::from_str::<Outcome>(r#"{"responses":[{"response_range":{"kvs":[{"key":"*"}]}}]}"#)
                .is_err()
        );
        assert!(serde_json::from_str::<Found>(r#"{"header":{"revision":"x"}}"#).is_err());
        let over: Kept = serde_json::from_str(r#"{"result":{"ID":"77"}}"#).expect("read");
        assert_eq!(over.result.ttl, 0, "a lease that ended has no time left");
    }

    #[test]
    fn a_prefix_ends_before_its_neighbours() {
        let (from, to) = ("palisade/rack/record/", end_of("palisade/rack/record/"));
        for inside in ["palisade/rack/record/a", "palisade/rack/record/\u{7f}"] {
            assert!(inside >= from && inside < to.as_str());
        }
        for outside in ["palisade/rack/record", "palisade/rack/records", "palisade/rack/recording/a"] {
            assert!(outside < from || outside >= to.as_str(), "{outside}");
        }
    }
}
