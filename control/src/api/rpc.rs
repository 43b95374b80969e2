//! JSON-RPC 2.0 envelopes and error codes. A request may carry `"api": N`, the version it was written
//! for; another major version than ours is refused, an absent one is taken as ours.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::API_VERSION;

/// An error as it travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// Code; see the constants.
    pub code: i64,
    /// For people.
    pub message: String,
}

/// Not JSON.
pub const PARSE: i64 = -32700;
/// Not a request.
pub const INVALID: i64 = -32600;
/// No such method.
pub const METHOD: i64 = -32601;
/// Parameters that do not fit the method.
pub const PARAMS: i64 = -32602;
/// Our fault, or our disk's.
pub const INTERNAL: i64 = -32603;
/// The rack's state forbids it.
pub const REFUSED: i64 = -32000;
/// What was named does not exist.
pub const NOT_FOUND: i64 = -32001;
/// It did not end in time.
pub const TIMEOUT: i64 = -32003;
/// Another API version.
pub const VERSION: i64 = -32010;

impl RpcError {
    /// An error of a code.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// [`REFUSED`].
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(REFUSED, message)
    }

    /// [`NOT_FOUND`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(NOT_FOUND, message)
    }
}

/// A request or notification as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// None: a notification, which gets no answer.
    pub id: Option<Value>,
    /// Method.
    pub method: String,
    /// Parameters; null when absent.
    pub params: Value,
}

/// Any message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A request or notification.
    Request(Request),
    /// An answer to ours.
    Response {
        /// Of the request.
        id: u64,
        /// How it ended.
        result: Result<Value, RpcError>,
    },
}

/// Why a line is no message, and the id to answer with, if one could be read.
pub type Malformed = (Value, RpcError);

/// Reads one message.
pub fn decode(line: &[u8]) -> Result<Message, Malformed> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| (Value::Null, RpcError::new(PARSE, format!("not JSON: {error}"))))?;
    let Value::Object(mut fields) = value else {
        return Err((
            Value::Null,
            RpcError::new(INVALID, "a message is one JSON object; batches are not taken"),
        ));
    };
    let id = fields.remove("id").filter(|id| id.is_number() || id.is_string());
    let answer_to = id.clone().unwrap_or(Value::Null);
    let invalid = |code, what: &str| Err((answer_to.clone(), RpcError::new(code, what)));
    if fields.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return invalid(INVALID, "`jsonrpc` must be \"2.0\"");
    }
    if let Some(version) = fields.get("api")
        && version.as_u64() != Some(u64::from(API_VERSION))
    {
        return invalid(VERSION, &format!("API version {version} is not served, only {API_VERSION}"));
    }
    match fields.remove("method") {
        Some(Value::String(method)) => {
            let params = fields.remove("params").unwrap_or(Value::Null);
            if !(params.is_null() || params.is_object()) {
                return invalid(PARAMS, "`params` must be an object");
            }
            Ok(Message::Request(Request { id, method, params }))
        }
        Some(_) => invalid(INVALID, "`method` must be a string"),
        None => response(id, fields),
    }
}

fn response(id: Option<Value>, mut fields: serde_json::Map<String, Value>) -> Result<Message, Malformed> {
    let Some(number) = id.as_ref().and_then(Value::as_u64) else {
        return Err((id.unwrap_or(Value::Null), RpcError::new(INVALID, "neither a method nor an answer")));
    };
    let result = match (fields.remove("error"), fields.remove("result")) {
        (Some(error), _) if !error.is_null() => Err(serde_json::from_value(error)
            .unwrap_or_else(|_| RpcError::new(INTERNAL, "the other side sent an unreadable error"))),
        (_, Some(result)) => Ok(result),
        _ => return Err((Value::from(number), RpcError::new(INVALID, "an answer has a result or an error"))),
    };
    Ok(Message::Response { id: number, result })
}

/// A request as it is sent.
pub fn request(id: u64, method: &str, params: Value) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "api": API_VERSION, "id": id, "method": method, "params": params })
        .to_string()
        .into_bytes()
}

/// A notification as it is sent.
pub fn notification(method: &str, params: Value) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "api": API_VERSION, "method": method, "params": params })
        .to_string()
        .into_bytes()
}

/// An answer as it is sent.
pub fn answer(id: &Value, result: Result<Value, RpcError>) -> Vec<u8> {
    match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
    }
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way_through_text() {
        let line = request(7, "rack.status", json!({"a": 1}));
        let wanted =
            Request { id: Some(json!(7)), method: "rack.status".to_owned(), params: json!({"a": 1}) };
        assert_eq!(decode(&line), Ok(Message::Request(wanted)));
        let line = answer(&json!(7), Err(RpcError::not_found("no such volume")));
        let wanted = Message::Response { id: 7, result: Err(RpcError::not_found("no such volume")) };
        assert_eq!(decode(&line), Ok(wanted));
    }

    #[test]
    fn malformed_messages_are_answered_by_their_code() {
        let table: [(&[u8], i64); 7] = [
            (b"{", PARSE),
            (b"\xff\xfe", PARSE),
            (b"[]", INVALID),
            (b"{\"id\":1,\"method\":\"x\"}", INVALID),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}", INVALID),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":[1]}", PARAMS),
            (b"{\"jsonrpc\":\"2.0\",\"api\":2,\"id\":1,\"method\":\"x\"}", VERSION),
        ];
        for (line, code) in table {
            let error = decode(line).expect_err("malformed").1;
            assert_eq!(error.code, code, "{}", String::from_utf8_lossy(line));
        }
    }
}
