//! The HTTP server of the metrics: `GET /metrics`. One thread; a slow scraper delays only scrapers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tiny_http::{Header, Method, Request, Response, Server};

use super::families::{Picture, families};
use super::{native, text};

/// A running endpoint; dropping it stops it.
pub struct Endpoint {
    server: Arc<Server>,
    address: Option<SocketAddr>,
    thread: Option<JoinHandle<()>>,
}

/// Why the endpoint cannot be.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be served at {address}: {why}")]
pub struct EndpointError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub why: String,
}

impl Endpoint {
    /// Serves what `look` sees at `address`.
    pub fn start(
        address: SocketAddr,
        look: impl Fn() -> Picture + Send + 'static,
    ) -> Result<Self, EndpointError> {
        let fail = |why: String| EndpointError { address, why };
        let server = Arc::new(Server::http(address).map_err(|error| fail(error.to_string()))?);
        let bound = server.server_addr().to_ip();
        let serving = Arc::clone(&server);
        let thread = std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                for request in serving.incoming_requests() {
                    answer(request, &look);
                }
            })
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self { server, address: bound, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // A panic there was already printed.
            let _ = thread.join();
        }
    }
}

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

fn answer(request: Request, look: &impl Fn() -> Picture) {
    let path = request.url().split('?').next().unwrap_or("");
    let response = if path != "/metrics" {
        Response::from_string("metrics are at /metrics\n").with_status_code(404)
    } else if !matches!(request.method(), Method::Get | Method::Head) {
        Response::from_string("only GET\n").with_status_code(405)
    } else {
        let families = families(&look());
        let (kind, body) = if wants_protobuf(&request) {
            (PROTOBUF, native::render(&families))
        } else {
            (TEXT, text::render(&families).into_bytes())
        };
        let response = Response::from_data(body);
        match Header::from_bytes("Content-Type", kind) {
            Ok(header) => response.with_header(header),
            Err(()) => response,
        }
    };
    // A scraper that went away gets no answer.
    let _ = request.respond(response);
}

fn wants_protobuf(request: &Request) -> bool {
    let accept = request.headers().iter().filter(|header| header.field.equiv("Accept"));
    accept.into_iter().any(|header| header.value.as_str().contains("application/vnd.google.protobuf"))
}
