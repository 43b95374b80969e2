//! Calls to etcd: its v3 API as JSON over HTTP, one bounded call at a time, by whichever endpoint answers.
//!
//! A call that found no answer at one endpoint is sent again to the next until its patience ends, so every
//! call made here bears being carried out twice. What nobody answered may still be carried out later: callers
//! say what that means to them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How long one endpoint may take before another is asked.
const TRY: Duration = Duration::from_secs(1);
/// Pause before the next try, when an endpoint failed at once.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest answer: a page of records is far below.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// gRPC codes that another try may mend: cancelled, unknown, deadline exceeded, aborted, unavailable.
const PASSING: [i64; 5] = [1, 2, 4, 10, 14];
/// gRPC code of what is not there.
const NOT_FOUND: i64 = 5;

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// Nobody answered in time: it may or may not have been carried out, now or later.
    #[error("etcd does not answer at {endpoints}: {what}")]
    Away {
        /// Where it was asked.
        endpoints: String,
        /// The last thing that went wrong.
        what: String,
    },
    /// etcd says no.
    #[error("etcd refuses: {what}")]
    Refused {
        /// gRPC code.
        code: i64,
        /// Its words.
        what: String,
    },
    /// Something answered that is no etcd, or none that we can read.
    #[error("etcd sent something that cannot be read: {0}")]
    Answer(String),
}

impl EtcdError {
    /// Whether what was asked for is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: NOT_FOUND, .. })
    }
}

/// What etcd says instead of an answer: flat, or within for calls that stream.
#[derive(Deserialize)]
struct Complaint {
    error: Value,
    #[serde(default)]
    code: i64,
}

impl Complaint {
    fn parts(&self) -> (i64, String) {
        let within = |key: &str| self.error.get(key);
        let code = within("grpc_code").and_then(Value::as_i64).unwrap_or(self.code);
        let what = within("message").unwrap_or(&self.error);
        (code, what.as_str().map_or_else(|| what.to_string(), str::to_owned))
    }
}

/// Speaks to one etcd, by any of its members.
pub(super) struct Gateway {
    agent: ureq::Agent,
    endpoints: Vec<String>,
    /// Which endpoint answered last.
    at: AtomicUsize,
    /// Longest wait for one call.
    pub(super) patience: Duration,
}

impl Gateway {
    /// `endpoints` are URLs without a path, at least one.
    pub(super) fn new(endpoints: &[String], patience: Duration) -> Self {
        assert!(!endpoints.is_empty(), "`check` refuses a rack without endpoints");
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.max_idle_age(Duration::from_secs(10)).build().into();
        Self { agent, endpoints: endpoints.to_vec(), at: AtomicUsize::new(0), patience }
    }

    /// Posts `body` to `path` (as in `kv/txn`) until somebody answers or the patience is over.
    pub(super) fn call<A: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<A, EtcdError> {
        self.call_within(path, body, self.patience)
    }

    /// The same with another patience.
    pub(super) fn call_within<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<A, EtcdError> {
        let deadline = Instant::now() + patience;
        loop {
            let at = self.at.load(Ordering::Relaxed) % self.endpoints.len();
            let began = Instant::now();
            let left = deadline.saturating_duration_since(began).max(Duration::from_millis(1));
            let what = match self.once(&self.endpoints[at], path, body, left.min(TRY)) {
                Ok(answer) => return answer,
                Err(what) => what,
            };
            // Another thread may have turned to the next one already.
            let next = (at + 1) % self.endpoints.len();
            let _ = self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            let rest = PAUSE.saturating_sub(began.elapsed());
            if Instant::now() + rest >= deadline {
                return Err(EtcdError::Away { endpoints: self.endpoints.join(", "), what });
            }
            std::thread::sleep(rest);
        }
    }

    /// One try: an answer, good or bad, or why there is none.
    fn once<A: DeserializeOwned>(
        &self,
        endpoint: &str,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Result<A, EtcdError>, String> {
        let request = self.agent.post(format!("{endpoint}/v3/{path}")).content_type("application/json");
        let request = request.config().timeout_global(Some(patience)).build();
        let said = |error: ureq::Error| error.to_string();
        let mut answer = request.send(body.to_string()).map_err(said)?;
        let status = answer.status();
        let bytes = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(said)?;
        if let Ok(complaint) = serde_json::from_slice::<Complaint>(&bytes) {
            let (code, what) = complaint.parts();
            if PASSING.contains(&code) || (status.is_server_error() && code == 0) {
                return Err(what);
            }
            return Ok(Err(EtcdError::Refused { code, what }));
        }
        if !status.is_success() {
            return Err(format!("{endpoint} answers {status}"));
        }
        Ok(serde_json::from_slice(&bytes).map_err(|error| EtcdError::Answer(error.to_string())))
    }
}
